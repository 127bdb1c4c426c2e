package ingress

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/warrennet/warren/ingress/engine"
)

// maxServices bounds the values of the label service. Further Services are counted as "other".
const maxServices = 100

// metrics are those of one process.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  prometheus.Histogram
	bytes    *prometheus.CounterVec
	retries  prometheus.Counter
	compiles prometheus.Histogram
	ready    prometheus.Gauge
	isUp     atomic.Int32

	received, sent prometheus.Counter // of bytes

	mu       sync.RWMutex
	counters map[requestKey]prometheus.Counter // of requests
	services map[string]bool
}

// requestKey selects a series of requests without building a text for each request.
type requestKey struct {
	namespace, service string
	class              int // of the status: 2 for 2xx
}

// gauge is a prometheus.Gauge whose value the process reads as well.
type gauge struct {
	prometheus.Gauge
	v *atomic.Int32
}

// Set stores the value.
func (g gauge) Set(v float64) {
	g.v.Store(int32(v))
	g.Gauge.Set(v)
}

func (m *metrics) isReady() int32 { return m.isUp.Load() }

func newMetrics(p *Process) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), services: map[string]bool{},
		counters: map[requestKey]prometheus.Counter{},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_ingress_requests_total",
			Help: "Requests by Service (the first 100, then other; none without a backend) and class of the status."},
			[]string{"service", "code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "warren_ingress_request_seconds",
			Help:    "Time from the head of a request to the end of its response.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_ingress_body_bytes_total",
			Help: "Bytes of the bodies of requests (received) and responses (sent)."}, []string{"direction"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "warren_ingress_retries_total",
			Help: "Attempts at a further endpoint after one failed."}),
		compiles: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "warren_ingress_compile_seconds",
			Help: "Time to compile the routes after a change.", Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25,
				1}})}
	m.received, m.sent = m.bytes.WithLabelValues("received"), m.bytes.WithLabelValues("sent")
	m.ready = gauge{prometheus.NewGauge(prometheus.GaugeOpts{Name: "warren_ingress_ready",
		Help: "1 while the process serves clients and was not ended."}), &m.isUp}
	m.registry.MustRegister(m.requests, m.seconds, m.bytes, m.retries, m.compiles, m.ready, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &tableMetrics{p})
	return m
}

func (m *metrics) compiled(took time.Duration) { m.compiles.Observe(took.Seconds()) }

// maxCounters bounds what is kept for Services that do not exist any longer.
const maxCounters = 16 * maxServices

// requestsOf is the series of a request.
func (m *metrics) requestsOf(e *engine.Event) prometheus.Counter {
	k := requestKey{class: e.Status / 100}
	if e.Rule != nil && e.Rule.Service != "" {
		k.namespace, k.service = e.Rule.Namespace, e.Rule.Service
	}
	m.mu.RLock()
	c := m.counters[k]
	m.mu.RUnlock()
	if c != nil {
		return c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := "none"
	if k.service != "" {
		name = k.namespace + "/" + k.service
		if !m.services[name] && len(m.services) >= maxServices {
			name = "other"
		} else {
			m.services[name] = true
		}
	}
	c = m.requests.WithLabelValues(name, strconv.Itoa(k.class)+"xx")
	if len(m.counters) >= maxCounters {
		clear(m.counters)
	}
	m.counters[k] = c
	return c
}

func (m *metrics) observe(e *engine.Event) {
	m.requestsOf(e).Inc()
	m.seconds.Observe(e.Duration.Seconds())
	if e.Received > 0 {
		m.received.Add(float64(e.Received))
	}
	m.sent.Add(float64(e.Sent))
	if e.Attempts > 1 {
		m.retries.Add(float64(e.Attempts - 1))
	}
}

// tableMetrics reads the table at each scrape.
type tableMetrics struct{ p *Process }

var (
	descHosts    = prometheus.NewDesc("warren_ingress_hosts", "Hosts with rules.", nil, nil)
	descServed   = prometheus.NewDesc("warren_ingress_ingresses", "Ingresses of warren's classes.", nil, nil)
	descProblems = prometheus.NewDesc("warren_ingress_problems", "Problems of objects, by reason.", []string{"reason"}, nil)
	descStore    = prometheus.NewDesc("warren_ingress_store_connected", "1 while the store answers.", nil, nil)
)

// Describe names the metrics.
func (t *tableMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descHosts, descServed, descProblems, descStore} {
		ch <- d
	}
}

// Collect reads the values.
func (t *tableMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	connected := 0.0
	if t.p.store.Load().err == "" {
		connected = 1
	}
	gauge(descStore, connected)
	table := t.p.table.Load()
	if table == nil {
		return
	}
	gauge(descHosts, float64(table.Hosts()))
	gauge(descServed, float64(len(table.Served)))
	by := map[string]float64{}
	for _, x := range table.Problems {
		by[string(x.Reason)]++
	}
	for reason, n := range by {
		gauge(descProblems, n, reason)
	}
}
