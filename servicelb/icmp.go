package servicelb

import (
	"encoding/binary"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/table"
)

// icmpError forwards an ICMP error to the end of the flow that has caused it, with the addresses that this end uses. An
// error is never balanced.
func (b *Balancer) icmpError(v *view, p *packet.Packet, in ingress) packet.Verdict {
	if in == fromHost && b.isHostRefusal(v, p) {
		return b.drop(dropHostRefusal)
	}
	if verdict, ok := b.translateError(v, p); ok {
		return verdict
	}
	switch {
	case v.IsServiceAddr(p.Dst) || p.Dst == v.Self().SNAT(familyOf(p)):
		return b.drop(dropNoFlow)
	case v.leavesCluster(p):
		return b.drop(dropLeak)
	case in == fromHost && v.isHostError(p):
		return packet.VerdictReflect
	}
	return v.passThrough(p, in)
}

// isHostRefusal reports whether an ICMP error is the host's port unreachable for a packet of a flow. The host sends it
// for a datagram that it has reassembled from fragments. The agent has forwarded a copy of that datagram.
func (b *Balancer) isHostRefusal(v *view, p *packet.Packet) bool {
	if !isPortUnreachable(p) || v.IsPod(p.Src) || v.IsPod(p.Dst) {
		return false // a Pod may have sent to a backend that is this host, at the backend's own address
	}
	quoted, ok := p.Inner()
	if !ok || !quoted.HasPorts || quoted.Version != p.Version {
		return false
	}
	k := conntrack.Key{Proto: quoted.Proto}
	k.Tuple = conntrack.TupleOf(netip.AddrPortFrom(quoted.Src, quoted.SrcPort), netip.AddrPortFrom(quoted.Dst, quoted.DstPort))
	_, _, ok = b.flows.Peek(&k)
	return ok
}

func isPortUnreachable(p *packet.Packet) bool {
	return p.Version == 4 && p.ICMPType == 3 && p.ICMPCode == 3 || p.Version == 6 && p.ICMPType == 1 && p.ICMPCode == 4
}

// isHostError reports whether an ICMP error is about traffic of the host itself, or traffic that the host routes between
// networks that are not Pod networks. Policy routing rules match such an error as well as one about a flow.
func (v *view) isHostError(p *packet.Packet) bool {
	return !v.IsPod(p.Src) && !v.IsPod(p.Dst) && !v.IsExternalPeer(p.Dst)
}

// translateError finds the flow of the packet that an ICMP error quotes and translates the error. It reports false if
// there is no flow. The error goes in the direction opposite to that of the quoted packet.
func (b *Balancer) translateError(v *view, p *packet.Packet) (packet.Verdict, bool) {
	quoted, ok := p.Inner()
	if !ok || quoted.Version != p.Version {
		return 0, false
	}
	k, ok := conntrack.ReplyKeyOf(p, &quoted)
	if !ok {
		return 0, false
	}
	tuples, dir, ok := b.flows.Peek(&k)
	if !ok {
		return 0, false
	}
	if dir == conntrack.Reply && v.Ejects() && k.Proto == packet.ProtoTCP && isUnreachable(p) {
		b.recordUnreachable(v, &k)
	}
	original, reply := &tuples[conntrack.Original], &tuples[conntrack.Reply]
	to := &tuples[dir.Opposite()] // what the receiver of the error has sent
	src, dst := p.Src, to.Source().Addr()
	switch {
	case dir == conntrack.Reply: // to the client: the backend and Pods behind it appear as the Service
		if src == reply.Source().Addr() || v.IsPod(src) && !v.IsPod(dst) {
			src = to.Destination().Addr()
		}
	case original.Source().Addr() != to.Destination().Addr():
		src = to.Destination().Addr() // the backend does not see the client's address, nor that of a router near it
	}
	if quoted.Echo {
		p.SetInnerEcho(&quoted, to.SrcPort|to.DstPort)
	}
	if !p.SetInnerSource(&quoted, to.Source()) || !p.SetInnerDestination(&quoted, to.Destination()) ||
		!p.SetSource(netip.AddrPortFrom(src, 0)) || !p.SetDestination(netip.AddrPortFrom(dst, 0)) {
		return b.drop(dropFamily), true
	}
	return v.verdictFor(dst), true
}

// FromHost handles a packet to one of the node's own addresses that policy routing does not redirect to the TUN. The
// agent's raw sockets receive them:
//   - ICMP errors and echo replies; redirecting them would break neighbour discovery,
//   - UDP datagrams that arrived as fragments, reassembled; policy routing rules cannot match their ports.
//
// A packet without a flow and without a frontend is dropped: the kernel has delivered its own copy.
func (b *Balancer) FromHost(p *packet.Packet) packet.Verdict {
	return b.forwardFromHost(p, b.fromRawSocket(p))
}

func (b *Balancer) fromRawSocket(p *packet.Packet) packet.Verdict {
	v := b.view.Load()
	if v.gen == 0 || p.Fragment() {
		return packet.VerdictDrop
	}
	if p.Proto == packet.ProtoUDP {
		return b.reassembledDatagram(v, p)
	}
	if p.ICMPError() {
		if verdict, ok := b.translateError(v, p); ok {
			return verdict
		}
		return packet.VerdictDrop
	}
	if _, request, ok := p.Echo(); !ok || request {
		return packet.VerdictDrop
	}
	k, ok := conntrack.KeyOf(p)
	if !ok {
		return packet.VerdictDrop
	}
	if verdict, ok := b.established(v, p, &k, fromHost); ok {
		return verdict
	}
	return packet.VerdictDrop
}

func (b *Balancer) reassembledDatagram(v *view, p *packet.Packet) packet.Verdict {
	if reason := v.checkSource(p, fromHost); reason != notDropped {
		return b.drop(reason)
	}
	k, ok := conntrack.KeyOf(p)
	if !ok {
		return packet.VerdictDrop
	}
	if verdict, ok := b.established(v, p, &k, fromHost); ok {
		return verdict
	}
	if f := v.Frontend(table.Key{Addr: p.Dst, Port: p.DstPort, Proto: p.Proto}); f != nil {
		return b.newFlow(v, p, &k, f, fromHost)
	}
	return packet.VerdictDrop
}

// echoReply turns an echo request to a Service address into its reply.
func (b *Balancer) echoReply(p *packet.Packet) packet.Verdict {
	if p.Fragment() || len(p.Buf) < p.Length {
		return b.drop(dropFragment)
	}
	if !b.mayAnswer(p) {
		return b.drop(dropAnswerRate)
	}
	p.CompleteChecksum()
	if !p.ChecksumOK() {
		return b.drop(dropChecksum)
	}
	h := p.Buf[p.L4:]
	before := binary.BigEndian.Uint16(h)
	h[0] = 0 // echo reply
	if p.Version == 6 {
		h[0] = 129
	}
	p.ICMPType = h[0]
	sum := uint32(^binary.BigEndian.Uint16(h[2:])) + uint32(^before) + uint32(binary.BigEndian.Uint16(h)) // RFC 1624
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(h[2:], ^uint16(sum>>16+sum))
	src, dst := p.Src, p.Dst
	p.SetSource(netip.AddrPortFrom(dst, 0))
	p.SetDestination(netip.AddrPortFrom(src, 0))
	p.SetTTL(64)
	return packet.VerdictReply
}
