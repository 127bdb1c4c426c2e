package servicelb

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// testAddrs are the addresses of one family that the tests use. far is a Pod of another node.
type testAddrs struct {
	vip, node, peer, pod, far, outside, endpoint, snat, loop string
}

var families = map[string]testAddrs{
	"4": {"10.43.0.5", "192.168.0.1", "192.168.0.2", "10.42.1.5", "10.42.2.5", "203.0.113.9", "198.51.100.7", "10.42.1.1", "127.0.0.1"},
	"6": {"fd43::5", "fd00::1", "fd00::2", "fd42:0:0:1::5", "fd42:0:0:2::5", "2001:db8::9", "2001:db8:1::7", "fd42:0:0:1::1", ""},
}

// The matrix of sourceFor: which source address the backend sees, where the packet goes, and that the reply returns to the
// client from the address that it has sent to.
func TestSourceAddress_ClientsAndBackends_Matrix(t *testing.T) {
	const keep, snat, masq = "keep", "snat", "masq"
	for fam, a := range families {
		for _, c := range []struct {
			client, backend, source string
			verdict                 packet.Verdict
		}{
			{a.pod, "pod2", keep, packet.VerdictReflect}, {a.pod, a.far, keep, packet.VerdictPeer}, {a.pod, a.pod, snat,
				packet.VerdictReflect},
			{a.pod, a.node, keep, packet.VerdictReflect}, {a.pod, a.peer, keep, packet.VerdictPeer}, {a.pod, a.endpoint, masq,
				packet.VerdictReflect},
			{a.node, "pod2", snat, packet.VerdictReflect}, {a.node, a.far, keep, packet.VerdictPeer}, {a.node, a.node, snat,
				packet.VerdictReflect},
			{a.node, a.peer, keep, packet.VerdictPeer}, {a.node, a.endpoint, masq, packet.VerdictReflect},
			{a.loop, "pod2", snat, packet.VerdictReflect}, {a.loop, a.far, snat, packet.VerdictPeer}, {a.loop, a.node, snat,
				packet.VerdictReflect},
			{a.outside, "pod2", keep, packet.VerdictReflect}, {a.outside, a.far, snat, packet.VerdictPeer}, {a.outside, a.node, snat,
				packet.VerdictReflect},
			{a.outside, a.peer, snat, packet.VerdictPeer}, {a.outside, a.endpoint, masq, packet.VerdictReflect},
		} {
			if c.client == "" {
				continue
			}
			if c.backend == "pod2" {
				c.backend = ip(a.pod).Next().String()
			}
			for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
				t.Run(fmt.Sprintf("%s/%d/%s to %s", fam, proto, c.client, c.backend), func(t *testing.T) {
					svc, parts := service("web", proto, a.vip, 80, 8080, c.backend)
					b := newBalancer(t, 64, tableOf(svc, parts))
					client, vip := netip.AddrPortFrom(ip(c.client), 4000), netip.AddrPortFrom(ip(a.vip), 80)
					p := mk(proto, client, vip, packet.SYN)
					if v := b.Outbound(p); v != c.verdict {
						t.Fatalf("verdict %v, want %v; %v", v, c.verdict, b.Stats().Dropped)
					}
					intact(t, p)
					want := map[string]string{keep: c.client, snat: a.snat, masq: a.node}[c.source]
					if p.Src != ip(want) || p.Destination() != netip.AddrPortFrom(ip(c.backend), 8080) {
						t.Fatalf("%v -> %v, want source %v", p.Source(), p.Destination(), want)
					}
					if c.source == masq && (p.SrcPort < 32768 || p.SrcPort > 49151) || c.source != masq && p.SrcPort != 4000 {
						t.Fatalf("source port %d", p.SrcPort)
					}
					back := mk(proto, p.Destination(), p.Source(), packet.SYN|packet.ACK)
					answer := b.Outbound
					if c.verdict == packet.VerdictPeer {
						answer = b.Inbound
					}
					if v := answer(back); v != packet.VerdictReflect || back.Source() != vip || back.Destination() != client {
						t.Fatalf("answer: %v, %v -> %v", v, back.Source(), back.Destination())
					}
					intact(t, back)
				})
			}
		}
	}
}

// A Pod of another node sends to a node port of this node through the tunnel.
func TestNodePort_PodOfAnotherNode_AnsweredThroughTunnel(t *testing.T) {
	for fam, a := range families {
		for _, backend := range []string{a.pod, a.far, a.node, a.peer} {
			t.Run(fam+"/"+backend, func(t *testing.T) {
				svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, backend)
				svc.Type, svc.Ports[0].NodePort = model.NodePort, 30080
				b := newBalancer(t, 64, tableOf(svc, parts))
				client, front := netip.AddrPortFrom(ip(a.far).Next(), 4000), netip.AddrPortFrom(ip(a.node), 30080)
				p := mk(packet.ProtoTCP, client, front, packet.SYN)
				v := b.Inbound(p)
				want := ip(a.snat)
				if backend == a.pod {
					want = client.Addr()
				}
				if v == packet.VerdictDrop || p.Src != want || p.Dst != ip(backend) {
					t.Fatalf("%v: %v -> %v", v, p.Source(), p.Destination())
				}
				back := mk(packet.ProtoTCP, p.Destination(), p.Source(), packet.SYN|packet.ACK)
				answer := b.Outbound
				if v == packet.VerdictPeer {
					answer = b.Inbound
				}
				if v := answer(back); v != packet.VerdictPeer || back.Source() != front || back.Destination() != client {
					t.Fatalf("answer: %v, %v -> %v", v, back.Source(), back.Destination())
				}
				intact(t, back)
				if v := b.Inbound(mk(packet.ProtoTCP, client, netip.AddrPortFrom(ip(a.vip), 80), packet.SYN)); v != packet.VerdictDrop {
					t.Fatalf("a Service address from a peer: %v", v)
				}
			})
		}
	}
}
