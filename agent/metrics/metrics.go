// Package metrics serves the agent's Prometheus metrics.
//
// It owns two histograms; every other value is read from the agent's state at scrape time, so nothing is counted twice. It owns no
// goroutine but those of the HTTP server that Run joins.
package metrics

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/warrennet/warren/agent/datapath"
	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/tunnel"
)

// View is what the metrics show of the agent. Its methods may be called while the agent runs, from any goroutine.
type View interface {
	Status() api.Status
	// FromDisk reports whether the snapshot of the last run is in use.
	FromDisk() bool
	// FreeAddresses returns false for a family without a Pod CIDR.
	FreeAddresses(f model.Family) (free int, ok bool)
	// Frontends is the number of entries of the Service table.
	Frontends() int
	// Announcements returns false before the tunnel is up.
	Announcements() (announce.View, bool)
	// DNS returns the DNS server, nil while there is none.
	DNS() *dns.Server
}

// Metrics is the agent's collector. All values but the histograms are read from the agent's own state at scrape time.
type Metrics struct {
	view     View
	path     *datapath.Guard
	apply    prometheus.Histogram
	attach   prometheus.Histogram
	registry *prometheus.Registry
}

// New registers the collectors; view and path may be nil for Describe alone.
func New(view View, path *datapath.Guard) *Metrics {
	m := &Metrics{view: view, path: path, registry: prometheus.NewRegistry(),
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "warren_programming_duration_seconds",
			Help:    "Time from the arrival of a change at the node until it is applied to the data plane.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}}),
		attach: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "warren_cni_add_duration_seconds",
			Help:    "Time from the connection of the CNI plugin to the end of its ADD.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}})}
	m.registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Applied observes the time that a change took until it was applied.
func (m *Metrics) Applied(took time.Duration) { m.apply.Observe(took.Seconds()) }

// Attached observes the duration of a CNI ADD.
func (m *Metrics) Attached(took time.Duration) { m.attach.Observe(took.Seconds()) }

// Handler serves /metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Run serves /metrics on addr until ctx ends and every handler has returned. A port that cannot be opened is retried. "" serves none.
func (m *Metrics) Run(ctx context.Context, sockets *listen.Sockets, addr string) {
	if addr == "" {
		sockets.Keep(Role)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	sockets.ServeHTTP(ctx, "metrics", listen.Socket{Role: Role, Network: "tcp", Address: addr},
		func() *http.Server { return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second} })
}

// Role is that of the socket of the metrics.
const Role = "metrics"

var (
	metricReady = desc("warren_ready",
		"1 if the node can attach Pods.")
	metricStore = desc("warren_store_connected",
		"1 while the store is reachable.")
	metricRevision = desc("warren_snapshot_revision",
		"Store revision of the newest snapshot.")
	metricFromDisk = desc("warren_snapshot_from_disk",
		"1 while the snapshot of the last run is in use because the store or the API server has not answered "+
			"since the start.")
	metricApplied = desc("warren_applied_revision",
		"Store revision that was applied last.")
	metricProblems = desc("warren_problems",
		"Problems that `warren status` shows.")
	metricPods = desc("warren_pods",
		"Pods of this node.")
	metricFree = desc("warren_pod_addresses_free",
		"Free addresses for Pods of this node.", "family")
	metricMTU = desc("warren_tunnel_mtu_bytes",
		"MTU of the tunnel.")
	metricRx = desc("warren_peer_received_bytes_total",
		"Bytes received from a peer.", "peer")
	metricTx = desc("warren_peer_sent_bytes_total",
		"Bytes sent to a peer.", "peer")
	metricPath = desc("warren_peer_path_mtu_bytes",
		"Path MTU to a peer if it is below the MTU of both ends, else 0.", "peer")
	metricHandshake = desc("warren_peer_last_handshake_timestamp_seconds",
		"Time of the last handshake with a peer, 0 for never.", "peer")
)

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{metricReady, metricStore, metricRevision, metricFromDisk, metricApplied, metricProblems,
		metricPods,
		metricFree, metricMTU, metricRx, metricTx, metricPath, metricHandshake} {
		ch <- d
	}
	m.apply.Describe(ch)
	m.attach.Describe(ch)
	tunnelDescribe(ch)
	servicesDescribe(ch)
	announceDescribe(ch)
	for _, c := range (&dns.Server{}).Collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	st := m.view.Status()
	m.apply.Collect(ch)
	m.attach.Collect(ch)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(metricReady, asNumber(st.Ready))
	gauge(metricStore, asNumber(st.Store.Connected))
	gauge(metricRevision, float64(st.Revision))
	gauge(metricFromDisk, asNumber(m.view.FromDisk()))
	gauge(metricApplied, float64(st.Applied))
	gauge(metricProblems, float64(len(st.Problems)))
	gauge(metricPods, float64(st.Pods))
	for _, f := range model.Families {
		if free, ok := m.view.FreeAddresses(f); ok {
			gauge(metricFree, float64(free), strings.ToLower(f.String()))
		}
	}
	gauge(metricMTU, float64(st.MTU))
	for _, p := range st.Peers {
		ch <- prometheus.MustNewConstMetric(metricRx, prometheus.CounterValue, float64(p.RxBytes), p.Name)
		ch <- prometheus.MustNewConstMetric(metricTx, prometheus.CounterValue, float64(p.TxBytes), p.Name)
		gauge(metricPath, float64(p.PathMTU), p.Name)
		var at float64
		if !p.LastHandshake.IsZero() {
			at = float64(p.LastHandshake.UnixNano()) / 1e9
		}
		gauge(metricHandshake, at, p.Name)
	}
	m.path.Use(func(lb *servicelb.Balancer, tun *tunnel.Tunnel) {
		tunnelCollect(ch, tun.Stats())
		servicesCollect(ch, lb.Stats(), m.view.Frontends())
	})
	if v, ok := m.view.Announcements(); ok {
		announceCollect(ch, v)
	}
	if d := m.view.DNS(); d != nil {
		for _, c := range d.Collectors() {
			c.Collect(ch)
		}
	}
}

// desc describes a metric with labels.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func asNumber(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
