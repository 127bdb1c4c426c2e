package route

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/internal/model"
)

// Balancing is how a backend selects an endpoint for a request.
type Balancing string

// The methods.
const (
	LeastRequests Balancing = "least-requests" // the endpoint with the fewest requests in progress at this proxy
	RoundRobin    Balancing = "round-robin"
)

// Endpoint is one address and port of a backend, and its state at this proxy.
type Endpoint struct {
	Addr netip.AddrPort
	Node string
	Pod  model.ObjectName

	active atomic.Int64 // requests in progress
	until  atomic.Int64 // Unix time in ns until which the endpoint is avoided, 0: it is not
}

// Active is the number of requests in progress.
func (e *Endpoint) Active() int64 { return e.active.Load() }

// avoidFor is how long an endpoint is avoided after a failed connection, unless no other is left.
const avoidFor = time.Second

// Backend is a port of a Service with the endpoints that serve it. It is immutable except for the counters.
type Backend struct {
	Service   model.ObjectName
	Port      string // as the Ingress names it
	Endpoints []*Endpoint
	// Draining: no endpoint is ready, and those that still serve while they terminate are used.
	Draining bool
	reason   Reason // why there is no endpoint
	message  string

	service *model.Service // what it was compiled from
	slices  []*model.EndpointSlice

	balancing Balancing
	byAddr    map[netip.AddrPort]*Endpoint
	next      atomic.Uint32
	upstream  engine.Upstream
}

type backendKey struct {
	service   model.ObjectName
	port      string
	balancing Balancing
}

// portName is the port of a backend as the Ingress names it.
func portName(b *model.IngressBackend) string {
	if b.PortName != "" {
		return b.PortName
	}
	return strconv.Itoa(int(b.Port))
}

// newBackend makes the backend of a Service's port. Endpoints that the former backend has as well keep their state.
func newBackend(k backendKey, ref *model.IngressBackend, svc *model.Service, list []*model.EndpointSlice, former *Backend) *Backend {
	b := &Backend{Service: k.service, Port: k.port, service: svc, slices: list, balancing: k.balancing}
	b.upstream = engine.Upstream{Pick: b.pick, Done: b.done}
	port, ok := b.servicePort(ref)
	if !ok {
		return b
	}
	b.upstream.H2C = port.AppProtocol == "kubernetes.io/h2c"
	if strings.EqualFold(port.AppProtocol, "https") {
		b.upstream.TLS = upstreamTLS
	}
	for _, terminating := range []bool{false, true} {
		b.addEndpoints(port, former, terminating)
		if len(b.Endpoints) > 0 {
			b.Draining = terminating
			break
		}
	}
	if len(b.Endpoints) == 0 {
		b.fail(EndpointsMissing, "Service "+k.service.String()+" has no endpoint that is ready")
	}
	slices.SortFunc(b.Endpoints, func(x, y *Endpoint) int { return x.Addr.Compare(y.Addr) })
	return b
}

func (b *Backend) fail(r Reason, message string) { b.reason, b.message = r, message }

// servicePort finds the port of the Service that an Ingress names. It is false if the backend cannot have endpoints.
func (b *Backend) servicePort(ref *model.IngressBackend) (model.ServicePort, bool) {
	if b.service == nil {
		b.fail(ServiceNotFound, "Service "+b.Service.String()+" does not exist")
		return model.ServicePort{}, false
	}
	if b.service.Type == model.ExternalName {
		b.fail(ServiceUnsupported, "Service "+b.Service.String()+" is of type ExternalName; expected one with endpoints")
		return model.ServicePort{}, false
	}
	for _, p := range b.service.Ports {
		if ref.PortName != "" && p.Name != ref.PortName || ref.PortName == "" && p.Port != ref.Port {
			continue
		}
		if p.Protocol != model.TCP {
			continue
		}
		return p, true
	}
	b.fail(ServicePortNotFound, fmt.Sprintf("Service %s has no TCP port %s", b.Service, b.Port))
	return model.ServicePort{}, false
}

// addEndpoints adds the ready endpoints, or those that serve while they terminate.
func (b *Backend) addEndpoints(port model.ServicePort, former *Backend, terminating bool) {
	for _, s := range b.slices {
		for _, p := range s.Ports {
			if p.Name != port.Name || p.Protocol != model.TCP || p.Port == 0 {
				continue
			}
			for i := range s.Endpoints {
				e := &s.Endpoints[i]
				if terminating && (!e.Serving || !e.Terminating) || !terminating && (!e.Ready || e.Terminating) {
					continue
				}
				b.addEndpoint(e, netip.AddrPortFrom(e.Addr, p.Port), former)
			}
		}
	}
}

func (b *Backend) addEndpoint(e *model.Endpoint, at netip.AddrPort, former *Backend) {
	if b.byAddr[at] != nil {
		return // two slices may have an endpoint while it moves from one to the other
	}
	if b.byAddr == nil {
		b.byAddr = map[netip.AddrPort]*Endpoint{}
	}
	var out *Endpoint
	if former != nil {
		if have := former.byAddr[at]; have != nil && have.Node == e.Node && have.Pod == e.Pod {
			out = have
		}
	}
	if out == nil {
		out = &Endpoint{Addr: at, Node: e.Node, Pod: e.Pod}
	}
	b.byAddr[at] = out
	b.Endpoints = append(b.Endpoints, out)
}

// scanAll is the number of endpoints up to which all are compared. Of more, the next one in turn is compared with a random one ("the power
// of two choices").
const scanAll = 8

// pick selects an endpoint that is none of tried, avoids those that failed lately, and counts the request as active.
func (b *Backend) pick(tried []netip.AddrPort) (netip.AddrPort, bool) {
	e := b.choose(tried)
	if e == nil {
		return netip.AddrPort{}, false
	}
	e.active.Add(1)
	return e.Addr, true
}

func (b *Backend) choose(tried []netip.AddrPort) *Endpoint {
	n := uint32(len(b.Endpoints))
	if n == 0 {
		return nil
	}
	if b.balancing == LeastRequests && n > scanAll && len(tried) == 0 {
		x, y := b.Endpoints[b.next.Add(1)%n], b.Endpoints[rand.Uint32N(n)]
		if y.active.Load() < x.active.Load() {
			x = y
		}
		if x.until.Load() == 0 {
			return x
		}
	}
	start := b.next.Add(1)
	var best, avoided *Endpoint
	for i := range n {
		e := b.Endpoints[(start+i)%n]
		switch {
		case slices.Contains(tried, e.Addr):
			continue
		case e.avoided():
			if avoided == nil {
				avoided = e
			}
			continue
		case b.balancing == RoundRobin:
			return e
		case best == nil || e.active.Load() < best.active.Load():
			best = e
		}
	}
	if best == nil {
		best = avoided
	}
	return best
}

// avoided reads the clock only for an endpoint that failed lately.
func (e *Endpoint) avoided() bool {
	until := e.until.Load()
	if until == 0 {
		return false
	}
	if time.Now().UnixNano() < until {
		return true
	}
	e.until.CompareAndSwap(until, 0)
	return false
}

func (b *Backend) done(addr netip.AddrPort, result engine.Result) {
	e := b.byAddr[addr]
	if e == nil {
		return
	}
	e.active.Add(-1)
	switch result {
	case engine.ConnectFailed:
		e.until.Store(time.Now().Add(avoidFor).UnixNano())
	case engine.Answered:
		if e.until.Load() != 0 {
			e.until.Store(0)
		}
	case engine.Broken, engine.Canceled:
	}
}
