package dns

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warrennet/warren/dns/forward"
	"github.com/warrennet/warren/dns/zone"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("warren_dns_"+name, help, labels, nil)
}

var (
	metricQueries    = desc("queries_total", "Answered queries.", "zone", "type", "rcode")
	metricDuration   = desc("answer_seconds", "Time from receiving a query to sending its answer.")
	metricExternal   = desc("external_total", "Answers to names outside the cluster domain, by source.", "from")
	metricUnanswered = desc("unanswered_total", "Queries that were refused or not answered, by reason.", "reason")
	metricAutopath   = desc("autopath_total", "Answers in which autopath completed the search list of a Pod.")
	metricCache      = desc("cache_entries", "Answers in the cache.")
	metricBytes      = desc("cache_bytes", "Memory of the answers in the cache.")
	metricRevision   = desc("revision", "Store revision of the cluster names.")
	metricBuild      = desc("build_seconds", "Time to compile the latest snapshot into the zone index.")
	metricUp         = desc("upstream_up", "1 while an upstream is healthy, 0 while it is down or in a forwarding loop.", "upstream")
	metricUpSent     = desc("upstream_queries_total", "Queries sent to an upstream, by result.", "upstream", "result")
	metricUpRTT      = desc("upstream_rtt_seconds", "Smoothed round trip time of an upstream.", "upstream")
)

// Collectors returns the server's metrics. Label values are bounded: none is the name of a client or of a question.
func (s *Server) Collectors() []prometheus.Collector { return []prometheus.Collector{collector{s}} }

type collector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{metricQueries, metricDuration, metricExternal, metricUnanswered,
		metricAutopath, metricCache, metricBytes,
		metricRevision, metricBuild, metricUp, metricUpSent, metricUpRTT} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.s
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	c.queries(counter)
	c.durations(ch)
	f := s.forward.Stats()
	counter(metricExternal, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.hits }), "cache")
	counter(metricExternal, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.stale }), "stale")
	counter(metricExternal, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.misses }), "upstream")
	counter(metricExternal, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.failures }), "failure")
	counter(metricUnanswered, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.refused })+s.stats.tcpRefused.Load(), "not allowed")
	counter(metricUnanswered, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.limited }), "rate limit")
	counter(metricUnanswered, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.malformed }), "malformed")
	counter(metricUnanswered, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.sendFailed }), "send failed")
	counter(metricUnanswered, s.tasks.refused.Load()+f.Refused, "overload")
	counter(metricAutopath, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.autopath }))
	gauge(metricCache, float64(f.CacheEntries))
	gauge(metricBytes, float64(f.CacheBytes))
	gauge(metricRevision, float64(s.stats.revision.Load()))
	gauge(metricBuild, time.Duration(s.stats.buildNs.Load()).Seconds())
	for _, u := range s.Upstreams() {
		up := 0.0
		if !u.Down && !u.Loop {
			up = 1
		}
		gauge(metricUp, up, u.Name)
		gauge(metricUpRTT, u.RTT.Seconds(), u.Name)
		counter(metricUpSent, u.Sent, u.Name, "sent")
		counter(metricUpSent, u.Failed, u.Name, "failed")
		counter(metricUpSent, u.Mismatched, u.Name, "mismatched")
	}
}

func (c collector) queries(counter func(*prometheus.Desc, uint64, ...string)) {
	all := c.s.stats.all()
	for z, zone := range zone.Kinds {
		for i, typ := range statTypes {
			for r, rcode := range statRcodes {
				var n uint64
				for _, t := range all {
					n += t.answers[z][i][r].Load()
				}
				if n > 0 {
					counter(metricQueries, n, zone, typ.name, rcode)
				}
			}
		}
	}
}

func (c collector) durations(ch chan<- prometheus.Metric) {
	var n, nanos uint64
	out := map[float64]uint64{}
	for i := range len(buckets) + 1 {
		for _, t := range c.s.stats.all() {
			n += t.times[i].Load()
		}
		if i < len(buckets) {
			out[buckets[i]/1e6] = n
		}
	}
	for _, t := range c.s.stats.all() {
		nanos += t.nanos.Load()
	}
	ch <- prometheus.MustNewConstHistogram(metricDuration, n, float64(nanos)/1e9, out)
}

// UpstreamState is the present state of one upstream.
type UpstreamState = forward.UpstreamState

// Upstreams returns the state of every upstream. An upstream of several zones is listed once.
func (s *Server) Upstreams() []UpstreamState { return s.forward.Upstreams() }
