package hostio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/httpserve"
	"github.com/warrennet/warren/internal/netx"
)

// HealthChecks serves the health check node ports of Services with externalTrafficPolicy Local, as kube-proxy does. A host socket
// on the node port itself would receive nothing, because its range is redirected to the TUN. So each port has a listener on a
// free port, and the balancer translates the node port to it on the node's Pod-net addresses.
type HealthChecks struct {
	log    *slog.Logger
	ranges func() []netip.Prefix // the Pod ranges, where the Pod-net addresses are
	open   map[uint16]*healthCheck
	failed map[uint16]bool
	served sync.WaitGroup
}

// healthCheck is one Service's listener.
type healthCheck struct {
	ranges func() []netip.Prefix
	port   uint16 // of the listener
	state  atomic.Pointer[healthState]
	stop   context.CancelFunc
}

// healthState is what the external load balancer receives.
type healthState struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// NewHealthChecks opens nothing yet. ranges returns the cluster's Pod ranges.
func NewHealthChecks(ranges func() []netip.Prefix, log *slog.Logger) *HealthChecks {
	return &HealthChecks{log: log, ranges: ranges, open: map[uint16]*healthCheck{}, failed: map[uint16]bool{}}
}

// Set opens, updates and closes listeners until they are those desired. It reports whether it opened any, and those that it could not
// open. A failure is logged once per port.
func (h *HealthChecks) Set(desired map[uint16]plan.HealthCheck) (opened bool, err error) {
	var errs []error
	for port, check := range desired {
		c := h.open[port]
		if c == nil {
			var err error
			if c, err = h.listen(port); err != nil {
				if !h.failed[port] {
					h.log.Warn("cannot serve a health check node port; retrying", "port", port, "err", err)
				}
				h.failed[port] = true
				errs = append(errs, fmt.Errorf("health check node port %d: %w", port, err))
				continue
			}
			delete(h.failed, port)
			h.open[port], opened = c, true
		}
		c.set(check)
	}
	for port, c := range h.open {
		if _, ok := desired[port]; !ok {
			c.stop() // Close joins it: an open connection must not delay the apply loop
			delete(h.open, port)
		}
	}
	return opened, errors.Join(errs...)
}

// Ports returns the ports of the listeners by health check node port.
func (h *HealthChecks) Ports() map[uint16]uint16 {
	out := map[uint16]uint16{}
	for port, c := range h.open {
		out[port] = c.port
	}
	return out
}

// Close closes all listeners and joins their servers.
func (h *HealthChecks) Close() {
	_, _ = h.Set(nil) // opens nothing
	h.served.Wait()
}

// listen opens a free port on every address, because the Pod-net addresses may not exist yet.
func (h *HealthChecks) listen(port uint16) (*healthCheck, error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &healthCheck{ranges: h.ranges, port: uint16(l.Addr().(*net.TCPAddr).Port), stop: stop}
	c.state.Store(&healthState{})
	srv := &http.Server{Handler: c, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	h.served.Go(func() {
		if err := httpserve.Run(ctx, srv, l); err != nil {
			h.log.Warn("the server of a health check node port failed", "port", port, "err", err)
		}
	})
	return c, nil
}

func (c *healthCheck) set(check plan.HealthCheck) {
	state := healthState{LocalEndpoints: check.LocalEndpoints, ServiceProxyHealthy: true}
	state.Service.Namespace, state.Service.Name = check.Service.Namespace, check.Service.Name
	c.state.Store(&state)
}

// ServeHTTP answers as kube-proxy does: 200 with a ready endpoint on this node, else 503. Only requests to a Pod-net address are
// answered: the listener is bound to all addresses.
func (c *healthCheck) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if local == nil || !netx.Contains(c.ranges(), local.AddrPort().Addr().Unmap()) {
		http.Error(w, "send the request to the health check node port", http.StatusForbidden)
		return
	}
	state := c.state.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(state.LocalEndpoints))
	if state.LocalEndpoints == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(state) // fails only if the client has disconnected
}
