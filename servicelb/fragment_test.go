package servicelb

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// fragmentOf makes a fragment of a UDP datagram; the first one has the header.
func fragmentOf(src, dst netip.AddrPort, id uint32, first bool) *packet.Packet {
	l4 := make([]byte, 64)
	proto := uint8(packet.ProtoUDP)
	if first {
		copy(l4, l4ports(proto, src.Port(), dst.Port(), 0, 8))
	}
	b := ipHeader(src.Addr(), dst.Addr(), proto, len(l4))
	if src.Addr().Is4() {
		binary.BigEndian.PutUint16(b[4:], uint16(id))
		off := uint16(0x2000)
		if !first {
			off = 8
		}
		binary.BigEndian.PutUint16(b[6:], off)
	} else {
		b[6] = 44
		binary.BigEndian.PutUint16(b[4:], uint16(len(l4)+8))
		off := uint16(1)
		if !first {
			off = 64
		}
		b = append(b, proto, 0, byte(off>>8), byte(off))
		b = binary.BigEndian.AppendUint32(b, id)
	}
	p := new(packet.Packet)
	if f := p.Parse(append(b, l4...)); f != packet.OK {
		panic(f)
	}
	p.FixIPChecksum()
	return p
}

func TestFragment_LaterFragments_TranslatedLikeTheFirst(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		b := newBalancer(t, 64, tableOf(service("web", packet.ProtoUDP, a.vip, 80, 8080, a.far)))
		client, vip := at(a.pod, 4000), at(a.vip, 80)
		want(t, b, b.Outbound(fragmentOf(client, vip, 1, false)), packet.VerdictDrop, "later before first")
		p := fragmentOf(client, vip, 1, true)
		want(t, b, b.Outbound(p), packet.VerdictPeer, "first")
		if intact(t, p); p.Destination() != at(a.far, 8080) || !p.Fragment() {
			t.Fatal(p.Destination())
		}
		p = fragmentOf(client, vip, 1, false)
		want(t, b, b.Outbound(p), packet.VerdictPeer, "later")
		if intact(t, p); p.Dst != ip(a.far) || p.Src != ip(a.pod) {
			t.Fatal(p.Src, p.Dst)
		}
		want(t, b, b.Outbound(fragmentOf(client, vip, 2, false)), packet.VerdictDrop, "of another datagram")
		back, to := at(a.far, 8080), client
		want(t, b, b.Inbound(fragmentOf(back, to, 3, true)), packet.VerdictReflect, "first of the answer")
		p = fragmentOf(back, to, 3, false)
		want(t, b, b.Inbound(p), packet.VerdictReflect, "later of the answer")
		if p.Src != ip(a.vip) {
			t.Fatal(p.Src)
		}
		want(t, b, b.Outbound(fragmentOf(client, at(a.far, 9), 4, false)), packet.VerdictPeer, "later, to a Pod")
		want(t, b, b.Inbound(fragmentOf(at(a.far, 9), client, 4, false)), packet.VerdictReflect, "later, from a Pod")
		want(t, b, b.Outbound(fragmentOf(client, at(a.endpoint, 9), 4, false)), packet.VerdictDrop, "later, to an external network")
		want(t, b, b.Outbound(fragmentOf(client, at(a.endpoint, 9), 5, true)), packet.VerdictReflect, "first, to an external network")
		p = fragmentOf(client, at(a.endpoint, 9), 5, false)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "later, to an external network")
		if p.Src != ip(a.node) {
			t.Fatal(p.Src)
		}
		b.clock.Add(fragmentTimeout + 1)
		want(t, b, b.Outbound(fragmentOf(client, vip, 1, false)), packet.VerdictDrop, "much later")
	})
}

func TestUDPFlow_NoChecksum_StaysWithout(t *testing.T) {
	a := families["4"]
	b := newBalancer(t, 64, tableOf(service("web", packet.ProtoUDP, a.vip, 80, 8080, a.far)))
	p := mk(packet.ProtoUDP, at(a.pod, 4000), at(a.vip, 80), 0)
	p.Buf[26], p.Buf[27] = 0, 0
	want(t, b, b.Outbound(p), packet.VerdictPeer, "datagram")
	if intact(t, p); p.Buf[26] != 0 || p.Buf[27] != 0 {
		t.Fatal("there is a checksum now")
	}
}

// The host passes on a datagram to a node port that it has reassembled: it opens a flow, belongs to one, or is rejected.
// A datagram without frontend is left to the host.
func TestFromHost_ReassembledDatagram_HandledLikeAPacket(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoUDP, a.vip, 80, 8080, a.far)
		svc.Type, svc.Ports[0].NodePort = model.NodePort, 30080
		b := newBalancer(t, 64, tableOf(svc, parts))
		node, client := at(a.node, 30080), at(a.outside, 4000)
		for _, what := range []string{"new", "known"} {
			p := mk(packet.ProtoUDP, client, node, 0)
			want(t, b, b.FromHost(p), packet.VerdictPeer, what)
			if intact(t, p); p.Destination() != at(a.far, 8080) {
				t.Fatal(p.Destination())
			}
		}
		want(t, b, b.FromHost(mk(packet.ProtoUDP, client, at(a.node, 30081), 0)), packet.VerdictDrop, "no frontend")
		want(t, b, b.FromHost(mk(packet.ProtoUDP, at(a.far, 9), node, 0)), packet.VerdictDrop, "spoofed")
		b.Set(tableOf(service("web", packet.ProtoUDP, a.vip, 80, 8080)))
		want(t, b, b.FromHost(mk(packet.ProtoUDP, client, node, 0)), packet.VerdictDrop, "no Service")
		svc, parts = service("web", packet.ProtoUDP, a.vip, 80, 8080)
		svc.Type, svc.Ports[0].NodePort = model.NodePort, 30080
		b.Set(tableOf(svc, parts))
		want(t, b, b.FromHost(mk(packet.ProtoUDP, client, node, 0)), packet.VerdictReply, "no endpoint")
		b.sound(t)
	})
}
