package hostio

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/httpserve"
)

// KubeProxyAPI serves the two ports where load balancers and tools expect kube-proxy. A port that another process holds, most
// likely a kube-proxy that was not stopped, is reported and retried: it must not keep the network down.
type KubeProxyAPI struct {
	log   *slog.Logger
	ports []proxyPort
	retry time.Duration

	mu    sync.Mutex
	taken map[string]string // setting -> address that another process listens on
}

// proxyPort is one port: the setting that names it, its address ("" for none) and what it serves.
type proxyPort struct {
	setting, addr string
	handler       http.Handler
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
	Log            *slog.Logger
}

// proxyStale bounds the age of the last apply without an error of a healthy node. The apply loop runs every few seconds.
const proxyStale = 2 * time.Minute

// portRetry is the time between two attempts to listen on a port that another process holds.
const portRetry = 5 * time.Second

// NewKubeProxyAPI opens nothing yet.
func NewKubeProxyAPI(c KubeProxyConfig) *KubeProxyAPI {
	return &KubeProxyAPI{log: c.Log, retry: portRetry, taken: map[string]string{}, ports: []proxyPort{
		{"kubernetes.healthz", c.Healthz, healthzHandler(c.Health)}, {"kubernetes.proxyMetrics", c.Metrics,
			metricsHandler(c.MetricsHandler)}}}
}

// Run serves both ports until ctx ends.
func (k *KubeProxyAPI) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range k.ports {
		if p.addr != "" {
			all.Go(func() { k.serve(ctx, p) })
		}
	}
	all.Wait()
}

// Problems reports the ports that another process holds.
func (k *KubeProxyAPI) Problems() (out []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.ports {
		if addr, ok := k.taken[p.setting]; ok {
			out = append(out, fmt.Sprintf("%s: another process listens on %s (a kube-proxy that was not stopped?)", p.setting, addr))
		}
	}
	return out
}

// setTaken reports whether the state of the port changed.
func (k *KubeProxyAPI) setTaken(p proxyPort, taken bool) (changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, was := k.taken[p.setting]
	if delete(k.taken, p.setting); taken {
		k.taken[p.setting] = p.addr
	}
	return was != taken
}

func (k *KubeProxyAPI) serve(ctx context.Context, p proxyPort) {
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", p.addr)
		if err != nil {
			if k.setTaken(p, true) {
				k.log.Error("cannot listen on a port of kube-proxy's API; is a kube-proxy running on this node?",
					"key", p.setting, "address", p.addr, "err", err)
			}
		} else {
			k.setTaken(p, false)
			srv := &http.Server{Handler: p.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
				MaxHeaderBytes: 16 << 10}
			if err = httpserve.Run(ctx, srv, l); err != nil {
				k.log.Warn("the server of a port of kube-proxy's API failed; restarting it", "key", p.setting, "address", p.addr,
					"err", err)
			}
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(k.retry):
			}
		}
	}
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
