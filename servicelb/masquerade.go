package servicelb

import "github.com/warrennet/warren/internal/packet"

// masquerade starts a flow from a Pod of this node to the world, under the node's address. What cannot have a flow
// is stopped here: a Pod's address means nothing out there.
func (b *Balancer) masquerade(v *view, p *packet.Packet) packet.Verdict {
	k, ok := keyOf(p)
	if !ok {
		return b.drop(dropLeak)
	}
	if p.Proto == packet.ProtoTCP && p.TCPFlags&(packet.SYN|packet.ACK|packet.RST|packet.FIN) != packet.SYN {
		return b.reset(p, dropLeak)
	}
	if _, request, echo := p.Echo(); echo && !request {
		return b.drop(dropLeak)
	}
	src := v.nodeAddr(p.Dst)
	if !src.IsValid() {
		return b.drop(dropNoSource)
	}
	n := birth{proto: p.Proto, gen: v.gen, flags: flagMasquerade | flagNodeSource}
	n.way[orig] = k.tuple
	return b.bind(v, p, &k, &n, p.Destination(), src, fromHost)
}
