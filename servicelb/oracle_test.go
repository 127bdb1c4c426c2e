package servicelb

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
	"github.com/warrennet/warren/internal/packet"
)

// oracle is a slow and simple model of Services. For every packet it examines the objects themselves. Its flows are a list,
// and it has no tables. Where the balancer may select, the oracle has the set of allowed results and adopts the selected
// one.
type oracle struct {
	self     Self
	snap     *model.Snapshot
	flows    []*oflow
	sessions map[string]netip.AddrPort
	failures map[obackend]*ofailures
}

// obackend is a backend of a Service port; ofailures the clients of its failed connections in a row, and whether they have
// ejected it.
type obackend struct {
	name model.ObjectName
	port string
	at   netip.AddrPort
}
type ofailures struct {
	clients map[netip.Prefix]bool
	out     bool
}

// oflow: the client sends orig[0] -> orig[1], and answers come as back[0] -> back[1].
type oflow struct {
	proto         uint8
	orig, back    [2]netip.AddrPort
	masq, outside bool
	answered, rst bool
	fin, alive    [2]bool
}

// forecast is the expected result of a packet: a verdict, and for a forwarded packet its source and destination. choice, if
// set, checks a new flow. localOnly, if set, reports the backends on this node: another node has load-balanced the packet, so that
// it is dropped for any other backend.
type forecast struct {
	verdict  packet.Verdict
	src, dst netip.AddrPort
	choice   func(v packet.Verdict, p *packet.Packet) error

	localOnly func(netip.Addr) bool
}

func (o *oracle) local(a netip.Addr) bool {
	return slices.Contains(o.self.Addrs, a) || a == o.self.PodNet4 || a == o.self.PodNet6
}
func (o *oracle) pods(a netip.Addr) bool { return netx.Contains(o.self.PodRanges, a) }
func (o *oracle) here(a netip.Addr) bool { return netx.Contains(o.self.PodCIDRs, a) }
func (o *oracle) peer(a netip.Addr) bool { return slices.Contains(o.self.Peers, a) }
func (o *oracle) remote(a netip.Addr) bool {
	return o.peer(a) || o.pods(a) && !o.here(a)
}

func (o *oracle) toward(a netip.Addr) packet.Verdict {
	if o.remote(a) {
		return packet.VerdictPeer
	}
	return packet.VerdictReflect
}

func ours(s *model.Service) bool { return !s.OtherProxy && !s.Headless && s.Type != model.ExternalName }

func (o *oracle) service(a netip.Addr) bool {
	for _, s := range o.snap.Services {
		if !ours(&s) {
			continue
		}
		if slices.Contains(s.ClusterIPs, a) {
			return true
		}
		if !o.local(a) && !o.peer(a) && s.Type == model.LoadBalancer && slices.Contains(s.LBAddresses, a) {
			return true
		}
	}
	return netx.Contains(o.snap.ServiceCIDRs, a)
}

func (o *oracle) world(a netip.Addr) bool {
	return !o.pods(a) && !o.local(a) && !o.peer(a) && !o.service(a) && !netx.Contains(o.self.NonMasquerade, a) &&
		!a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.IsLoopback()
}

// front finds the Service port that answers at an address.
func (o *oracle) front(proto uint8, to netip.AddrPort) (*model.Service, *model.ServicePort, string) {
	for i := range o.snap.Services {
		s := &o.snap.Services[i]
		for j := range s.Ports {
			p := &s.Ports[j]
			switch {
			case !ours(s) || uint8(p.Protocol) != proto:
			case p.Port == to.Port() && slices.Contains(s.ClusterIPs, to.Addr()):
				return s, p, "cluster"
			case p.Port == to.Port() && slices.Contains(s.ExternalIPs, to.Addr()) && !o.local(to.Addr()) && !o.peer(to.Addr()):
				return s, p, "external"
			case s.Type == model.LoadBalancer && p.Port == to.Port() && slices.Contains(s.LBAddresses, to.Addr()):
				return s, p, "lb"
			case s.Type != model.ClusterIP && p.NodePort != 0 && p.NodePort == to.Port() && slices.Contains(o.self.NodePortAddrs,
				to.Addr()):
				return s, p, "node"
			}
		}
	}
	return nil, nil, ""
}

// endpoints lists the endpoints of a port: the best condition of each.
func (o *oracle) endpoints(s *model.Service, p *model.ServicePort, v6 bool) map[netip.AddrPort]model.Endpoint {
	out := map[netip.AddrPort]model.Endpoint{}
	for _, sl := range o.snap.Slices {
		if sl.Namespace != s.Namespace || sl.Service != s.Name || (sl.Family == model.IPv6) != v6 {
			continue
		}
		for _, sp := range sl.Ports {
			if sp.Name != p.Name || sp.Protocol != p.Protocol {
				continue
			}
			for _, e := range sl.Endpoints {
				at := netip.AddrPortFrom(e.Addr, sp.Port)
				if have, dup := out[at]; !dup || e.Ready && !have.Ready {
					out[at] = e
				}
			}
		}
	}
	for at, e := range out {
		if s.PublishNotReady {
			e.Ready, e.Serving, e.Terminating = true, true, false
			out[at] = e
		}
	}
	return out
}

// usableOf are the ready endpoints, or those that still serve.
func usableOf(all map[netip.AddrPort]model.Endpoint, where func(model.Endpoint) bool) (out []netip.AddrPort) {
	for _, ready := range []bool{true, false} {
		for at, e := range all {
			if where(e) && (ready && e.Ready || !ready && !e.Ready && e.Serving && e.Terminating) {
				out = append(out, at)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

func (o *oracle) pool(s *model.Service, p *model.ServicePort, kind string, v6, outside bool) (pool []netip.AddrPort, drop bool) {
	all := o.endpoints(s, p, v6)
	anywhere := func(model.Endpoint) bool { return true }
	policy := model.PolicyCluster
	switch {
	case kind == "cluster":
		policy = s.InternalPolicy
	case outside:
		policy = s.ExternalPolicy
	}
	if policy == model.PolicyLocal {
		pool = usableOf(all, func(e model.Endpoint) bool { return e.Node == o.self.Node })
		return pool, len(pool) == 0 && len(usableOf(all, anywhere)) > 0
	}
	pool = usableOf(all, anywhere)
	near := slices.DeleteFunc(slices.Clone(pool), func(a netip.AddrPort) bool { return !slices.Contains(all[a].ZoneHints, o.self.Zone) })
	unhinted := slices.ContainsFunc(pool, func(a netip.AddrPort) bool { return len(all[a].ZoneHints) == 0 })
	if len(near) > 0 && !unhinted {
		pool = near
	}
	return pool, false
}

// packet returns the expected result of a packet.
func (o *oracle) packet(in ingress, proto uint8, src, dst netip.AddrPort, flags uint8) forecast {
	if o.forged(in, src.Addr(), dst.Addr()) {
		return forecast{verdict: packet.VerdictDrop}
	}
	if f, known := o.known(proto, src, dst, flags); known {
		return f
	}
	refuse := forecast{verdict: packet.VerdictReply, src: dst, dst: src}
	if proto == packet.ProtoTCP && flags&packet.RST != 0 {
		refuse.verdict = packet.VerdictDrop
	}
	pass := forecast{verdict: packet.VerdictPeer, src: src, dst: dst}
	if in == fromPeer || o.here(dst.Addr()) {
		pass.verdict = packet.VerdictReflect
	}
	opens := proto != packet.ProtoTCP || flags == packet.SYN
	if s, p, kind := o.front(proto, dst); s != nil {
		far := kind == "node" && o.pods(src.Addr()) && !o.here(src.Addr()) && !o.local(src.Addr())
		outside := far || !o.local(src.Addr()) && !o.pods(src.Addr()) && !src.Addr().IsLoopback()
		pool, drop := o.pool(s, p, kind, dst.Addr().Is6(), outside)
		switch {
		case in == fromPeer && !o.local(dst.Addr()):
			return forecast{verdict: packet.VerdictDrop}
		case kind == "lb" && len(s.LBSourceRanges) > 0 && !netx.Contains(s.LBSourceRanges, src.Addr()) &&
			!((o.local(src.Addr()) || src.Addr().IsLoopback()) && netx.Contains(s.LBSourceRanges, o.self.Addrs[0])):
			return forecast{verdict: packet.VerdictDrop}
		case !opens:
			return refuse
		case drop:
			return forecast{verdict: packet.VerdictDrop}
		case len(pool) == 0:
			return refuse
		}
		session := ""
		if s.Affinity > 0 {
			session = fmt.Sprint(s.ObjectName, p.Name, proto, src.Addr())
		}
		f := forecast{choice: o.opened(&oflow{proto: proto, orig: [2]netip.AddrPort{src, dst}, outside: outside}, o.standing(s, p, pool),
			session)}
		if in == fromPeer && o.peer(src.Addr()) {
			f.localOnly = func(a netip.Addr) bool { return o.local(a) || o.here(a) }
			if !slices.ContainsFunc(pool, func(x netip.AddrPort) bool { return !f.localOnly(x.Addr()) }) {
				f.localOnly = nil
			}
		}
		return f
	}
	switch {
	case o.service(dst.Addr()):
		if in == fromPeer {
			return forecast{verdict: packet.VerdictDrop}
		}
		return refuse
	case dst.Addr() == o.self.SNAT4 || dst.Addr() == o.self.SNAT6:
		return refuse
	case in == fromPeer && o.pods(src.Addr()) && o.world(dst.Addr()):
		return forecast{verdict: packet.VerdictDrop}
	case in == fromPeer:
		return pass
	case src.Addr().IsLoopback() || dst.Addr().IsLoopback():
		return forecast{verdict: packet.VerdictDrop}
	case o.local(dst.Addr()):
		return refuse
	case o.here(src.Addr()) && o.world(dst.Addr()):
		if !opens {
			return refuse
		}
		return forecast{choice: o.opened(&oflow{proto: proto, orig: [2]netip.AddrPort{src, dst}, masq: true}, []netip.AddrPort{dst}, "")}
	case o.here(dst.Addr()) && !o.here(src.Addr()) && !o.local(src.Addr()):
		return forecast{verdict: packet.VerdictDrop}
	}
	return pass
}

func (o *oracle) forged(in ingress, src, dst netip.Addr) bool {
	switch {
	case in == fromPeer:
		return src.IsLoopback() || dst.IsLoopback() || o.local(src) || o.here(src) || o.peer(src) && !o.local(dst) && !o.here(dst)
	case dst.IsLoopback():
		return !src.IsLoopback() && !o.local(src)
	}
	return o.pods(src) && !o.here(src)
}

// source is whose address a backend must see.
func (o *oracle) source(client, backend netip.Addr, masq bool) (want netip.Addr, fromRange bool) {
	v6 := b2i(backend.Is6())
	node, snat := o.self.Addrs[v6], []netip.Addr{o.self.SNAT4, o.self.SNAT6}[v6]
	switch {
	case masq || !o.pods(backend) && !o.local(backend) && !o.peer(backend):
		return node, true
	case client.IsLoopback():
		return snat, false
	case o.local(client): // this node
		if o.remote(backend) {
			return client, false
		}
	case o.here(client): // a Pod
		if client != backend {
			return client, false
		}
	case o.here(backend) && !o.local(backend): // from a remote Pod or an external client to a Pod of this node
		return client, false
	}
	return snat, false
}

// opened judges the first packet of a flow, and remembers the flow.
func (o *oracle) opened(f *oflow, pool []netip.AddrPort, session string) func(packet.Verdict, *packet.Packet) error {
	return func(v packet.Verdict, p *packet.Packet) error {
		to, from := p.Destination(), p.Source()
		want, fromRange := o.source(f.orig[0].Addr(), to.Addr(), f.masq)
		natural := netip.AddrPortFrom(want, f.orig[0].Port())
		have := o.sessions[session]
		switch {
		case v != o.toward(to.Addr()):
			return fmt.Errorf("verdict %v for a new flow to %v", v, to)
		case !slices.Contains(pool, to):
			return fmt.Errorf("backend %v, not one of %v", to, pool)
		case from.Addr() != want:
			return fmt.Errorf("source %v, want %v", from, want)
		case fromRange && (from.Port() < o.self.MasqueradePorts[0] || from.Port() > o.self.MasqueradePorts[1]):
			return fmt.Errorf("source port %d outside of the range", from.Port())
		case !fromRange && from != natural && !o.taken(f.proto, to, natural):
			return fmt.Errorf("source %v, but %v is free", from, natural)
		case o.taken(f.proto, to, from):
			return fmt.Errorf("the answers %v -> %v belong to another flow", to, from)
		case session != "" && slices.Contains(pool, have) && have != to:
			return fmt.Errorf("backend %v, the session has %v", to, have)
		}
		if session != "" {
			o.sessions[session] = to
		}
		f.back = [2]netip.AddrPort{to, from}
		o.flows = append(o.flows, f)
		return nil
	}
}

// taken reports whether packets src -> dst belong to a flow.
func (o *oracle) taken(proto uint8, src, dst netip.AddrPort) bool {
	way := [2]netip.AddrPort{src, dst}
	return slices.ContainsFunc(o.flows, func(f *oflow) bool { return f.proto == proto && (f.orig == way || f.back == way) })
}

// known handles packets of flows.
func (o *oracle) known(proto uint8, src, dst netip.AddrPort, flags uint8) (forecast, bool) {
	way := [2]netip.AddrPort{src, dst}
	i := slices.IndexFunc(o.flows, func(f *oflow) bool { return f.proto == proto && (f.orig == way || f.back == way) })
	if i < 0 {
		return forecast{}, false
	}
	f := o.flows[i]
	answer := f.back == way
	if !answer && proto == packet.ProtoTCP && flags == packet.SYN && (f.rst || f.fin[0] || f.fin[1]) {
		o.flows = slices.Delete(o.flows, i, i+1)
		return forecast{}, false
	}
	if !o.valid(f) {
		o.flows = slices.Delete(o.flows, i, i+1)
		switch {
		case proto != packet.ProtoTCP && answer || flags&packet.RST != 0 && proto == packet.ProtoTCP:
			return forecast{verdict: packet.VerdictDrop}, true
		case proto != packet.ProtoTCP || !answer && flags == packet.SYN:
			return forecast{}, false
		}
		return forecast{verdict: packet.VerdictReply, src: dst, dst: src}, true
	}
	o.tried(f, answer, flags)
	f.state(answer, flags)
	if answer {
		return forecast{o.toward(f.orig[0].Addr()), f.orig[1], f.orig[0], nil, nil}, true
	}
	return forecast{o.toward(f.back[0].Addr()), f.back[1], f.back[0], nil, nil}, true
}

// valid reports whether the objects still have what a flow was opened for.
func (o *oracle) valid(f *oflow) bool {
	if f.masq {
		return o.world(f.orig[1].Addr())
	}
	s, p, kind := o.front(f.proto, f.orig[1])
	if s == nil {
		return false
	}
	v6 := f.orig[1].Addr().Is6()
	if f.proto != packet.ProtoUDP {
		_, ok := o.endpoints(s, p, v6)[f.back[0]]
		return ok
	}
	pool, _ := o.pool(s, p, kind, v6, f.outside)
	return slices.Contains(pool, f.back[0])
}

// ejects is the number of failures that eject a backend, 0 for none.
func ejects(s *model.Service, p *model.ServicePort) (n int) {
	if p.Protocol == model.TCP {
		_, _ = fmt.Sscan(s.Annotations[EjectAnnotation], &n)
	}
	return n
}

// standing is a pool without the ejected backends, unless these are more than half of it.
func (o *oracle) standing(s *model.Service, p *model.ServicePort, pool []netip.AddrPort) []netip.AddrPort {
	left := slices.DeleteFunc(slices.Clone(pool), func(a netip.AddrPort) bool {
		x := o.failures[obackend{s.ObjectName, p.Name, a}]
		return x != nil && x.out
	})
	if len(left)*2 < len(pool) {
		return pool
	}
	return left
}

// tried notes what came of a connection.
func (o *oracle) tried(f *oflow, answer bool, flags uint8) {
	if f.masq || !answer || f.answered || f.rst {
		return
	}
	s, p, kind := o.front(f.proto, f.orig[1])
	pool, _ := o.pool(s, p, kind, f.orig[1].Addr().Is6(), f.outside)
	if ejects(s, p) == 0 || !slices.Contains(pool, f.back[0]) {
		return
	}
	at := obackend{s.ObjectName, p.Name, f.back[0]}
	x := o.failures[at]
	switch {
	case flags&packet.ACK != 0 && flags&packet.RST == 0:
		delete(o.failures, at)
	case flags&packet.RST == 0 || x != nil && x.out:
	default:
		if x == nil {
			x = &ofailures{clients: map[netip.Prefix]bool{}}
			o.failures[at] = x
		}
		x.clients[o.account(f.orig[0].Addr())] = true
		x.out = true                   // the others are what counts
		x.out = len(x.clients) >= 2 && // the snapshots have no number above 2
			len(o.standing(s, p, pool)) < len(pool)
	}
}

// account is who a client's connections are accounted to.
func (o *oracle) account(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	own := netx.Contains(o.self.PodCIDRs, a) || slices.Contains(o.self.Addrs, a) || slices.Contains(o.self.Peers, a) || a.IsLoopback()
	switch {
	case own:
	case netx.Contains(o.self.PodRanges, a):
		bits = o.self.PodCIDRs[0].Bits()
		if a.Is6() {
			bits = o.self.PodCIDRs[1].Bits()
		}
	case a.Is6():
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// forget drops the failures of what is no endpoint of a Service that ejects any more.
func (o *oracle) forget() {
	for at := range o.failures {
		if !slices.ContainsFunc(o.snap.Services, func(s model.Service) bool { return o.remembers(&s, at) }) {
			delete(o.failures, at)
		}
	}
}

func (o *oracle) remembers(s *model.Service, at obackend) bool {
	if s.ObjectName != at.name || !ours(s) {
		return false
	}
	return slices.ContainsFunc(s.Ports, func(p model.ServicePort) bool {
		_, ok := o.endpoints(s, &p, at.at.Addr().Is6())[at.at]
		return ok && p.Name == at.port && ejects(s, &p) > 0
	})
}

func (f *oflow) state(answer bool, flags uint8) {
	way := b2i(answer)
	switch {
	case f.proto != packet.ProtoTCP:
	case flags&packet.RST != 0:
		f.rst, f.alive = true, [2]bool{}
	case f.rst:
		if f.alive[way] = true; f.alive == [2]bool{true, true} {
			*f = oflow{proto: f.proto, orig: f.orig, back: f.back, masq: f.masq, outside: f.outside, answered: true}
		}
	case flags&packet.FIN != 0 && f.answered:
		f.fin[way] = true
	case answer && flags&packet.ACK != 0:
		f.answered = true
	}
}

// dice throw a cluster in which everything happens: few addresses, so that everything meets.
type dice func(n int) int

func pick[T any](d dice, list []T) T { return list[d(len(list))] }

func (d dice) yes(percent int) bool { return d(100) < percent }

// snapshot throws Services and endpoints.
func (d dice) snapshot() *model.Snapshot {
	s := snap(nil, nil)
	for i, name := range []string{"a", "b", "c", "d"} {
		if d.yes(85) {
			svc := d.service(i, name)
			s.Services = append(s.Services, svc)
		}
		for j := range d(4) {
			s.Slices = append(s.Slices, d.slice(name, fmt.Sprint(name, "-", j)))
		}
	}
	return s
}

func (d dice) service(i int, name string) model.Service {
	s := model.Service{ObjectName: model.ObjectName{Namespace: "d", Name: name}, Type: model.ServiceType(d(3)), UID: name}
	s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 43, 0, byte(i + 1)}), ip(fmt.Sprintf("fd43::%d", i+1))}
	protos := []model.Protocol{model.TCP, model.UDP, model.SCTP}
	for j := range 1 + d(3) {
		s.Ports = append(s.Ports, model.ServicePort{Name: fmt.Sprint("p", j), Protocol: protos[(d(3)+j)%3], Port: 80 + uint16(d(2)),
			NodePort: uint16(d(2)) * (30080 + uint16(d(2)))})
	}
	s.OtherProxy, s.Headless, s.PublishNotReady = d.yes(4), d.yes(4), d.yes(10)
	s.InternalPolicy, s.ExternalPolicy = model.TrafficPolicy(b2i(d.yes(20))), model.TrafficPolicy(b2i(d.yes(30)))
	if d.yes(40) {
		s.ExternalIPs = []netip.Addr{ip(pick(d, []string{"198.51.100.20", "192.168.0.1", "192.168.0.2", "fd99::20"}))}
	}
	if d.yes(40) {
		s.LBAddresses = []netip.Addr{ip(pick(d, []string{"198.51.100.30", "fd99::30"}))}
		if d.yes(50) {
			s.LBSourceRanges = []netip.Prefix{pfx("203.0.113.9/32"), pfx("2001:db8::8/125")}
			if d.yes(50) {
				s.LBSourceRanges = append(s.LBSourceRanges, pfx("10.42.0.0/16"), pfx("192.168.0.1/32"))
			}
		}
	}
	if d.yes(25) {
		s.Affinity = time.Hour
	}
	s.Annotations = map[string]string{Annotation: pick(d, []string{"", "round-robin", "least-connections", "maglev"}),
		EjectAnnotation: pick(d, []string{"", "1", "1", "2"})}
	return s
}

func (d dice) slice(svc, name string) model.EndpointSlice {
	s := model.EndpointSlice{ObjectName: model.ObjectName{Namespace: "d", Name: name}, Service: svc}
	if d.yes(50) {
		s.Family = model.IPv6
	}
	for j := range 3 {
		for _, proto := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
			if d.yes(80) {
				s.Ports = append(s.Ports, model.EndpointPort{Name: fmt.Sprint("p", j), Protocol: proto, Port: 8080 + uint16(d(2))})
			}
		}
	}
	for range d(4) {
		a := families[[...]string{"4", "6"}[s.Family]]
		e := model.Endpoint{Addr: ip(pick(d, []string{a.pod, ip(a.pod).Next().String(), a.far, ip(a.far).Next().String(), a.node, a.peer,
			a.endpoint}))}
		e.Node = nodeOf(e.Addr)
		e.Ready = d.yes(75)
		e.Serving = e.Ready || d.yes(50)
		e.Terminating = !e.Ready && d.yes(70)
		if d.yes(70) {
			e.ZoneHints = []string{pick(d, []string{"z1", "z1", "z2"})}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// path generates the addresses of a packet: those of a flow in either direction, or random ones.
func (d dice) path(o *oracle) (in ingress, proto uint8, src, dst netip.AddrPort) {
	if len(o.flows) > 0 && d.yes(60) {
		f := o.flows[d(len(o.flows))]
		src, dst = f.orig[0], f.orig[1]
		if d.yes(50) {
			src, dst = f.back[0], f.back[1]
		}
		return ingress(b2i(o.remote(src.Addr()) != d.yes(3))), f.proto, src, dst
	}
	a := families[pick(d, []string{"4", "6"})]
	clients := []string{a.pod, ip(a.pod).Next().String(), a.node, a.outside, ip(a.outside).Next().String(), a.far, a.peer}
	var servers []netip.AddrPort
	for _, s := range o.snap.Services {
		for _, p := range s.Ports {
			for _, list := range [][]netip.Addr{s.ClusterIPs, s.ExternalIPs, s.LBAddresses} {
				for _, x := range list {
					if x.Is4() == ip(a.node).Is4() {
						servers = append(servers, netip.AddrPortFrom(x, p.Port))
					}
				}
			}
		}
	}
	servers = append(servers, at(a.node, 30080), at(a.node, 30081), at(a.peer, 30080), at(a.endpoint, 80), at(a.vip, 80), at(a.snat, 4000),
		at(a.pod, 8080), at(a.far, 8080))
	if a.loop != "" {
		clients, servers = append(clients, a.loop), append(servers, at(a.loop, 30080))
	}
	src = at(pick(d, clients), 4000+uint16(d(3)))
	return ingress(b2i(o.remote(src.Addr()) != d.yes(5))), pick(d, []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP}), src,
		pick(d, servers)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
