package hostio

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/listen"
)

// KubeProxyAPI serves the two ports where load balancers and tools expect kube-proxy. A port that another process holds, most
// likely a kube-proxy that was not stopped, is reported and retried.
type KubeProxyAPI struct {
	sockets *listen.Sockets
	ports   []proxyPort
}

// proxyPort is one port: the setting that names it, the role of its socket, its address ("" for none) and what it serves.
type proxyPort struct {
	setting, role, addr string
	handler             http.Handler
}

// KubeProxyConfig is what a KubeProxyAPI serves.
type KubeProxyConfig struct {
	// Healthz and Metrics are address:port, kube-proxy's 10256 and 10249; "" serves none.
	Healthz, Metrics string
	// Health returns the time of the last apply without an error, zero before the first, and whether the Node may
	// receive new connections.
	Health func() (updated time.Time, eligible bool)
	// MetricsHandler serves /metrics.
	MetricsHandler http.Handler
	Sockets        *listen.Sockets
}

// The roles of the sockets.
const (
	HealthzRole      = "healthz"
	ProxyMetricsRole = "proxymetrics"
)

// proxyStale bounds the age of the last apply without an error of a healthy node. The apply loop runs every few seconds.
const proxyStale = 2 * time.Minute

// NewKubeProxyAPI opens nothing yet.
func NewKubeProxyAPI(c KubeProxyConfig) *KubeProxyAPI {
	return &KubeProxyAPI{sockets: c.Sockets, ports: []proxyPort{
		{"kubernetes.healthz", HealthzRole, c.Healthz, healthzHandler(c.Health)},
		{"kubernetes.proxyMetrics", ProxyMetricsRole, c.Metrics, metricsHandler(c.MetricsHandler)}}}
}

// Run serves both ports until ctx ends.
func (k *KubeProxyAPI) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range k.ports {
		if p.addr == "" {
			k.sockets.Keep(p.role)
			continue
		}
		all.Go(func() {
			k.sockets.ServeHTTP(ctx, p.setting+", a port of kube-proxy", listen.Socket{Role: p.role, Network: "tcp", Address: p.addr},
				func() *http.Server {
					return &http.Server{Handler: p.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
						MaxHeaderBytes: 16 << 10}
				})
		})
	}
	all.Wait()
}

// healthzHandler serves /healthz, which reports whether external load balancers may send new connections to this node (503 while
// the Node object is being deleted, KEP-3836), and /livez, which reports whether the agent works.
func healthzHandler(health func() (time.Time, bool)) http.Handler {
	mux := http.NewServeMux()
	answer := func(needEligible bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			now := time.Now()
			updated, eligible := health()
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			if now.Sub(updated) > proxyStale || needEligible && !eligible {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			fmt.Fprintf(w, `{"lastUpdated": %q,"currentTime": %q, "nodeEligible": %v}`, updated, now, eligible)
		}
	}
	mux.HandleFunc("/healthz", answer(true))
	mux.HandleFunc("/livez", answer(false))
	return mux
}

func metricsHandler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, "warren")
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	if metrics != nil {
		mux.Handle("/metrics", metrics)
	}
	return mux
}
