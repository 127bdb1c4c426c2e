package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/recent"
	"github.com/warrennet/warren/servicelb/internal/stable"
)

// udpCallCache maps a UDP call from a Pod of another node to the address of this node that the Pod has sent to.
//
// A UDP server that is bound to the unspecified address replies from the source address of its route to the Pod, which is
// the node's Pod-net address. The Pod expects the reply from the address that it has sent to.
type udpCallCache = recent.Cache[udpCallKey, netip.Addr]

type udpCallKey struct {
	pod               netip.Addr
	podPort, nodePort uint16
}

func (k *udpCallKey) hash() uint64 {
	return stable.Hash(k.pod, uint64(k.podPort)<<16|uint64(k.nodePort))
}

// recordUDPCall stores the destination of a datagram from a Pod of another node to this node.
func (b *Balancer) recordUDPCall(v *view, p *packet.Packet) {
	if p.Proto == packet.ProtoUDP && p.HasL4 && v.IsNodeAddr(p.Dst) && v.IsPod(p.Src) {
		k := udpCallKey{p.Src, p.SrcPort, p.DstPort}
		b.udpCalls.Put(k.hash(), k, p.Dst, b.now())
	}
}

// restoreUDPReplySource gives this node's reply to such a Pod the source address that the Pod has sent to.
func (b *Balancer) restoreUDPReplySource(v *view, p *packet.Packet) {
	if p.Proto != packet.ProtoUDP || !p.HasL4 || p.Src != v.Self().PodNet(familyOf(p)) {
		return
	}
	k := udpCallKey{p.Dst, p.DstPort, p.SrcPort}
	if called, ok := b.udpCalls.GetAndRenew(k.hash(), k, b.now(), conntrack.UDPTimeout); ok && called != p.Src {
		p.SetSource(netip.AddrPortFrom(called, p.SrcPort))
	}
}
