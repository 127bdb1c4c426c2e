package dns

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	metricQueries  = prometheus.NewDesc("warren_dns_queries_total", "Answered queries.", []string{"zone", "type", "rcode"}, nil)
	metricDuration = prometheus.NewDesc("warren_dns_answer_seconds", "Time from receiving a query to sending its answer.", nil, nil)
	metricExternal = prometheus.NewDesc("warren_dns_external_total", "External answers by where they came from.", []string{"from"}, nil)
	metricNot      = prometheus.NewDesc("warren_dns_unanswered_total", "Queries that were refused or not answered, by reason.", []string{"reason"}, nil)
	metricAutopath = prometheus.NewDesc("warren_dns_autopath_total", "Answers in which autopath completed the search list of a Pod.", nil, nil)
	metricCache    = prometheus.NewDesc("warren_dns_cache_entries", "Answers in the cache.", nil, nil)
	metricBytes    = prometheus.NewDesc("warren_dns_cache_bytes", "Memory that the cached answers take.", nil, nil)
	metricRevision = prometheus.NewDesc("warren_dns_revision", "Store revision that cluster names are answered from.", nil, nil)
	metricBuild    = prometheus.NewDesc("warren_dns_build_seconds", "Time the newest snapshot took to become answers.", nil, nil)
	metricUp       = prometheus.NewDesc("warren_dns_upstream_up", "1 while an upstream is asked first, 0 while it is down or leads back to this server.", []string{"upstream"}, nil)
	metricUpSent   = prometheus.NewDesc("warren_dns_upstream_queries_total", "Queries sent to an upstream, by what became of them.", []string{"upstream", "result"}, nil)
	metricUpRTT    = prometheus.NewDesc("warren_dns_upstream_rtt_seconds", "Smoothed answer time of an upstream.", []string{"upstream"}, nil)
)

// Collectors are the server's metrics. Labels are bounded: names of clients and of questions are in none.
func (s *Server) Collectors() []prometheus.Collector { return []prometheus.Collector{collector{s}} }

type collector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{metricQueries, metricDuration, metricExternal, metricNot, metricAutopath, metricCache, metricBytes, metricRevision, metricBuild, metricUp, metricUpSent, metricUpRTT} {
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
	for name, of := range map[string]func(*counters) *atomic.Uint64{
		"cache": func(t *counters) *atomic.Uint64 { return &t.hits }, "stale": func(t *counters) *atomic.Uint64 { return &t.stale },
		"upstream": func(t *counters) *atomic.Uint64 { return &t.misses }, "failure": func(t *counters) *atomic.Uint64 { return &t.failures },
	} {
		counter(metricExternal, s.stats.sum(of), name)
	}
	counter(metricNot, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.refused })+s.stats.tcpRefused.Load(), "not allowed")
	counter(metricNot, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.limited }), "rate limit")
	counter(metricNot, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.malformed }), "no query")
	counter(metricNot, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.sendFailed }), "send failed")
	counter(metricNot, s.stats.overload.Load(), "too many waiting")
	counter(metricAutopath, s.stats.sum(func(t *counters) *atomic.Uint64 { return &t.autopath }))
	entries, bytes := s.cache.size()
	gauge(metricCache, float64(entries))
	gauge(metricBytes, float64(bytes))
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
		counter(metricUpSent, u.Mismatched, u.Name, "did not fit")
	}
}

func (c collector) queries(counter func(*prometheus.Desc, uint64, ...string)) {
	all := c.s.stats.all()
	for z, zone := range zoneNames {
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

// UpstreamState is one upstream as it is known now.
type UpstreamState struct {
	Name, Zone               string // Zone is "." for every name
	Down, Loop               bool
	RTT                      time.Duration
	Sent, Failed, Mismatched uint64
}

// Upstreams says how the upstreams are. One that serves several zones is listed once.
func (s *Server) Upstreams() []UpstreamState {
	var out []UpstreamState
	now, r := time.Now(), s.routes.Load()
	seen := map[string]bool{}
	for i, set := range r.sets() {
		zone := "."
		if i > 0 {
			zone = decodeName([]byte(r.stubs[i-1].zone))
		}
		for _, u := range set.members {
			if seen[u.name] {
				continue
			}
			seen[u.name] = true
			u.health.mu.Lock()
			out = append(out, UpstreamState{u.name, zone, now.Before(u.health.downUntil), u.looped.Load(), u.health.rtt, u.health.sent, u.health.failed, u.health.mismatched})
			u.health.mu.Unlock()
		}
	}
	return out
}
