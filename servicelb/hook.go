package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/table"
)

// ingress is the side that a packet has entered from.
type ingress uint8

const (
	fromHost ingress = iota // the host has routed it to the TUN
	fromPeer                // WireGuard has decrypted it
)

// Outbound decides about a packet that the host has routed to the TUN.
func (b *Balancer) Outbound(p *packet.Packet) packet.Verdict { return b.handle(p, fromHost) }

// Inbound decides about a packet that a peer has sent.
func (b *Balancer) Inbound(p *packet.Packet) packet.Verdict { return b.handle(p, fromPeer) }

// handle verifies the source address, as rp_filter does, before everything else.
func (b *Balancer) handle(p *packet.Packet, in ingress) packet.Verdict {
	v := b.view.Load()
	if reason := v.checkSource(p, in); reason != notDropped {
		return b.drop(reason)
	}
	verdict := packet.VerdictDrop
	if p.Fragment() {
		verdict = b.fragment(v, p, in)
	} else {
		verdict = b.parsed(v, p, in)
	}
	if in == fromPeer && verdict == packet.VerdictPeer {
		return b.forward(v, p)
	}
	return verdict
}

// parsed handles a packet with its transport header: a whole packet, or a first fragment.
func (b *Balancer) parsed(v *view, p *packet.Packet, in ingress) packet.Verdict {
	if p.ICMPError() {
		return b.icmpError(v, p, in)
	}
	k, ok := conntrack.KeyOf(p)
	if !ok {
		return b.noMatch(v, p, in)
	}
	if verdict, ok := b.established(v, p, &k, in); ok {
		return verdict
	}
	f := v.Frontend(table.Key{Addr: p.Dst, Port: p.DstPort, Proto: p.Proto})
	if f == nil || !p.HasPorts() {
		return b.noMatch(v, p, in)
	}
	if in == fromPeer && !v.IsNodeAddr(p.Dst) {
		return b.drop(dropPeerService) // the sending node balances its own packets to Service addresses
	}
	return b.newFlow(v, p, &k, f, in)
}

// noMatch handles a packet that belongs to no flow and whose destination is no frontend.
func (b *Balancer) noMatch(v *view, p *packet.Packet, in ingress) packet.Verdict {
	switch {
	case v.IsServiceAddr(p.Dst):
		if in == fromPeer {
			return b.drop(dropPeerService)
		}
		return b.noServicePort(v, p)
	case p.Dst == v.Self().SNAT(familyOf(p)):
		return b.reject(p, dropNoFlow) // no process has this address; the host would route the packet here again
	case in == fromPeer && v.leavesCluster(p):
		return b.drop(dropLeak)
	case in == fromPeer:
		b.recordUDPCall(v, p)
		return packet.VerdictReflect
	case p.Src.IsLoopback() || p.Dst.IsLoopback():
		return b.drop(dropLoopback)
	case v.IsNodeAddr(p.Dst):
		return b.reject(p, dropNoListener)
	case v.leavesCluster(p):
		return b.egress(v, p)
	case v.IsLocalPod(p.Dst) && !v.IsLocalPod(p.Src) && !v.IsNodeAddr(p.Src):
		return b.drop(dropNoPod) // the Pod does not exist: its only route is the one to this TUN
	}
	b.restoreUDPReplySource(v, p)
	return v.passThrough(p, in)
}

// passThrough returns the verdict for a packet that matches no Service and no flow. Policy routing also sends replies
// from target ports and ICMP for local Pods here. Those go back to the host. Every other packet goes to the peer that
// owns its destination; the tunnel drops it if there is none.
func (v *view) passThrough(p *packet.Packet, in ingress) packet.Verdict {
	if in == fromPeer || v.IsLocalPod(p.Dst) || v.IsNonMasquerade(p.Dst) {
		return packet.VerdictReflect
	}
	return packet.VerdictPeer
}

// checkSource returns why a packet from this side cannot have its source address, or notDropped.
func (v *view) checkSource(p *packet.Packet, in ingress) dropReason {
	if p.Src.IsLoopback() || p.Dst.IsLoopback() {
		if in == fromPeer || p.Dst.IsLoopback() && !p.Src.IsLoopback() && !v.IsNodeAddr(p.Src) {
			return dropLoopback
		}
		return notDropped
	}
	if in == fromPeer {
		switch {
		case v.IsNodeAddr(p.Src) || v.IsLocalPod(p.Src):
			return dropSpoofed
		case v.IsPeerAddr(p.Src) && !v.IsNodeAddr(p.Dst) && !v.IsLocalPod(p.Dst):
			return dropSpoofed // a node may send to this node and its Pods, but not route through it
		}
		return notDropped
	}
	if v.IsPod(p.Src) && !v.IsLocalPod(p.Src) {
		return dropSpoofed
	}
	return notDropped
}

// leavesCluster reports whether a packet would show a Pod's own address to an external network.
func (v *view) leavesCluster(p *packet.Packet) bool { return v.IsPod(p.Src) && v.IsExternal(p.Dst) }

// verdictFor returns the verdict that sends a translated packet to its destination.
func (v *view) verdictFor(dst netip.Addr) packet.Verdict {
	if v.IsRemote(dst) {
		return packet.VerdictPeer
	}
	return packet.VerdictReflect
}

func familyOf(p *packet.Packet) model.Family {
	if p.Version == 4 {
		return model.IPv4
	}
	return model.IPv6
}
