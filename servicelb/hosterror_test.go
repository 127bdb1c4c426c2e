package servicelb

import (
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// errorOf makes a packet of what an Append function of package packet has built.
func errorOf(raw []byte) *packet.Packet {
	p := new(packet.Packet)
	if f := p.Parse(append(make([]byte, 0, 2048), raw...)); f != packet.OK {
		panic(f)
	}
	return p
}

// A client outside whose address was kept hears from the host that its packet is too large for the Pod, in its own words.
func TestTooBigForAPodIsToldOutside(t *testing.T) {
	both(t, func(t *testing.T, a places) {
		svc, parts := service("web", packet.ProtoUDP, a.vip, 80, 8080, a.pod)
		svc.Type, svc.Ports[0].NodePort = model.NodePort, 30080
		b := newBalancer(t, 64, tableOf(svc, parts))
		client, node := at(a.outside, 4000), at(a.node, 30080)
		p := mk(packet.ProtoUDP, client, node, 0)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "datagram")
		e := errorOf(p.AppendTooBig(nil, ip(a.node), 1300))
		want(t, b, b.Outbound(e), packet.VerdictReflect, "too big")
		intact(t, e)
		in, _ := e.Inner()
		if e.Src != ip(a.node) || e.Dst != client.Addr() || in.Src != client.Addr() || in.SrcPort != 4000 || in.Dst != node.Addr() || in.DstPort != 30080 {
			t.Fatalf("%v -> %v about %+v", e.Src, e.Dst, in)
		}
	})
}

// What the host says of its own traffic, or of what it forwards for others, goes where it would have gone without the TUN.
func TestHostErrorsOfNoFlow(t *testing.T) {
	both(t, func(t *testing.T, a places) {
		b := newBalancer(t, 64, tableOf(service("web", packet.ProtoUDP, a.vip, 80, 8080, a.far)))
		guest := ip(a.outside).Next().String() // behind this host, but of no network that warren knows
		for _, c := range []struct{ from, to string }{{a.node, a.outside}, {a.node, a.peer}, {guest, a.outside}} {
			p := mk(packet.ProtoUDP, at(c.to, 4000), at(c.from, 9), 0)
			for _, raw := range [][]byte{p.AppendTooBig(nil, ip(c.from), 1300), p.AppendUnreachable(nil, ip(c.from), packet.NoPort)} {
				e := errorOf(raw)
				want(t, b, b.Outbound(e), packet.VerdictReflect, c.from+" to "+c.to)
				if intact(t, e); e.Src != ip(c.from) || e.Dst != ip(c.to) {
					t.Fatalf("%v -> %v", e.Src, e.Dst)
				}
			}
		}
		p := mk(packet.ProtoUDP, at(a.far, 4000), at(a.node, 9), 0)
		want(t, b, b.Outbound(errorOf(p.AppendUnreachable(nil, ip(a.node), packet.NoPort))), packet.VerdictPeer, "to a Pod of another node")
		p = mk(packet.ProtoUDP, at(a.outside, 4000), at(a.pod, 9), 0)
		want(t, b, b.Outbound(errorOf(p.AppendUnreachable(nil, ip(a.pod), packet.NoPort))), packet.VerdictDrop, "a Pod's, to the world")
	})
}

// The host refuses what it has put together and the agent has passed on: an answer to a masqueraded port, a datagram to a
// node port. The sender must not hear of that. What belongs to no flow is refused.
func TestHostRefusesWhatWasPassedOn(t *testing.T) {
	both(t, func(t *testing.T, a places) {
		svc, parts := service("web", packet.ProtoUDP, a.vip, 80, 8080, a.far)
		svc.Type, svc.Ports[0].NodePort = model.NodePort, 30080
		b := newBalancer(t, 64, tableOf(svc, parts))
		p := mk(packet.ProtoUDP, at(a.pod, 4000), at(a.endpoint, 53), 0)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "to the world")
		refusal := func(about *packet.Packet) packet.Verdict {
			return b.Outbound(errorOf(about.AppendUnreachable(nil, ip(a.node), packet.NoPort)))
		}
		answer := mk(packet.ProtoUDP, at(a.endpoint, 53), p.Source(), 0)
		want(t, b, refusal(answer), packet.VerdictDrop, "refusal of the answer")
		want(t, b, b.FromHost(clone(answer)), packet.VerdictReflect, "the answer")
		want(t, b, refusal(mk(packet.ProtoUDP, at(a.endpoint, 54), p.Source(), 0)), packet.VerdictReflect, "refusal of a stranger's")
		call := mk(packet.ProtoUDP, at(a.outside, 4000), at(a.node, 30080), 0)
		want(t, b, b.FromHost(clone(call)), packet.VerdictPeer, "to a node port")
		want(t, b, refusal(call), packet.VerdictDrop, "refusal at the node port")
		if n := b.Stats().Dropped["host_refusal"]; n != 2 {
			t.Fatalf("%d counted", n)
		}
	})
}

// A Service at the node's own address and port, whose backend is the host: when that refuses, it is true.
func TestHostRefusesAsABackend(t *testing.T) {
	both(t, func(t *testing.T, a places) {
		svc, parts := service("web", packet.ProtoUDP, a.vip, 80, 80, a.node)
		svc.ExternalIPs = []netip.Addr{ip(a.node)}
		b := newBalancer(t, 64, tableOf(svc, parts))
		p := mk(packet.ProtoUDP, at(a.pod, 4000), at(a.node, 80), 0)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "datagram")
		if n := len(b.Flows(nil, 0)); n != 1 || p.Source() != at(a.pod, 4000) {
			t.Fatal(n, p.Source())
		}
		want(t, b, b.Outbound(errorOf(p.AppendUnreachable(nil, ip(a.node), packet.NoPort))), packet.VerdictReflect, "refusal")
	})
}
