package servicelb

import (
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

// The host's "packet too big" about a Pod's interface reaches an external client whose address was preserved. It quotes the
// packet as the client has sent it.
func TestICMPError_HostTooBigForPod_ReachesExternalClient(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
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
		if e.Src != ip(a.node) || e.Dst != client.Addr() || in.Src != client.Addr() || in.SrcPort != 4000 || in.Dst != node.Addr() ||
			in.DstPort != 30080 {
			t.Fatalf("%v -> %v about %+v", e.Src, e.Dst, in)
		}
	})
}

// ICMP errors about the host's own traffic, or about traffic that it routes for other networks, go where they would have
// gone without the TUN.
func TestICMPError_HostWithoutFlow_PassesThrough(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		b := newBalancer(t, 64, tableOf(service("web", packet.ProtoUDP, a.vip, 80, 8080, a.far)))
		guest := ip(a.outside).Next().String() // behind this host, in no network of the configuration
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
		want(t, b, b.Outbound(errorOf(p.AppendUnreachable(nil, ip(a.pod), packet.NoPort))), packet.VerdictDrop,
			"of a Pod, to an external network")
	})
}

// The host sends port unreachable for a reassembled datagram that the agent has forwarded: a reply to a masqueraded port,
// or a datagram to a node port. The error is dropped. An error about a packet without flow is forwarded.
func TestICMPError_HostRefusesForwardedDatagram_Dropped(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoUDP, a.vip, 80, 8080, a.far)
		svc.Type, svc.Ports[0].NodePort = model.NodePort, 30080
		b := newBalancer(t, 64, tableOf(svc, parts))
		p := mk(packet.ProtoUDP, at(a.pod, 4000), at(a.endpoint, 53), 0)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "to an external network")
		refusal := func(about *packet.Packet) packet.Verdict {
			return b.Outbound(errorOf(about.AppendUnreachable(nil, ip(a.node), packet.NoPort)))
		}
		answer := mk(packet.ProtoUDP, at(a.endpoint, 53), p.Source(), 0)
		want(t, b, refusal(answer), packet.VerdictDrop, "refusal of the reply")
		want(t, b, b.FromHost(clone(answer)), packet.VerdictReflect, "the answer")
		want(t, b, refusal(mk(packet.ProtoUDP, at(a.endpoint, 54), p.Source(), 0)), packet.VerdictReflect,
			"refusal of a datagram without flow")
		call := mk(packet.ProtoUDP, at(a.outside, 4000), at(a.node, 30080), 0)
		want(t, b, b.FromHost(clone(call)), packet.VerdictPeer, "to a node port")
		want(t, b, refusal(call), packet.VerdictDrop, "refusal at the node port")
		if n := b.Stats().Dropped["host_refusal"]; n != 2 {
			t.Fatalf("%d counted", n)
		}
	})
}

// A Service at the node's own address and port has the host as its backend: the host's refusal is forwarded.
func TestICMPError_HostIsBackend_Forwarded(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoUDP, a.vip, 80, 8080, a.node)
		svc.Type, svc.Ports[0].NodePort = model.NodePort, 30080
		b := newBalancer(t, 64, tableOf(svc, parts))
		p := mk(packet.ProtoUDP, at(a.pod, 4000), at(a.node, 30080), 0)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "datagram")
		if n := len(b.Flows(nil, 0)); n != 1 || p.Source() != at(a.pod, 4000) {
			t.Fatal(n, p.Source())
		}
		want(t, b, b.Outbound(errorOf(p.AppendUnreachable(nil, ip(a.node), packet.NoPort))), packet.VerdictReflect, "refusal")
	})
}

// An ICMP error about a packet of a flow reaches the end that has sent it, and quotes the addresses that this end uses.
func TestICMPError_PacketOfFlow_ReachesItsSender(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		for _, c := range []struct{ client, backend string }{{a.pod, a.far}, {a.pod, a.pod}, {a.outside, a.pod}, {a.outside, a.far}} {
			svc, parts := service("web", packet.ProtoUDP, a.vip, 80, 8080, c.backend)
			b := newBalancer(t, 64, tableOf(svc, parts))
			sent := mk(packet.ProtoUDP, at(c.client, 4000), at(a.vip, 80), 0)
			b.Outbound(sent)
			e := errorAbout(sent, ip(c.backend)) // by the backend
			v := b.Inbound
			if c.backend == a.pod {
				v = b.Outbound
			}
			want(t, b, v(e), packet.VerdictReflect, "error of the backend")
			in, _ := e.Inner()
			if intact(t, e); e.Src != ip(a.vip) || e.Dst != ip(c.client) || in.Src != ip(c.client) || in.SrcPort != 4000 ||
				in.Dst != ip(a.vip) || in.DstPort != 80 {
				t.Fatalf("%v -> %v about %+v", e.Src, e.Dst, in)
			}
			answer := mk(packet.ProtoUDP, sent.Destination(), sent.Source(), 0)
			if c.backend == a.far {
				b.Inbound(answer)
			} else {
				b.Outbound(answer)
			}
			source := sent.Source()
			e = errorAbout(answer, ip(c.client)) // by the client
			wantV := packet.VerdictReflect
			if c.backend == a.far {
				wantV = packet.VerdictPeer
			}
			want(t, b, b.Outbound(e), wantV, "error of the client")
			in, _ = e.Inner()
			if intact(t, e); e.Src != source.Addr() || e.Dst != ip(c.backend) || in.Src != ip(c.backend) || in.SrcPort != 8080 ||
				in.Dst != source.Addr() || in.DstPort != source.Port() {
				t.Fatalf("%v -> %v about %+v", e.Src, e.Dst, in)
			}
		}
		b := newBalancer(t, 64, tableOf(service("web", packet.ProtoUDP, a.vip, 80, 8080)))
		e := errorAbout(mk(packet.ProtoUDP, at(a.far, 1), at(a.pod, 2), 0), ip(a.pod))
		want(t, b, b.Outbound(e), packet.VerdictPeer, "error without flow")
		e = errorAbout(mk(packet.ProtoUDP, at(a.endpoint, 1), at(a.pod, 2), 0), ip(a.pod))
		want(t, b, b.Outbound(e), packet.VerdictDrop, "error without flow to an external network")
		e = errorAbout(mk(packet.ProtoUDP, at(a.vip, 1), at(a.pod, 2), 0), ip(a.pod))
		want(t, b, b.Outbound(e), packet.VerdictDrop, "error without flow to a Service")
	})
}
