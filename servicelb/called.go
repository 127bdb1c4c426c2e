package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// calls remembers which address of this node a Pod of another node has called by UDP. A server that is bound to no address
// answers from the one that the route to the Pods prefers, which is the node's among them; the Pod waits for an answer from
// where it has called.
type calls = recent[callKey, netip.Addr]

type callKey struct {
	pod       netip.Addr
	port, own uint16 // the Pod's port and this node's
}

func (k *callKey) hash() uint64 { return stable(k.pod, uint64(k.port)<<16|uint64(k.own)) }

// isCalled notes what a Pod of another node sends to a socket of this one.
func (b *Balancer) isCalled(v *view, p *packet.Packet) {
	if p.Proto == packet.ProtoUDP && p.HasL4 && v.local[p.Dst] && v.inPods(p.Src) {
		k := callKey{p.Src, p.SrcPort, p.DstPort}
		b.calls.put(k.hash(), k, p.Dst, b.now())
	}
}

// answersAsCalled gives the host's answer to such a Pod the source that the Pod has called.
func (b *Balancer) answersAsCalled(v *view, p *packet.Packet) {
	if p.Proto != packet.ProtoUDP || !p.HasL4 || p.Src != v.self.podNet(p.Version == 4) {
		return
	}
	k := callKey{p.Dst, p.DstPort, p.SrcPort}
	if to, ok := b.calls.renew(k.hash(), k, b.now(), timeouts[udpOpen]); ok && to != p.Src {
		p.SetSource(netip.AddrPortFrom(to, p.SrcPort))
	}
}
