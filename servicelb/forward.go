package servicelb

import "github.com/warrennet/warren/internal/packet"

// forward handles a packet that goes from one peer to another: from a Pod to a node port of this node whose backend is on a
// third node, its replies, and ICMP errors about both. The kernel, which decrements the TTL or hop limit of every packet that it
// routes to or from the TUN, does not see this packet. So the hook decrements, and no packet can circulate between nodes.
func (b *Balancer) forward(v *view, p *packet.Packet) packet.Verdict {
	if p.DecrementTTL() {
		return packet.VerdictPeer
	}
	from := v.Self().PodNet(familyOf(p))
	if p.Fragment() || p.Partial() || len(p.Buf) < p.Length || !from.IsValid() {
		return b.drop(dropTTL)
	}
	buf := answerBuffers.Get().(*[packet.MaxAnswer]byte)
	defer answerBuffers.Put(buf)
	if !p.Become(p.AppendTimeExceeded(buf[:0], from)) {
		return b.drop(dropTTL)
	}
	verdict, ok := b.translateError(v, p) // the error quotes the packet as translated; the sender must recognise it
	if ok && !b.mayAnswerTo(p.Dst) {      // only now the destination is the client, not an address that many clients share
		return b.drop(dropAnswerRate)
	}
	b.counters.countDrop(dropTTL)
	if !ok {
		return packet.VerdictDrop
	}
	return verdict
}

// forwardFromHost decrements the TTL or hop limit of a packet that a raw socket has received and that goes to a peer: the
// kernel has delivered its own copy, and has not forwarded it.
func (b *Balancer) forwardFromHost(p *packet.Packet, verdict packet.Verdict) packet.Verdict {
	if verdict == packet.VerdictPeer && !p.DecrementTTL() {
		return b.drop(dropTTL)
	}
	return verdict
}
