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

	"github.com/warrennet/warren/internal/model"
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

// set opens, updates and closes listeners so that they are those of the snapshot, and returns where they are.
func (h *healthPorts) set(snap *model.Snapshot, node string, pods []netip.Prefix) map[uint16]uint16 {
	if h.open == nil {
		h.open = map[uint16]*healthPort{}
	}
	want, out := healthStates(snap, node), map[uint16]uint16{}
	for port, state := range want {
		p := h.open[port]
		if p == nil {
			var err error
			if p, err = newHealthPort(pods); err != nil {
				h.log.Warn("cannot serve a health check node port; trying again", "port", port, "err", err)
				continue
			}
			h.open[port] = p
		}
		p.state.Store(&state)
		out[port] = p.port
	}
	for port, p := range h.open {
		if _, ok := want[port]; !ok {
			p.srv.Close()
			delete(h.open, port)
		}
	}
	return out
}

func (h *healthPorts) close() {
	for port, p := range h.open {
		p.srv.Close()
		delete(h.open, port)
	}
}

// healthStates counts the ready endpoints on this node for each health check node port. Endpoints that only terminate do
// not count, although they may still get traffic: a load balancer shall look elsewhere.
func healthStates(snap *model.Snapshot, node string) map[uint16]healthState {
	out := map[uint16]healthState{}
	for i := range snap.Services {
		s := &snap.Services[i]
		if s.Type != model.LoadBalancer || s.HealthCheckNodePort == 0 || s.ExternalPolicy != model.PolicyLocal || s.Foreign {
			continue
		}
		st := healthState{ServiceProxyHealthy: true}
		st.Service.Namespace, st.Service.Name = s.Namespace, s.Name
		seen := map[any]bool{} // Pods, or addresses of endpoints that are none: a Pod has one in each family
		for j := range snap.Slices {
			if x := &snap.Slices[j]; x.Namespace == s.Namespace && x.Service == s.Name && !x.Foreign {
				for _, e := range x.Endpoints {
					switch {
					case !e.Ready || e.Node != node:
					case e.Pod != model.ObjectName{}:
						seen[e.Pod] = true
					default:
						seen[e.Addr] = true
					}
				}
			}
		}
		st.LocalEndpoints = len(seen)
		out[s.HealthCheckNodePort] = st
	}
	return out
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
	if local == nil || !inRanges(p.pods, local.AddrPort().Addr().Unmap()) {
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
