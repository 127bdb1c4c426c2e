package servicelb

import (
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/packet"
)

// With several node addresses, the source is the one that the routing table prefers towards the destination.
func TestEgress_SeveralNodeAddresses_SourceByDestination(t *testing.T) {
	self := testSelf()
	self.Addrs = append(self.Addrs, ip("192.0.2.200"))
	self.Sources = []Source{{To: pfx("203.0.113.0/24"), From: ip("192.0.2.200")}, {To: pfx("0.0.0.0/0"), From: self.Addrs[0]}}
	b := newBalancer(t, 64, Build(self, snap(nil, nil)))
	for to, from := range map[string]netip.Addr{"203.0.113.9": ip("192.0.2.200"), "8.8.8.8": self.Addrs[0]} {
		p := mk(packet.ProtoUDP, at(families["4"].pod, 5000), at(to, 443), 0)
		want(t, b, b.Outbound(p), packet.VerdictReflect, to)
		if p.Src != from {
			t.Errorf("towards %s from %s, expected %s", to, p.Src, from)
		}
	}
}

// A masquerade port that a process of the host listens on is never used.
func TestEgress_ReservedPorts_NeverUsed(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		self := testSelf()
		self.MasqueradePorts, self.ReservedPorts = [2]uint16{40000, 40003}, []uint16{40000, 40001, 40003}
		b := newBalancer(t, 64, Build(self, snap(nil, nil)))
		for i := range uint16(20) {
			p := mk(packet.ProtoUDP, at(a.pod, 5000), at(a.endpoint, 1+i), 0)
			if want(t, b, b.Outbound(p), packet.VerdictReflect, "to an external network"); p.SrcPort != 40002 {
				t.Fatalf("source port %d, expected 40002, the only one that is not reserved", p.SrcPort)
			}
		}
	})
}

func TestEgress_PodToExternalNetwork_Masqueraded(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		self := testSelf()
		self.MasqueradePorts = [2]uint16{40000, 40003}
		self.NonMasquerade = []netip.Prefix{netip.PrefixFrom(ip(a.outside), ip(a.outside).BitLen())}
		b := newBalancer(t, 64, Build(self, snap(nil, nil)))
		world := at(a.endpoint, 443)
		for i := range uint16(4) {
			p := mk(packet.ProtoUDP, at(a.pod, 5000+i), world, 0)
			want(t, b, b.Outbound(p), packet.VerdictReflect, "to an external network")
			if intact(t, p); p.Src != ip(a.node) || p.SrcPort < 40000 || p.SrcPort > 40003 || p.Destination() != world {
				t.Fatalf("%v -> %v", p.Source(), p.Destination())
			}
			for dir, enter := range map[string]func(*packet.Packet) packet.Verdict{"answer": b.Outbound,
				"answer in fragments": b.FromHost} {
				back := mk(packet.ProtoUDP, world, p.Source(), 0)
				want(t, b, enter(back), packet.VerdictReflect, dir)
				if intact(t, back); back.Destination() != at(a.pod, 5000+i) || back.Source() != world {
					t.Fatalf("%s: %v -> %v", dir, back.Source(), back.Destination())
				}
			}
		}
		want(t, b, b.FromHost(mk(packet.ProtoUDP, at(a.endpoint, 444), at(a.node, 40001), 0)), packet.VerdictDrop,
			"of no flow, in fragments")
		want(t, b, b.FromHost(mk(packet.ProtoUDP, at(a.far, 5000), at(a.node, 40001), 0)), packet.VerdictDrop, "spoofed, in fragments")
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.pod, 6000), world, 0)), packet.VerdictDrop, "exhausted")
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.pod, 6000), at(a.endpoint, 444), 0)), packet.VerdictReflect,
			"same ports, other destination")
		p := echoOf(ip(a.pod), ip(a.endpoint), true, 77)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "ping")
		id, _, _ := p.Echo()
		if intact(t, p); p.Src != ip(a.node) || id < 40000 || id > 40003 {
			t.Fatal(p.Src, id)
		}
		bad := errorAbout(p, ip(a.outside))
		want(t, b, b.FromHost(bad), packet.VerdictReflect, "error about the ping")
		if in, _ := bad.Inner(); bad.Dst != ip(a.pod) || in.Src != ip(a.pod) || in.EchoID != 77 {
			t.Fatal(bad.Dst, in)
		}
		intact(t, bad)
		pong := echoOf(ip(a.endpoint), ip(a.node), false, id)
		want(t, b, b.FromHost(pong), packet.VerdictReflect, "pong")
		if id, _, _ := pong.Echo(); id != 77 || pong.Dst != ip(a.pod) {
			t.Fatal(id, pong.Dst)
		}
		intact(t, pong)
		want(t, b, b.FromHost(echoOf(ip(a.endpoint), ip(a.node), false, 9)), packet.VerdictDrop, "echo reply of another flow")
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 5000), world, packet.ACK)), packet.VerdictReply, "segment without flow")
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 5000), world, packet.RST)), packet.VerdictDrop, "RST without flow")
		want(t, b, b.Outbound(echoOf(ip(a.pod), ip(a.endpoint), false, 77)), packet.VerdictDrop, "pong without flow")
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.pod, 5000), at(a.outside, 1), 0)), packet.VerdictReflect, "not masqueraded")
		self.ExternalPeers = self.NonMasquerade
		b.Set(Build(self, snap(nil, nil)))
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.pod, 5000), at(a.outside, 1), 0)), packet.VerdictPeer, "to an external peer")
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.far, 5000), world, 0)), packet.VerdictDrop, "spoofed")
		want(t, b, b.Outbound(parsed(append(ipHeader(ip(a.pod), ip(a.endpoint), 47, 8), make([]byte, 8)...))), packet.VerdictDrop, "GRE")
		if s := b.Stats(); s.Dropped["ports_exhausted"] != 1 || s.Dropped["spoofed_source"] != 2 {
			t.Fatal(nonzero(s.Dropped))
		}
	})
}
