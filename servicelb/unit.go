package servicelb

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// unit is one Service (or one Pod with host ports) compiled: everything it puts into the table.
type unit struct {
	keys   []frontKey
	fronts []*frontend // of keys
	vips   []netip.Addr
	meter  *meter
	// records of backends, where the Service ejects; before are those of the unit that this one replaces.
	records, before map[recordKey]*record
}

// port is what the frontends of one Service port and family share.
type port struct {
	endpoints  []endpoint
	all        []backend
	ejectAfter uint16
	records    []*record // of all, nil without ejection
	pools      [2]*pool  // by traffic policy, on demand
}

func (t *Table) poolOf(p *port, policy model.TrafficPolicy) *pool {
	if p.pools[policy] == nil {
		in := t.pool(p.endpoints, policy)
		for i := range in.backends {
			if p.ejectAfter > 0 {
				in.records = append(in.records, p.recordOf(in.backends[i]))
			}
		}
		p.pools[policy] = in
	}
	return p.pools[policy]
}

func (p *port) recordOf(b backend) *record {
	i, _ := slices.BinarySearchFunc(p.all, b.addrPort(), backend.compare)
	return p.records[i]
}

// port gathers what the frontends of a Service port share. Records are those of the unit before where it had them.
func (u *unit) port(id uint64, eps []endpoint, ejectAfter uint16) *port {
	p := &port{endpoints: eps, all: appendBackends(nil, eps), ejectAfter: ejectAfter}
	for i := range p.all {
		if ejectAfter == 0 {
			break
		}
		k := recordKey{id, p.all[i]}
		r := u.before[k]
		if r == nil {
			r = new(record)
		}
		if u.records == nil {
			u.records = map[recordKey]*record{}
		}
		u.records[k], p.records = r, append(p.records, r)
	}
	return p
}

// compile fills the unit of a Service from its endpoint slices.
func (t *Table) compile(svc *model.Service, parts []*model.EndpointSlice, u *unit) *unit {
	if svc.Foreign || svc.Headless || svc.Type == model.ExternalName || slices.ContainsFunc(svc.ClusterIPs, func(a netip.Addr) bool { return slices.Contains(t.self.Own, a) }) {
		return u
	}
	for i := range svc.Ports {
		t.compilePort(u, svc, &svc.Ports[i], parts)
	}
	t.compileHealth(u, svc)
	for _, a := range svc.ClusterIPs {
		u.vip(a)
	}
	for _, list := range external(svc) {
		for _, a := range list {
			if !t.local[a] && !t.peers[a] { // a node's address has other uses
				u.vip(a)
			}
		}
	}
	return u
}

func (t *Table) compilePort(u *unit, svc *model.Service, p *model.ServicePort, parts []*model.EndpointSlice) {
	var made [2]*port // by family, on demand
	id, eject := portID(svc.ObjectName, p), uint16(0)
	if p.Protocol == model.TCP {
		eject = ejectAfter(svc.Annotations)
	}
	add := func(k kind, addr netip.Addr, number uint16) {
		x := &made[b2i(addr.Is6())]
		if *x == nil {
			eps := endpointsOf(parts, p, addr.Is6(), svc.PublishNotReady)
			*x = u.port(id, eps, eject)
		}
		inside, outside := policies(svc, k)
		f := &frontend{name: svc.ObjectName, port: p.Name, kind: k, affinity: svc.Affinity, pick: pickerOf(svc.Annotations),
			id: id, ejectAfter: eject, internal: t.poolOf(*x, inside), external: t.poolOf(*x, outside), all: (*x).all, meter: u.meter}
		if k == kindExternal && slices.Contains(svc.LBAddresses, addr) {
			f.sources = svc.LBSourceRanges
		}
		f.prepare()
		u.add(frontKey{addr, number, uint8(p.Protocol)}, f)
	}
	for _, a := range svc.ClusterIPs {
		add(kindCluster, a, p.Port)
	}
	for _, list := range external(svc) {
		for _, a := range list {
			add(kindExternal, a, p.Port)
		}
	}
	if p.NodePort != 0 && svc.Type != model.ClusterIP {
		for _, a := range t.self.NodePortAddrs {
			add(kindNodePort, a, p.NodePort)
		}
	}
}

// policies are those of clients inside (Pods and nodes) and outside of the cluster. At an address for the outside nobody
// inside is held to local endpoints, whatever the Service says.
func policies(svc *model.Service, k kind) (inside, outside model.TrafficPolicy) {
	if k == kindCluster {
		return svc.InternalPolicy, svc.InternalPolicy
	}
	return model.PolicyCluster, svc.ExternalPolicy
}

// external lists the addresses for clients outside. A Service that was of type LoadBalancer may still carry its
// status.
func external(svc *model.Service) [2][]netip.Addr {
	if svc.Type != model.LoadBalancer {
		return [2][]netip.Addr{svc.ExternalIPs}
	}
	return [2][]netip.Addr{svc.ExternalIPs, svc.LBAddresses}
}

// compileHealth leads a health check node port to the agent's listener, which lies outside of the steered ranges.
func (t *Table) compileHealth(u *unit, svc *model.Service) {
	listener := t.self.Health[svc.HealthCheckNodePort]
	if svc.HealthCheckNodePort == 0 || listener == 0 {
		return
	}
	for _, a := range t.self.NodePortAddrs {
		own := t.self.podNet(a.Is4())
		if !own.IsValid() {
			continue
		}
		only := []backend{{own, listener}}
		p := &pool{backends: only}
		u.add(frontKey{a, svc.HealthCheckNodePort, uint8(model.TCP)},
			&frontend{name: svc.ObjectName, port: "healthCheckNodePort", kind: kindNodePort, internal: p, external: p, all: only})
	}
}

// compilePod fills the unit of a Pod of this node that has host ports.
func (t *Table) compilePod(pod *model.Pod, u *unit) *unit {
	for _, h := range pod.HostPorts {
		on := []netip.Addr{h.HostIP}
		if !h.HostIP.IsValid() || h.HostIP.IsUnspecified() {
			on = slices.Concat(t.self.NodePortAddrs, t.self.Addrs)
		}
		for _, a := range on {
			if h.HostIP.IsValid() && h.HostIP.Is4() != a.Is4() {
				continue // 0.0.0.0 is not ::
			}
			for _, to := range pod.Addrs {
				if to.Is4() != a.Is4() {
					continue
				}
				only := []backend{{to, h.ContainerPort}}
				p := &pool{backends: only}
				u.add(frontKey{a, h.HostPort, uint8(h.Protocol)},
					&frontend{name: pod.ObjectName, port: "hostPort", kind: kindHostPort, internal: p, external: p, all: only, meter: u.meter})
			}
		}
	}
	return u
}

// add enters a frontend, unless the same Service has one there already.
func (u *unit) add(k frontKey, f *frontend) {
	if !slices.Contains(u.keys, k) {
		u.keys, u.fronts = append(u.keys, k), append(u.fronts, f)
	}
}

func (u *unit) vip(a netip.Addr) {
	if !slices.Contains(u.vips, a) {
		u.vips = append(u.vips, a)
	}
}

// portID hashes the name of a Service port (FNV-1a).
func portID(n model.ObjectName, p *model.ServicePort) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{n.Namespace, n.Name, p.Name} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
		h = (h ^ 0xff) * 1099511628211
	}
	return mix(h ^ uint64(p.Protocol))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
