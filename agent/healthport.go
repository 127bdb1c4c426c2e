package agent

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/agent/plan"
)

// healthPorts serves the health check node ports of Services with externalTrafficPolicy Local, as kube-proxy does. A
// host socket on the node port itself would be dead (its range is steered), so each has a listener reached by the node's
// Pod-net address, to which the balancer leads the node port. Only the apply loop uses it; the handlers read atomics.
type healthPorts struct {
	log  *slog.Logger
	open map[uint16]*healthPort // by health check node port
}

// healthPort is one Service's listener.
type healthPort struct {
	srv   *http.Server
	pods  []netip.Prefix
	port  uint16 // of the listener
	state atomic.Pointer[healthState]
}

// healthState is what a load balancer is told.
type healthState struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// set opens, updates and closes listeners so that they are those wanted. It reports whether it has opened any.
func (h *healthPorts) set(want map[uint16]plan.HealthCheck, pods []netip.Prefix) (opened bool) {
	if h.open == nil {
		h.open = map[uint16]*healthPort{}
	}
	for port, check := range want {
		p := h.open[port]
		if p == nil {
			var err error
			if p, err = newHealthPort(pods); err != nil {
				h.log.Warn("cannot serve a health check node port; retrying", "port", port, "err", err)
				continue
			}
			h.open[port], opened = p, true
		}
		state := healthState{LocalEndpoints: check.LocalEndpoints, ServiceProxyHealthy: true}
		state.Service.Namespace, state.Service.Name = check.Service.Namespace, check.Service.Name
		p.state.Store(&state)
	}
	for port, p := range h.open {
		if _, ok := want[port]; !ok {
			p.srv.Close()
			delete(h.open, port)
		}
	}
	return opened
}

// ports are those where listeners are open, by health check node port.
func (h *healthPorts) ports() map[uint16]uint16 {
	out := map[uint16]uint16{}
	for port, p := range h.open {
		out[port] = p.port
	}
	return out
}

func (h *healthPorts) close() {
	for port, p := range h.open {
		p.srv.Close()
		delete(h.open, port)
	}
}

// newHealthPort listens on a free port of every address, because the Pod-net addresses may not be there yet; only what
// came to one of those is answered.
func newHealthPort(pods []netip.Prefix) (*healthPort, error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return nil, err
	}
	p := &healthPort{pods: pods, port: uint16(l.Addr().(*net.TCPAddr).Port)}
	p.srv = &http.Server{Handler: p, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	go func() { _ = p.srv.Serve(l) }() // ends with Close
	return p, nil
}

// ServeHTTP answers as kube-proxy does: 200 with a ready endpoint here, else 503.
func (p *healthPort) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if local == nil || !plan.Contains(p.pods, local.AddrPort().Addr().Unmap()) {
		http.Error(w, "ask at the health check node port", http.StatusForbidden)
		return
	}
	st := p.state.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(st.LocalEndpoints))
	if st.LocalEndpoints == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(st) // the load balancer went away
}
