package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// from is the side a packet entered by.
type from uint8

const (
	fromHost from = iota
	fromPeer
)

// pass is what becomes of a packet that is none of the balancer's business. The host steers more than Service traffic
// here (every reply from a target port, ICMP towards local Pods): what is for a Pod of this node goes straight back. The
// rest is for peers, nodes of the cluster or not; what none of them owns the tunnel drops.
func (f from) pass(v *view, p *packet.Packet) packet.Verdict {
	if f == fromPeer || v.here(p.Dst) || v.bare(p.Dst) {
		return packet.VerdictReflect
	}
	return packet.VerdictPeer
}

// Outbound decides about a packet that the host has routed to the TUN.
func (b *Balancer) Outbound(p *packet.Packet) packet.Verdict { return b.handle(p, fromHost) }

// Inbound decides about a packet from a peer.
func (b *Balancer) Inbound(p *packet.Packet) packet.Verdict { return b.handle(p, fromPeer) }

// handle is the way of every packet: source checks, pieces of fragmented packets, errors, known flows, new ones.
func (b *Balancer) handle(p *packet.Packet, in from) packet.Verdict {
	v := b.view.Load()
	if why := v.forged(p, in); why != 0 {
		return b.drop(why)
	}
	if p.Fragment() {
		return b.fragment(v, p, in)
	}
	return b.whole(v, p, in)
}

// whole handles a packet that has its transport header.
func (b *Balancer) whole(v *view, p *packet.Packet, in from) packet.Verdict {
	if p.ICMPError() {
		return b.icmpError(v, p, in)
	}
	k, ok := keyOf(p)
	if !ok {
		return b.unknown(v, p, in)
	}
	if verdict, known := b.known(v, p, &k, in); known {
		return verdict
	}
	return b.fresh(v, p, &k, in)
}

// fresh handles a packet with a key but without a flow.
func (b *Balancer) fresh(v *view, p *packet.Packet, k *key, in from) packet.Verdict {
	if f := v.front(frontKey{p.Dst, p.DstPort, p.Proto}); f != nil && p.HasPorts() {
		if in == fromPeer && !v.local[p.Dst] {
			return b.drop(dropPeerService)
		}
		return b.open(v, p, k, f, in)
	}
	return b.unknown(v, p, in)
}

// unknown handles what belongs to no flow and to no frontend.
func (b *Balancer) unknown(v *view, p *packet.Packet, in from) packet.Verdict {
	switch {
	case v.serviceAddr(p.Dst):
		if in == fromPeer {
			return b.drop(dropPeerService)
		}
		return b.noService(v, p)
	case p.Dst == v.self.snat(p.Version == 4):
		return b.reject(p, dropNoFlow) // the host would send it here again
	case in == fromPeer && v.leaves(p):
		return b.drop(dropLeak)
	case in == fromPeer:
		b.isCalled(v, p)
		return packet.VerdictReflect
	case p.Src.IsLoopback() || p.Dst.IsLoopback():
		return b.drop(dropLoopback)
	case v.local[p.Dst]:
		return b.reject(p, dropNoListener)
	case v.leaves(p):
		return b.masquerade(v, p)
	case v.here(p.Dst) && !v.here(p.Src) && !v.local[p.Src]:
		return b.drop(dropNoPod) // the host has no route to such a Pod but the one to here
	}
	b.answersAsCalled(v, p)
	return in.pass(v, p)
}

// forged returns why the source of a packet cannot be what it says, or 0.
func (t *Table) forged(p *packet.Packet, in from) reason {
	if p.Src.IsLoopback() || p.Dst.IsLoopback() {
		if in == fromPeer || p.Dst.IsLoopback() && !p.Src.IsLoopback() && !t.local[p.Src] {
			return dropLoopback
		}
		return 0
	}
	if in == fromPeer {
		switch {
		case t.local[p.Src] || t.here(p.Src):
			return dropSpoofed
		case t.peers[p.Src] && !t.local[p.Dst] && !t.here(p.Dst):
			return dropSpoofed // a node may talk to this node and its Pods, not through it
		}
		return 0
	}
	if t.inPods(p.Src) && !t.here(p.Src) {
		return dropSpoofed
	}
	return 0
}

// serviceAddr reports whether an address belongs to Services alone.
func (t *Table) serviceAddr(a netip.Addr) bool { return t.vip(a) || within(t.ranges, a) }

// world reports whether a destination is outside of everything this cluster is made of, so that a Pod must not show
// its address there.
func (t *Table) world(a netip.Addr) bool {
	return !t.inCluster(a) && !within(t.self.NonMasquerade, a) && !a.IsMulticast() && !a.IsLinkLocalUnicast() &&
		!a.IsLoopback() && !a.IsUnspecified() && a != broadcast
}

// bare reports whether a destination is outside of the tunnel and sees Pods as they are. What goes there comes to the TUN only
// because it looks like a backend's answer.
func (t *Table) bare(a netip.Addr) bool {
	return len(t.self.NonMasquerade) > 0 && !t.inCluster(a) && within(t.self.NonMasquerade, a) && !within(t.self.Foreign, a)
}

// leaves reports whether a packet would carry a Pod's address out into the world.
func (t *Table) leaves(p *packet.Packet) bool { return t.inPods(p.Src) && t.world(p.Dst) }

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func (t *Table) inCluster(a netip.Addr) bool {
	return t.inPods(a) || t.local[a] || t.peers[a] || t.serviceAddr(a)
}
