package servicelb

import (
	"encoding/binary"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// icmpError sends an error to the end of the flow that caused it, in the words that end knows. It is never balanced.
func (b *Balancer) icmpError(v *view, p *packet.Packet, in from) packet.Verdict {
	if in == fromHost && b.refused(v, p) {
		return b.drop(dropRefusal)
	}
	if verdict, ok := b.quoted(v, p); ok {
		return verdict
	}
	switch {
	case v.serviceAddr(p.Dst) || p.Dst == v.self.snat(p.Version == 4):
		return b.drop(dropNoFlow)
	case v.leaves(p):
		return b.drop(dropLeak)
	case in == fromHost && v.ownError(p):
		return packet.VerdictReflect
	}
	return in.pass(v, p)
}

// refused reports whether the host says that nobody listens for a packet of a flow. It has put the packet together from
// fragments and has not seen that the agent passed it on.
func (b *Balancer) refused(v *view, p *packet.Packet) bool {
	if !noPort(p) || v.inPods(p.Src) || v.inPods(p.Dst) {
		return false // a Pod may have called a backend that is this host by the backend's own address
	}
	in, ok := p.Inner()
	if !ok || !in.HasPorts || in.Version != p.Version {
		return false
	}
	k := key{tuple: tupleOf(netip.AddrPortFrom(in.Src, in.SrcPort), netip.AddrPortFrom(in.Dst, in.DstPort)), proto: in.Proto}
	_, _, known := b.flows.peek(&k)
	return known
}

// noPort reports whether an ICMP error is a port unreachable.
func noPort(p *packet.Packet) bool {
	return p.Version == 4 && p.ICMPType == 3 && p.ICMPCode == 3 || p.Version == 6 && p.ICMPType == 1 && p.ICMPCode == 4
}

// ownError reports whether an error speaks of the host's own traffic or of what it forwards for others than Pods. It came here
// because the kernel's rules cannot tell it from one about a flow.
func (t *Table) ownError(p *packet.Packet) bool {
	return !t.inPods(p.Src) && !t.inPods(p.Dst) && !within(t.self.Foreign, p.Dst)
}

// quoted finds the flow that an error speaks of and rewrites the error. What is quoted was on its way in one
// direction; the error goes in the other.
func (b *Balancer) quoted(v *view, p *packet.Packet) (packet.Verdict, bool) {
	inner, ok := p.Inner()
	if !ok || inner.Version != p.Version {
		return 0, false
	}
	k, ok := answersOf(p, &inner)
	if !ok {
		return 0, false
	}
	ways, way, ok := b.flows.peek(&k)
	if !ok {
		return 0, false
	}
	if way == reply && v.ejecting > 0 && k.proto == packet.ProtoTCP && unreachable(p) {
		b.unreached(v, &k)
	}
	to := ways[1-way]
	src, dst := p.Src, to.source().Addr()
	switch {
	case way == reply:
		if svc := to.destination().Addr(); src == ways[reply].source().Addr() || v.inPods(src) && !v.inPods(dst) {
			src = svc
		}
	case ways[orig].source().Addr() != to.destination().Addr():
		src = to.destination().Addr() // the client is not shown, nor is who stands near it
	}
	if inner.Echo {
		p.SetInnerEcho(&inner, to.sport|to.dport)
	}
	if !p.SetInnerSource(&inner, to.source()) || !p.SetInnerDestination(&inner, to.destination()) ||
		!p.SetSource(netip.AddrPortFrom(src, 0)) || !p.SetDestination(netip.AddrPortFrom(dst, 0)) {
		return b.drop(dropFamily), true
	}
	return v.toward(dst), true
}

// answersOf is the key of the packets that would answer the quoted one.
func answersOf(p *packet.Packet, in *packet.Inner) (k key, ok bool) {
	k.proto = in.Proto
	k.src, k.dst = in.Dst.As16(), in.Src.As16()
	switch {
	case in.HasPorts:
		k.sport, k.dport = in.DstPort, in.SrcPort
	case in.Echo && (p.Buf[in.L4] == 8 || p.Buf[in.L4] == 128):
		k.dport = in.EchoID
	case in.Echo:
		k.sport = in.EchoID
	default:
		return k, false
	}
	return k, true
}

// peek copies the tuples of a flow.
func (f *flows) peek(k *key) (ways [2]tuple, way int, ok bool) {
	h := k.hash(f.seed)
	s := f.shard(h)
	s.Lock()
	defer s.Unlock()
	ref := f.find(h, k)
	if ref == 0 {
		return ways, 0, false
	}
	e, way := f.at(ref)
	return e.way, way, true
}

// FromHost handles what came to one of the node's own addresses and was not steered to the TUN: ICMP errors and echo replies
// (steering them would break neighbour discovery), and datagrams that arrived in fragments, which show the kernel's rules no
// ports. The agent reads them from raw sockets, whole. What belongs to no flow and no frontend is dropped: the kernel has
// its own copy.
func (b *Balancer) FromHost(p *packet.Packet) (deliver packet.Verdict) {
	v := b.view.Load()
	if v.gen == 0 || p.Fragment() {
		return packet.VerdictDrop
	}
	if p.Proto == packet.ProtoUDP {
		return b.datagram(v, p)
	}
	if p.ICMPError() {
		if verdict, ok := b.quoted(v, p); ok {
			return verdict
		}
		return packet.VerdictDrop
	}
	if _, request, ok := p.Echo(); !ok || request {
		return packet.VerdictDrop
	}
	k, ok := keyOf(p)
	if !ok {
		return packet.VerdictDrop
	}
	if verdict, ok := b.known(v, p, &k, fromHost); ok {
		return verdict
	}
	return packet.VerdictDrop
}

// datagram handles one that the host has put together.
func (b *Balancer) datagram(v *view, p *packet.Packet) packet.Verdict {
	if why := v.forged(p, fromHost); why != 0 {
		return b.drop(why)
	}
	k, ok := keyOf(p)
	if !ok {
		return packet.VerdictDrop
	}
	if verdict, ok := b.known(v, p, &k, fromHost); ok {
		return verdict
	}
	if f := v.front(frontKey{p.Dst, p.DstPort, p.Proto}); f != nil {
		return b.open(v, p, &k, f, fromHost)
	}
	return packet.VerdictDrop
}

// pong turns an echo request to a Service address into its reply.
func (b *Balancer) pong(p *packet.Packet) packet.Verdict {
	if p.Fragment() || len(p.Buf) < p.Length {
		return b.drop(dropFragment)
	}
	p.CompleteChecksum()
	if !p.ChecksumOK() {
		return b.drop(dropChecksum)
	}
	h := p.Buf[p.L4:]
	was := binary.BigEndian.Uint16(h)
	h[0] = map4or6(p.Version, 0, 129)
	p.ICMPType = h[0]
	sum := uint32(^binary.BigEndian.Uint16(h[2:])) + uint32(^was) + uint32(binary.BigEndian.Uint16(h))
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(h[2:], ^uint16(sum>>16+sum))
	src, dst := p.Src, p.Dst
	p.SetSource(netip.AddrPortFrom(dst, 0))
	p.SetDestination(netip.AddrPortFrom(src, 0))
	p.SetTTL(64)
	return packet.VerdictReply
}

func map4or6(version, four, six uint8) uint8 {
	if version == 4 {
		return four
	}
	return six
}
