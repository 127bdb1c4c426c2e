package servicelb

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// nodeSelf describes node n of a cluster of three.
func nodeSelf(n int) Self {
	s := Self{Node: fmt.Sprintf("n%d", n), PodRanges: []netip.Prefix{pfx("10.42.0.0/16"), pfx("fd42::/48")},
		MasqueradePorts: [2]uint16{13000, 29999}}
	for i := 1; i <= 3; i++ {
		four, six := fmt.Sprintf("10.42.%d.", i), fmt.Sprintf("fd42:0:0:%d::", i)
		addrs := []netip.Addr{ip(fmt.Sprintf("192.168.0.%d", i)), ip(fmt.Sprintf("fd00::%d", i))}
		if i != n {
			s.Peers, s.PeerSNAT = append(s.Peers, addrs...), append(s.PeerSNAT, ip(four+"2"), ip(six+"2"))
			continue
		}
		s.Addrs, s.NodePortAddrs = addrs, addrs
		s.PodCIDRs = []netip.Prefix{pfx(four + "0/24"), pfx(six + "/64")}
		s.PodNet4, s.SNAT4, s.PodNet6, s.SNAT6 = ip(four+"1"), ip(four+"2"), ip(six+"1"), ip(six+"2")
	}
	return s
}

// nodePort makes a Service with a node port and endpoints.
func nodePort(name string, proto uint8, port, target uint16, endpoints ...string) (model.Service, []model.EndpointSlice) {
	svc, parts := service(name, proto, "", 80, target, endpoints...)
	svc.Type, svc.Ports[0].NodePort = model.NodePort, port
	return svc, parts
}

// onlyService is a table that has one Service.
func onlyService(n int, svc model.Service, parts []model.EndpointSlice) *Table {
	return Build(nodeSelf(n), snap([]model.Service{svc}, parts))
}

// Two node ports are each other's endpoints, on nodes that have not received the other Service yet and so do not refuse the
// endpoints. A datagram is load-balanced by the first node, and by the second one because that one cannot know; it never
// returns to the second one.
func TestForward_NodePortsReferToEachOther_PacketIsDropped(t *testing.T) {
	for fam, pod := range map[string]string{"4": "10.42.1.5", "6": "fd42:0:0:1::5"} {
		t.Run(fam, func(t *testing.T) {
			n1, n2 := "192.168.0.1", "192.168.0.2"
			if fam == "6" {
				n1, n2 = "fd00::1", "fd00::2"
			}
			la, parts1 := nodePort("la", packet.ProtoUDP, 30001, 30002, n2)
			lb, parts2 := nodePort("lb", packet.ProtoUDP, 30002, 30001, n1)
			nodes := []*Balancer{newBalancer(t, 64, onlyService(1, la, parts1)), newBalancer(t, 64, onlyService(2, lb, parts2))}
			p := mk(packet.ProtoUDP, at(pod, 4000), at(n1, 30001), 0)
			verdict, passes := nodes[0].Outbound(p), 1
			for verdict == packet.VerdictPeer && passes < 200 {
				verdict = nodes[passes%2].Inbound(p)
				passes++
			}
			if verdict != packet.VerdictDrop || passes > 3 {
				t.Errorf("verdict %v after %d passes", verdict, passes)
			}
			if n := nodes[0].Stats().Dropped["balanced_before"]; n != 1 {
				t.Errorf("%d packets dropped as balanced before: %v", n, nonzero(nodes[0].Stats().Dropped))
			}
			if flows := nodes[0].flows.Len() + nodes[1].flows.Len(); flows != 2 {
				t.Errorf("%d flows", flows)
			}
		})
	}
}

// A Pod of n1 calls a node port of n2, whose backend is on n3. n2 forwards the packets of both directions without its kernel,
// and so decrements their TTL.
func TestForward_FromPeerToPeer_DecrementsTTL(t *testing.T) {
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
		svc, parts := nodePort("web", proto, 30080, 8080, "10.42.3.5")
		b := newBalancer(t, 64, onlyService(2, svc, parts))
		p := mk(proto, at("10.42.1.5", 4000), at("192.168.0.2", 30080), packet.SYN)
		want(t, b, b.Inbound(p), packet.VerdictPeer, "request")
		if p.TTL() != 63 {
			t.Errorf("protocol %d: TTL %d, expected 63", proto, p.TTL())
		}
		intact(t, p)
		r := mk(proto, p.Destination(), p.Source(), packet.SYN|packet.ACK)
		want(t, b, b.Inbound(r), packet.VerdictPeer, "reply")
		if r.TTL() != 63 {
			t.Errorf("protocol %d: TTL %d of the reply, expected 63", proto, r.TTL())
		}
		intact(t, r)
	}
}

// A super-packet has one IP header for all segments.
func TestForward_SuperPacket_DecrementsTTL(t *testing.T) {
	svc, parts := nodePort("web", packet.ProtoTCP, 30080, 8080, "10.42.3.5")
	b := newBalancer(t, 64, onlyService(2, svc, parts))
	want(t, b, b.Inbound(mk(packet.ProtoTCP, at("10.42.1.5", 4000), at("192.168.0.2", 30080), packet.SYN)), packet.VerdictPeer, "SYN")
	p := mk(packet.ProtoTCP, at("10.42.1.5", 4000), at("192.168.0.2", 30080), packet.ACK)
	p.Vnet = packet.Vnet{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: 5, CsumStart: 20, CsumOffset: 16}
	want(t, b, b.Inbound(p), packet.VerdictPeer, "super-packet")
	if p.TTL() != 63 || slowSum(p.Buf[:20]) != 0xffff {
		t.Errorf("TTL %d, sum %#x", p.TTL(), slowSum(p.Buf[:20]))
	}
	p.SetTTL(1)
	p.SetSource(at("10.42.1.5", 4000))
	p.SetDestination(at("192.168.0.2", 30080))
	want(t, b, b.Inbound(p), packet.VerdictDrop, "super-packet with TTL 1")
}

// Without any TTL left the client receives time exceeded, about the packet that it has sent.
func TestForward_TTLUsedUp_ClientGetsTimeExceeded(t *testing.T) {
	for fam, a := range map[string][3]string{"4": {"10.42.1.5", "192.168.0.2", "10.42.3.5"},
		"6": {"fd42:0:0:1::5", "fd00::2", "fd42:0:0:3::5"}} {
		t.Run(fam, func(t *testing.T) {
			svc, parts := nodePort("web", packet.ProtoUDP, 30080, 8080, a[2])
			b := newBalancer(t, 64, onlyService(2, svc, parts))
			p := mk(packet.ProtoUDP, at(a[0], 4000), at(a[1], 30080), 0)
			p.SetTTL(1)
			want(t, b, b.Inbound(p), packet.VerdictPeer, "answer")
			intact(t, p)
			quoted, ok := p.Inner()
			if !ok || p.Dst != ip(a[0]) || quoted.Src != ip(a[0]) || quoted.SrcPort != 4000 || quoted.Dst != ip(a[1]) ||
				quoted.DstPort != 30080 {
				t.Errorf("answer from %s to %s about %+v (%v)", p.Src, p.Dst, quoted, ok)
			}
			if p.Src != b.view.Load().Self().PodNet(familyOf(p)) || p.ICMPCode != 0 ||
				p.ICMPType != map[string]uint8{"4": 11, "6": 3}[fam] {
				t.Errorf("answer from %s, type %d code %d", p.Src, p.ICMPType, p.ICMPCode)
			}
			if n := b.Stats().Dropped["ttl_exceeded"]; n != 1 {
				t.Errorf("counted %d", n)
			}
		})
	}
}

// The kernel forwards what leaves the hook over the TUN, and has forwarded what enters there: the hook changes no TTL.
func TestForward_ThroughKernel_KeepsTTL(t *testing.T) {
	svc, parts := nodePort("web", packet.ProtoUDP, 30080, 8080, "10.42.2.5")
	b := newBalancer(t, 64, onlyService(2, svc, parts))
	for name, c := range map[string]struct {
		pass     func(*packet.Packet) packet.Verdict
		src, dst netip.AddrPort
		to       packet.Verdict
	}{
		"to a local Pod":        {b.Inbound, at("10.42.1.5", 4000), at("192.168.0.2", 30080), packet.VerdictReflect},
		"not for a Service":     {b.Inbound, at("10.42.1.5", 4000), at("10.42.2.5", 80), packet.VerdictReflect},
		"from the host":         {b.Outbound, at("10.42.2.5", 4000), at("10.42.1.5", 80), packet.VerdictPeer},
		"to the node's Service": {b.Outbound, at("10.42.2.6", 4000), at("192.168.0.2", 30080), packet.VerdictReflect},
	} {
		t.Run(name, func(t *testing.T) {
			p := mk(packet.ProtoUDP, c.src, c.dst, 0)
			want(t, b, c.pass(p), c.to, name)
			if p.TTL() != 64 {
				t.Errorf("%s: TTL %d", name, p.TTL())
			}
		})
	}
}

// A datagram that the kernel has reassembled and delivered to a raw socket was not forwarded by the kernel.
func TestFromHost_ToAnotherNode_DecrementsTTL(t *testing.T) {
	svc, parts := nodePort("web", packet.ProtoUDP, 30080, 8080, "10.42.3.5")
	b := newBalancer(t, 64, onlyService(2, svc, parts))
	p := mk(packet.ProtoUDP, at("203.0.113.9", 4000), at("192.168.0.2", 30080), 0)
	want(t, b, b.FromHost(p), packet.VerdictPeer, "datagram")
	if p.TTL() != 63 {
		t.Errorf("TTL %d", p.TTL())
	}
	intact(t, p)
	p = mk(packet.ProtoUDP, at("203.0.113.9", 4000), at("192.168.0.2", 30080), 0)
	p.SetTTL(1)
	want(t, b, b.FromHost(p), packet.VerdictDrop, "datagram with TTL 1")
}

func TestForward_FromPeerToPeer_AllocatesNothing(t *testing.T) {
	svc, parts := nodePort("web", packet.ProtoUDP, 30080, 8080, "10.42.3.5")
	b := newBalancer(t, 64, onlyService(2, svc, parts))
	first := mk(packet.ProtoUDP, at("10.42.1.5", 4000), at("192.168.0.2", 30080), 0)
	last := clone(first)
	last.SetTTL(1)
	scratch := make([]byte, 0, 2048)
	for name, p := range map[string]*packet.Packet{"forwarded": first, "time exceeded": last} {
		allocs := testing.AllocsPerRun(100, func() {
			q := *p
			q.Buf = append(scratch, p.Buf...)
			b.Inbound(&q)
		})
		if allocs != 0 && !raceOn {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}
