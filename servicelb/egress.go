package servicelb

import (
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// egress handles the first packet from a Pod of this node to an external network: it opens a masqueraded flow, with a
// node address and a masquerade port as its source. A packet that cannot have a flow is dropped, because external
// networks have no route to a Pod's own address.
func (b *Balancer) egress(v *view, p *packet.Packet) packet.Verdict {
	k, ok := conntrack.KeyOf(p)
	if !ok {
		return b.drop(dropLeak)
	}
	if p.Proto == packet.ProtoTCP && p.TCPFlags&(packet.SYN|packet.ACK|packet.RST|packet.FIN) != packet.SYN {
		return b.reset(p, dropLeak)
	}
	if _, request, echo := p.Echo(); echo && !request {
		return b.drop(dropLeak)
	}
	src := v.NodeAddr(p.Dst)
	if !src.IsValid() {
		return b.drop(dropNoSource)
	}
	o := opening{in: fromHost, kind: clientLocalPod, backend: p.Destination(), source: src}
	o.Proto, o.Generation, o.Tuples[conntrack.Original] = p.Proto, v.gen, k.Tuple
	o.Flags = conntrack.FlagMasquerade | conntrack.FlagNodeSource
	return b.insert(v, p, &o)
}
