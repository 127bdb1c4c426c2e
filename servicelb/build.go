package servicelb

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/warrennet/warren/internal/model"
)

// Build compiles Services and endpoints into a table for one node. It is pure: the same input gives the same table.
func Build(self Self, snap *model.Snapshot) *Table {
	t := &Table{self: self, fronts: map[frontKey]*frontend{}, vips: map[netip.Addr]bool{}, ranges: snap.ServiceCIDRs,
		local: map[netip.Addr]bool{}, peers: map[netip.Addr]bool{}, opened: map[model.ObjectName]*atomic.Uint64{}}
	for _, a := range self.Addrs {
		t.local[a] = true
	}
	for _, a := range []netip.Addr{self.PodNet4, self.PodNet6} {
		if a.IsValid() {
			t.local[a] = true
		}
	}
	for _, a := range self.Peers {
		t.peers[a] = true
	}
	byService := map[model.ObjectName][]*model.EndpointSlice{}
	for i := range snap.Slices {
		s := &snap.Slices[i]
		n := model.ObjectName{Namespace: s.Namespace, Name: s.Service}
		byService[n] = append(byService[n], s)
	}
	st := &steer{pods: map[Port]bool{}, host: map[Port]bool{}}
	for i := range snap.Services {
		svc := &snap.Services[i]
		if svc.Foreign || svc.Headless || svc.Type == model.ExternalName {
			continue
		}
		t.service(svc, byService[svc.ObjectName], st)
	}
	t.steering = st.done(t)
	return t
}

// service adds every frontend of one Service.
func (t *Table) service(svc *model.Service, parts []*model.EndpointSlice, st *steer) {
	for i := range svc.Ports {
		p := &svc.Ports[i]
		pools := map[bool]port{} // by family: is IPv6
		poolsOf := func(v6 bool) port {
			if have, ok := pools[v6]; ok {
				return have
			}
			eps := endpointsOf(parts, p, v6, svc.PublishNotReady)
			x := port{t.pool(svc, eps, false), t.pool(svc, eps, true), backends(eps)}
			pools[v6] = x
			return x
		}
		add := func(k kind, addr netip.Addr, port uint16) {
			x := poolsOf(addr.Is6())
			f := &frontend{name: svc.ObjectName, port: p.Name, kind: k, affinity: svc.Affinity, pick: pickerOf(svc.Annotations),
				id: portID(svc.ObjectName, p), internal: x.internal, external: x.external, all: x.all, opened: t.counter(svc.ObjectName)}
			if k == kindExternal && svc.Type == model.LoadBalancer && slices.Contains(svc.LBAddresses, addr) {
				f.sources = svc.LBSourceRanges
			}
			if k == kindCluster {
				f.external = f.internal
			}
			f.prepare()
			t.add(frontKey{addr, port, uint8(p.Protocol)}, f, st)
		}
		for _, a := range svc.ClusterIPs {
			t.vips[a] = true
			add(kindCluster, a, p.Port)
		}
		for _, a := range slices.Concat(svc.ExternalIPs, svc.LBAddresses) {
			if !t.local[a] && !t.peers[a] { // a node's address has other uses
				t.vips[a] = true
			}
			add(kindExternal, a, p.Port)
		}
		if p.NodePort != 0 {
			for _, a := range t.self.NodePortAddrs {
				add(kindNodePort, a, p.NodePort)
			}
		}
	}
}

func (t *Table) add(k frontKey, f *frontend, st *steer) {
	if old, taken := t.fronts[k]; taken && !precedes(f.name, old.name) {
		return // two Services claim one address and port (externalIPs): the first by name has it
	}
	t.fronts[k] = f
	for _, p := range []*pool{f.internal, f.external} {
		for _, b := range p.backends {
			st.backend(t, b, k.proto)
		}
	}
}

func precedes(a, b model.ObjectName) bool {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name)) < 0
}

// endpoint is one candidate of a Service port in one family.
type endpoint struct {
	*model.Endpoint
	port uint16
}

// endpointsOf gathers the candidates from all slices. An address that stands in several slices counts once; the ready
// one wins.
func endpointsOf(list []*model.EndpointSlice, p *model.ServicePort, v6, publishNotReady bool) []endpoint {
	var out []endpoint
	at := map[netip.AddrPort]int{}
	for _, s := range list {
		if s.V6 != v6 {
			continue
		}
		for _, sp := range s.Ports {
			if sp.Name != p.Name || sp.Protocol != p.Protocol {
				continue
			}
			for i := range s.Endpoints {
				e := endpoint{&s.Endpoints[i], sp.Port}
				key := netip.AddrPortFrom(e.Addr, e.port)
				if j, dup := at[key]; dup {
					if e.Ready && !out[j].Ready {
						out[j] = e
					}
					continue
				}
				at[key] = len(out)
				out = append(out, e)
			}
		}
	}
	if publishNotReady {
		for i := range out {
			e := *out[i].Endpoint
			e.Ready, e.Serving, e.Terminating = true, true, false
			out[i].Endpoint = &e
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.port, b.port)) })
	return out
}

// pool chooses the usable endpoints for clients inside (Pods and nodes) or outside the cluster, as kube-proxy does:
// policy first, then ready ones before serving terminating ones, then topology.
func (t *Table) pool(svc *model.Service, eps []endpoint, outside bool) *pool {
	policy := svc.InternalPolicy
	if outside {
		policy = svc.ExternalPolicy
	}
	out := &pool{}
	if policy == model.PolicyLocal {
		all := usable(eps)
		eps = usable(keep(eps, func(e endpoint) bool { return e.Node == t.self.Node }))
		out.drop = len(eps) == 0 && len(all) > 0
	} else {
		eps = t.near(usable(eps))
	}
	out.backends = backends(eps)
	return out
}

func backends(eps []endpoint) []backend {
	out := make([]backend, 0, len(eps))
	for _, e := range eps {
		out = append(out, backend{e.Addr, e.port})
	}
	return out
}

// port is what the frontends of one Service port and family share.
type port struct {
	internal, external *pool
	all                []backend
}

// portID hashes the name of a Service port.
func portID(n model.ObjectName, p *model.ServicePort) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%s/%d", n.Namespace, n.Name, p.Name, p.Protocol)
	return h.Sum64()
}

func (t *Table) counter(n model.ObjectName) *atomic.Uint64 {
	c := t.opened[n]
	if c == nil {
		c = new(atomic.Uint64)
		t.opened[n] = c
	}
	return c
}

func keep(eps []endpoint, ok func(endpoint) bool) (out []endpoint) {
	for _, e := range eps {
		if ok(e) {
			out = append(out, e)
		}
	}
	return out
}

// usable returns the ready endpoints, or where there is none, those that still serve while they terminate.
func usable(eps []endpoint) []endpoint {
	ready := keep(eps, func(e endpoint) bool { return e.Ready })
	if len(ready) > 0 {
		return ready
	}
	return keep(eps, func(e endpoint) bool { return e.Serving && e.Terminating })
}

// near applies topology hints. A single endpoint without a hint means that hints are being changed: all count then
// (KEP-2433, KEP-3015).
func (t *Table) near(eps []endpoint) []endpoint {
	hinted := func(hints func(endpoint) []string, where string) []endpoint {
		if where == "" || len(eps) == 0 {
			return nil
		}
		for _, e := range eps {
			if len(hints(e)) == 0 {
				return nil
			}
		}
		return keep(eps, func(e endpoint) bool { return slices.Contains(hints(e), where) })
	}
	if same := hinted(func(e endpoint) []string { return e.NodeHints }, t.self.Node); len(same) > 0 {
		return same
	}
	if same := hinted(func(e endpoint) []string { return e.ZoneHints }, t.self.Zone); len(same) > 0 {
		return same
	}
	return eps
}

// steer gathers what Steering will say.
type steer struct{ pods, host map[Port]bool }

func (s *steer) backend(t *Table, b backend, proto uint8) {
	switch {
	case t.here(b.addr):
		s.pods[Port{proto, b.port}] = true
	case t.local[b.addr]:
		s.host[Port{proto, b.port}] = true
	}
}

func (s *steer) done(t *Table) (out Steering) {
	for a := range t.vips {
		if !within(t.ranges, a) {
			out.VIPs = append(out.VIPs, a)
		}
	}
	slices.SortFunc(out.VIPs, netip.Addr.Compare)
	out.Targets, out.HostTargets = ports(s.pods), ports(s.host)
	return out
}

func ports(m map[Port]bool) (out []Port) {
	for p := range m {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Port) int { return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port)) })
	return out
}
