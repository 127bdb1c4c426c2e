package servicelb

import (
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

func TestReject_NoEndpointOrPort_AnsweredWithoutFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080)
		svc.Ports = append(svc.Ports, model.ServicePort{Name: "u", Protocol: model.UDP, Port: 80})
		b := newBalancer(t, 64, tableOf(svc, parts))
		empty := ip(a.vip).Next().String()
		for _, dst := range []netip.AddrPort{at(a.vip, 80), at(a.vip, 81), at(empty, 80)} {
			p := mk(packet.ProtoTCP, at(a.pod, 4000), dst, packet.SYN)
			want(t, b, b.Outbound(p), packet.VerdictReply, "TCP")
			if intact(t, p); p.TCPFlags&packet.RST == 0 || p.Source() != dst || p.Destination() != at(a.pod, 4000) {
				t.Fatalf("%v -> %v flags %x", p.Source(), p.Destination(), p.TCPFlags)
			}
			for _, proto := range []uint8{packet.ProtoUDP, packet.ProtoSCTP} {
				p = mk(proto, at(a.pod, 4000), dst, 0)
				want(t, b, b.Outbound(p), packet.VerdictReply, "datagram")
				if intact(t, p); !p.ICMPError() || p.Src != dst.Addr() || p.Dst != ip(a.pod) {
					t.Fatalf("%v -> %v", p.Src, p.Dst)
				}
			}
		}
		p := echoOf(ip(a.pod), ip(a.vip), true, 7)
		want(t, b, b.Outbound(p), packet.VerdictReply, "ping")
		if id, request, ok := p.Echo(); !ok || request || id != 7 || p.Src != ip(a.vip) || p.Dst != ip(a.pod) {
			t.Fatal("no pong")
		}
		intact(t, p)
		p = echoOf(ip(a.pod), ip(empty), true, 7)
		want(t, b, b.Outbound(p), packet.VerdictReply, "ping of an unused address")
		if intact(t, p); !p.ICMPError() {
			t.Fatal("no error")
		}
		p = mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.ACK)
		want(t, b, b.Outbound(p), packet.VerdictReply, "segment without flow")
		p = mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.RST)
		want(t, b, b.Outbound(p), packet.VerdictDrop, "RST without flow")
		if n := len(b.Flows(nil, 0)); n != 0 {
			t.Fatalf("%d flows after rejects", n)
		}
	})
}
