package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/httpserve"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// metrics are read from the agent's own state at scrape time; nothing counts twice.
type metrics struct{ a *Agent }

var (
	metricReady     = prometheus.NewDesc("warren_ready", "1 when Pods can be plugged.", nil, nil)
	metricStore     = prometheus.NewDesc("warren_store_connected", "1 while the store answers.", nil, nil)
	metricRevision  = prometheus.NewDesc("warren_snapshot_revision", "Store revision of the newest snapshot.", nil, nil)
	metricFromDisk  = prometheus.NewDesc("warren_snapshot_from_disk", "1 while the snapshot of the last run serves because the store has not answered since the start.", nil, nil)
	metricApplied   = prometheus.NewDesc("warren_applied_revision", "Store revision that the kernel and the tunnel hold.", nil, nil)
	metricProblems  = prometheus.NewDesc("warren_problems", "Problems that `warren status` shows.", nil, nil)
	metricPods      = prometheus.NewDesc("warren_pods", "Pods of this node.", nil, nil)
	metricFree      = prometheus.NewDesc("warren_pod_addresses_free", "Addresses that Pods of this node can still have.", []string{"family"}, nil)
	metricMTU       = prometheus.NewDesc("warren_tunnel_mtu_bytes", "MTU of the tunnel.", nil, nil)
	metricRx        = prometheus.NewDesc("warren_peer_received_bytes_total", "Bytes received from a peer.", []string{"peer"}, nil)
	metricTx        = prometheus.NewDesc("warren_peer_sent_bytes_total", "Bytes sent to a peer.", []string{"peer"}, nil)
	metricPath      = prometheus.NewDesc("warren_peer_path_mtu_bytes", "What the path to a peer was found to carry where that is less than both ends' MTU, else 0.", []string{"peer"}, nil)
	metricHandshake = prometheus.NewDesc("warren_peer_last_handshake_timestamp_seconds", "Time of the last handshake with a peer, 0 for never.", []string{"peer"}, nil)
)

// programming is counted by the apply loop.
var programming = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "warren_programming_duration_seconds",
	Help:    "Time from a change's arrival at the node to the data plane that has it.",
	Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}})

// plugging is observed by the handlers of the CNI plugin.
var plugging = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "warren_cni_add_duration_seconds",
	Help:    "Time from the connection of the CNI plugin to the end of its ADD.",
	Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}})

// Describe implements prometheus.Collector.
func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{metricReady, metricStore, metricRevision, metricFromDisk, metricApplied, metricProblems, metricPods, metricFree, metricMTU, metricRx, metricTx, metricPath, metricHandshake} {
		ch <- d
	}
	programming.Describe(ch)
	plugging.Describe(ch)
	tunnelDescribe(ch)
	servicesDescribe(ch)
	announceDescribe(ch)
	for _, c := range (&dns.Server{}).Collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	st := m.a.status()
	programming.Collect(ch)
	plugging.Collect(ch)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(metricReady, asNumber(st.Ready))
	gauge(metricStore, asNumber(st.Store.Connected))
	gauge(metricRevision, float64(st.Revision))
	gauge(metricFromDisk, asNumber(m.a.source.FromDisk()))
	gauge(metricApplied, float64(st.Applied))
	gauge(metricProblems, float64(len(st.Problems)))
	gauge(metricPods, float64(st.Pods))
	for _, f := range model.Families {
		if free, _, blocks := m.a.pool.Room(f); blocks > 0 {
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
	if s := m.a.loop.State(); s != nil {
		m.a.path.use(func(lb *servicelb.Balancer, tun *tunnel.Tunnel) {
			tunnelCollect(ch, tun.Stats())
			servicesCollect(ch, lb.Stats(), s.Plan.Table.Len())
		})
	}
	if x := m.a.announcer.Load(); x != nil {
		announceCollect(ch, x.View())
	}
	if d := m.a.names.Current(); d != nil {
		for _, c := range d.Collectors() {
			c.Collect(ch)
		}
	}
}

func asNumber(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (a *Agent) registry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(metrics{a}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

func (a *Agent) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry(), promhttp.HandlerOpts{}))
	l, err := net.Listen("tcp", a.cfg.Metrics)
	if err == nil {
		err = httpserve.Run(ctx, &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}, l)
	}
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// DescribeMetrics sends the description of every metric the agent itself serves, for the test of the documents.
func DescribeMetrics(ch chan<- *prometheus.Desc) { metrics{}.Describe(ch) }
