package table

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/internal/stable"
	"github.com/warrennet/warren/servicelb/internal/traffic"
)

// unit is one compiled object, a Service or a Pod with host ports: everything that it adds to the table.
type unit struct {
	keys         []Key
	frontends    []*Frontend // of keys
	serviceAddrs []netip.Addr
	meter        *traffic.Meter
	// records are the ejection records of the backends; previous are those of the unit that this one replaces.
	records, previous map[recordKey]*Record
	refused           []RefusedEndpoint
	direct            bool // an endpoint is not in a Pod
}

// servicePort is what the frontends of one Service port and family share.
type servicePort struct {
	endpoints  []endpoint
	all        []Backend
	ejectAfter uint16
	records    []*Record // of all; nil without ejection
	pools      [2]*Pool  // by traffic policy, on demand
}

// poolFor returns the pool of a traffic policy.
func (t *Table) poolFor(p *servicePort, policy model.TrafficPolicy) *Pool {
	if p.pools[policy] == nil {
		pool := t.newPool(p.endpoints, policy)
		for i := range pool.Backends {
			if p.ejectAfter > 0 {
				pool.Records = append(pool.Records, p.recordOf(pool.Backends[i]))
			}
		}
		p.pools[policy] = pool
	}
	return p.pools[policy]
}

func (p *servicePort) recordOf(b Backend) *Record {
	i, _ := slices.BinarySearchFunc(p.all, b.AddrPort(), Backend.compare)
	return p.records[i]
}

// newServicePort collects what the frontends of a Service port share. Backends that the previous unit had keep their
// ejection records.
func (u *unit) newServicePort(id uint64, eps []endpoint, ejectAfter uint16) *servicePort {
	p := &servicePort{endpoints: eps, all: appendBackends(nil, eps), ejectAfter: ejectAfter}
	if ejectAfter == 0 {
		return p
	}
	for i := range p.all {
		k := recordKey{id, p.all[i]}
		r := u.previous[k]
		if r == nil {
			r = new(Record)
		}
		if u.records == nil {
			u.records = map[recordKey]*Record{}
		}
		u.records[k], p.records = r, append(p.records, r)
	}
	return p
}

// compile fills the unit of a Service from its EndpointSlices.
func (t *Table) compile(svc *model.Service, parts []*model.EndpointSlice, u *unit) *unit {
	hostServed := slices.ContainsFunc(svc.ClusterIPs, func(a netip.Addr) bool { return slices.Contains(t.self.HostServed, a) })
	if svc.OtherProxy || svc.Headless || svc.Type == model.ExternalName || hostServed {
		return u
	}
	for i := range svc.Ports {
		t.compilePort(u, svc, &svc.Ports[i], parts)
	}
	t.compileHealthCheck(u, svc)
	for _, a := range svc.ClusterIPs {
		u.addServiceAddr(a)
	}
	for _, list := range externalAddrs(svc) {
		for _, a := range list {
			if !t.local[a] && !t.peers[a] { // a node's address has other uses
				u.addServiceAddr(a)
			}
		}
	}
	return u
}

func (t *Table) compilePort(u *unit, svc *model.Service, p *model.ServicePort, parts []*model.EndpointSlice) {
	var ports [2]*servicePort // by family, on demand
	id, eject := portID(svc.ObjectName, p), uint16(0)
	if p.Protocol == model.TCP {
		eject = ejectAfter(svc.Annotations)
	}
	add := func(kind Kind, addr netip.Addr, number uint16) {
		family := model.FamilyOf(addr)
		if ports[family] == nil {
			ports[family] = u.newServicePort(id, t.withoutRefused(u, svc.ObjectName, p.Protocol,
				t.withoutLastPort(endpointsOf(parts, p, family, svc.PublishNotReady))), eject)
		}
		x := ports[family]
		internal, external := policies(svc, kind)
		f := &Frontend{
			Internal: t.poolFor(x, internal), External: t.poolFor(x, external), Endpoints: x.all, Meter: u.meter,
			Affinity: svc.Affinity, ID: id, Kind: kind, Algorithm: algorithmOf(svc.Annotations), EjectAfter: eject,
			Service: svc.ObjectName, PortName: p.Name,
		}
		if kind == KindExternal && slices.Contains(svc.LBAddresses, addr) {
			f.SourceRanges = svc.LBSourceRanges
		}
		f.prepare()
		u.addFrontend(Key{addr, number, uint8(p.Protocol)}, f)
	}
	for _, a := range svc.ClusterIPs {
		add(KindClusterIP, a, p.Port)
	}
	for _, list := range externalAddrs(svc) {
		for _, a := range list {
			add(KindExternal, a, p.Port)
		}
	}
	if p.NodePort != 0 && svc.Type != model.ClusterIP {
		for _, a := range t.self.NodePortAddrs {
			add(KindNodePort, a, p.NodePort)
		}
	}
}

// withoutLastPort leaves out endpoints on this node itself at port 65535. Policy routing cannot redirect their replies: the
// kernel refuses a rule with that port. Replies of Pods are redirected by other rules.
func (t *Table) withoutLastPort(eps []endpoint) []endpoint {
	return slices.DeleteFunc(eps, func(e endpoint) bool { return e.port == 65535 && t.local[e.Addr] })
}

// policies returns the traffic policies for clients inside (Pods and nodes) and outside of the cluster. At external
// addresses and node ports clients inside are never restricted to local endpoints, as in kube-proxy.
func policies(svc *model.Service, k Kind) (internal, external model.TrafficPolicy) {
	if k == KindClusterIP {
		return svc.InternalPolicy, svc.InternalPolicy
	}
	return model.PolicyCluster, svc.ExternalPolicy
}

// externalAddrs lists the addresses for clients outside of the cluster. The status of a Service that was of type
// LoadBalancer before may still contain load balancer addresses; they do not count.
func externalAddrs(svc *model.Service) [2][]netip.Addr {
	if svc.Type != model.LoadBalancer {
		return [2][]netip.Addr{svc.ExternalIPs}
	}
	return [2][]netip.Addr{svc.ExternalIPs, svc.LBAddresses}
}

// compileHealthCheck forwards a health check node port to the agent's listener, whose port is not redirected.
func (t *Table) compileHealthCheck(u *unit, svc *model.Service) {
	listener := t.self.HealthListeners[svc.HealthCheckNodePort]
	if svc.HealthCheckNodePort == 0 || listener == 0 {
		return
	}
	for _, a := range t.self.NodePortAddrs {
		podNet := t.self.PodNet(model.FamilyOf(a))
		if !podNet.IsValid() {
			continue
		}
		u.addSingle(Key{a, svc.HealthCheckNodePort, uint8(model.TCP)}, Backend{podNet, listener},
			&Frontend{Service: svc.ObjectName, PortName: "healthCheckNodePort", Kind: KindNodePort})
	}
}

// compilePod fills the unit of a Pod of this node that has host ports.
func (t *Table) compilePod(pod *model.Pod, u *unit) *unit {
	for _, h := range pod.HostPorts {
		hostAddrs := []netip.Addr{h.HostIP}
		if !h.HostIP.IsValid() || h.HostIP.IsUnspecified() {
			hostAddrs = slices.Concat(t.self.NodePortAddrs, t.self.Addrs)
		}
		for _, a := range hostAddrs {
			if h.HostIP.IsValid() && model.FamilyOf(h.HostIP) != model.FamilyOf(a) {
				continue // 0.0.0.0 does not include IPv6 addresses, nor :: IPv4 ones
			}
			for _, to := range pod.Addrs {
				if model.FamilyOf(to) == model.FamilyOf(a) {
					u.addSingle(Key{a, h.HostPort, uint8(h.Protocol)}, Backend{to, h.ContainerPort},
						&Frontend{Service: pod.ObjectName, PortName: "hostPort", Kind: KindHostPort, Meter: u.meter})
				}
			}
		}
	}
	return u
}

// addSingle adds a frontend with one backend, for all clients.
func (u *unit) addSingle(k Key, b Backend, f *Frontend) {
	f.Endpoints = []Backend{b}
	f.Internal = &Pool{Backends: f.Endpoints}
	f.External = f.Internal
	u.addFrontend(k, f)
}

// addFrontend adds a frontend, unless the same object has one there already.
func (u *unit) addFrontend(k Key, f *Frontend) {
	if !slices.Contains(u.keys, k) {
		u.keys, u.frontends = append(u.keys, k), append(u.frontends, f)
	}
}

func (u *unit) addServiceAddr(a netip.Addr) {
	if !slices.Contains(u.serviceAddrs, a) {
		u.serviceAddrs = append(u.serviceAddrs, a)
	}
}

// portID hashes the name of a Service port: namespace, name and port name, each followed by a byte that no name has.
func portID(n model.ObjectName, p *model.ServicePort) uint64 {
	h := fnv.New64a()
	for _, s := range [...]string{n.Namespace, n.Name, p.Name} {
		_, _ = h.Write([]byte(s))
		_, _ = h.Write([]byte{0xff})
	}
	return stable.Mix(h.Sum64() ^ uint64(p.Protocol))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
