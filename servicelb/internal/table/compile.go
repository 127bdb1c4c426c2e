package table

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/namehash"
	"github.com/warrennet/warren/internal/ownership"
	"github.com/warrennet/warren/servicelb/internal/stable"
	"github.com/warrennet/warren/servicelb/internal/traffic"
)

// unit is one compiled object, a Service or a Pod with host ports: everything that it adds to the table.
type unit struct {
	keys         []Key
	frontends    []*Frontend // of keys
	serviceAddrs []wholeClaim
	refusals     []Refusal
	meter        *traffic.Meter
	maglevSlots  int    // of all lookup tables
	problem      string // what exceeds a bound or cannot be used, "" for nothing
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
	addrs := t.addrsOf(svc, u)
	for i := range svc.Ports {
		t.compilePort(u, svc, &svc.Ports[i], addrs, parts)
	}
	t.compileHealthCheck(u, svc)
	if len(svc.LBSourceInvalid) > 0 && u.problem == "" {
		u.problem = fmt.Sprintf("Service %s: loadBalancerSourceRanges has %q, no CIDRs such as 192.0.2.0/24; they admit no client",
			svc.ObjectName, svc.LBSourceInvalid)
	}
	for _, x := range addrs {
		if x.claim.Class.Whole() {
			u.addServiceAddr(x.addr, x.claim.Class)
		}
	}
	return u
}

// serviceAddr is an address of a Service.
type serviceAddr struct {
	addr  netip.Addr
	claim *ownership.Claim
}

// addrsOf lists the addresses that a Service may have, and records those that it may not have. The status of a Service that was of
// type LoadBalancer before may still contain load balancer addresses; they do not count.
func (t *Table) addrsOf(svc *model.Service, u *unit) (out []serviceAddr) {
	add := func(class ownership.Class, addrs []netip.Addr) {
		if len(addrs) == 0 {
			return
		}
		claim := &ownership.Claim{Class: class, Owner: svc.ObjectName, Created: svc.Created, UID: svc.UID}
		for _, a := range addrs {
			if why := t.refuse(class, a); why != "" {
				u.refuse(Refusal{Object: svc.ObjectName, Class: class, Addr: a, Reason: why})
				continue
			}
			out = append(out, serviceAddr{a, claim})
		}
	}
	add(ownership.ClusterIP, svc.ClusterIPs)
	if svc.Type == model.LoadBalancer {
		add(ownership.LoadBalancer, svc.LBAddresses)
	}
	add(ownership.ExternalIP, svc.ExternalIPs)
	return out
}

func (t *Table) compilePort(u *unit, svc *model.Service, p *model.ServicePort, addrs []serviceAddr, parts []*model.EndpointSlice) {
	var ports [2]*servicePort // by family, on demand
	id, eject := portID(svc.ObjectName, p), uint16(0)
	if p.Protocol == model.TCP {
		eject = ejectAfter(svc.Annotations)
	}
	add := func(kind Kind, claim *ownership.Claim, addr netip.Addr, number uint16) {
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
			Service: svc.ObjectName, PortName: p.Name, Claim: claim,
		}
		if claim.Class == ownership.LoadBalancer {
			f.SourceRanges, f.Restricted = svc.LBSourceRanges, svc.Restricted()
		}
		u.prepare(f)
		u.addFrontend(Key{addr, number, uint8(p.Protocol)}, f)
	}
	for _, x := range addrs {
		kind := KindExternal
		if x.claim.Class == ownership.ClusterIP {
			kind = KindClusterIP
		}
		add(kind, x.claim, x.addr, p.Port)
	}
	if p.NodePort == 0 || svc.Type == model.ClusterIP || !t.nodePort(u, svc, ownership.Port{Proto: p.Protocol, Port: p.NodePort}) {
		return
	}
	claim := nodePortClaim(svc)
	for _, a := range t.self.NodePortAddrs {
		add(KindNodePort, claim, a, p.NodePort)
	}
}

// nodePort reports whether a Service may have a port of this node, and records it otherwise.
func (t *Table) nodePort(u *unit, svc *model.Service, p ownership.Port) bool {
	why := t.self.Ownership.RefuseNodePort(netip.Addr{}, p)
	if why != "" {
		u.refuse(Refusal{Object: svc.ObjectName, Class: ownership.NodePort, Port: p.Port, Proto: p.Proto, Reason: why})
	}
	return why == ""
}

func nodePortClaim(svc *model.Service) *ownership.Claim {
	return &ownership.Claim{Class: ownership.NodePort, Owner: svc.ObjectName, Created: svc.Created, UID: svc.UID}
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

// compileHealthCheck forwards a health check node port to the agent's listener, whose port is not redirected.
func (t *Table) compileHealthCheck(u *unit, svc *model.Service) {
	listener := t.self.HealthListeners[svc.HealthCheckNodePort]
	if svc.HealthCheckNodePort == 0 || listener == 0 ||
		!t.nodePort(u, svc, ownership.Port{Proto: model.TCP, Port: svc.HealthCheckNodePort}) {
		return
	}
	claim := nodePortClaim(svc)
	for _, a := range t.self.NodePortAddrs {
		podNet := t.self.PodNet(model.FamilyOf(a))
		if !podNet.IsValid() {
			continue
		}
		u.addSingle(Key{a, svc.HealthCheckNodePort, uint8(model.TCP)}, Backend{podNet, listener},
			&Frontend{Service: svc.ObjectName, PortName: "healthCheckNodePort", Kind: KindNodePort, Claim: claim})
	}
}

// compilePod fills the unit of a Pod of this node that has host ports.
func (t *Table) compilePod(pod *model.Pod, u *unit) *unit {
	claim := &ownership.Claim{Class: ownership.HostPort, Owner: pod.ObjectName, Created: pod.Created, UID: pod.UID}
	for _, h := range pod.HostPorts {
		if why := t.self.Ownership.RefuseNodePort(h.HostIP, ownership.Port{Proto: h.Protocol, Port: h.HostPort}); why != "" {
			u.refuse(Refusal{Object: pod.ObjectName, Class: ownership.HostPort, Addr: h.HostIP, Port: h.HostPort, Proto: h.Protocol,
				Reason: why})
			continue
		}
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
						&Frontend{Service: pod.ObjectName, PortName: "hostPort", Kind: KindHostPort, Meter: u.meter, Claim: claim})
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

func (u *unit) addServiceAddr(a netip.Addr, c ownership.Class) {
	if x := (wholeClaim{a, c}); !slices.Contains(u.serviceAddrs, x) {
		u.serviceAddrs = append(u.serviceAddrs, x)
	}
}

// portID hashes the name of a Service port: namespace, name, port name and protocol.
func portID(n model.ObjectName, p *model.ServicePort) uint64 {
	return stable.Mix(namehash.Of(n.Namespace, n.Name, p.Name) ^ uint64(p.Protocol))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
