package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/warrennet/warren/internal/httpserve"
)

// proxyStale is how long the apply loop may stand still before the node is called unhealthy; it runs every few seconds.
const proxyStale = 2 * time.Minute

// serveProxyHealth answers what load balancers and tools ask kube-proxy for on port 10256: /healthz says whether new
// connections should be sent here (503 while the Node is being deleted, KEP-3836), /livez whether the agent works.
func (a *Agent) serveProxyHealth(ctx context.Context) {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { a.proxyHealth(w, true) })
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { a.proxyHealth(w, false) })
	a.servePort(ctx, "kubernetes.healthz", a.cfg.Kubernetes.Healthz, mux)
}

func (a *Agent) proxyHealth(w http.ResponseWriter, eligible bool) {
	now, updated := time.Now(), time.Time{}
	if s := a.applied.Load(); s != nil && s.first {
		updated = s.at
	}
	node := !a.kube.node().Deleting
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if now.Sub(updated) > proxyStale || eligible && !node {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintf(w, `{"lastUpdated": %q,"currentTime": %q, "nodeEligible": %v}`, updated, now, node)
}

// serveProxyMetrics answers on kube-proxy's port 10249.
func (a *Agent) serveProxyMetrics(ctx context.Context) {
	mux := http.NewServeMux()
	mux.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, "warren")
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.Handle("/metrics", promhttp.HandlerFor(a.registry(), promhttp.HandlerOpts{}))
	a.servePort(ctx, "kubernetes.proxyMetrics", a.cfg.Kubernetes.ProxyMetrics, mux)
}

// servePort serves until ctx ends. A port that somebody else holds, most likely a kube-proxy left over, is reported and
// tried again: it must not keep the network down.
func (a *Agent) servePort(ctx context.Context, setting, addr string, h http.Handler) {
	if addr == "" {
		return
	}
	for said := false; ctx.Err() == nil; {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			if !said {
				a.log.Error("cannot listen; does a kube-proxy still run on this node?", "setting", setting, "address", addr, "err", err)
			}
			said = true
			a.portTaken.Store(setting, addr)
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
			continue
		}
		a.portTaken.Delete(setting)
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
		if err := httpserve.Run(ctx, srv, l); err != nil {
			a.log.Warn("the HTTP server for kube-proxy's port failed; restarting it", "setting", setting, "err", err)
		}
	}
}
