package servicelb

import (
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// A Pod of another node sends to any address of this node: the reply of a server that is bound to none comes from there.
func TestUDPReplySource_UnboundServer_RepliesFromCalledAddress(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		self := testSelf()
		second := ip(a.node).Next().Next().Next()
		self.Addrs = append(self.Addrs, second)
		podNet := self.PodNet(model.FamilyOf(second))
		b := newBalancer(t, 64, Build(self, snap(nil, nil)))
		client, other := at(a.far, 4000), at(a.far, 4001)
		answer := func(to netip.AddrPort, from netip.Addr, what string) {
			t.Helper()
			p := mk(packet.ProtoUDP, netip.AddrPortFrom(podNet, 53), to, 0)
			want(t, b, b.Outbound(p), packet.VerdictPeer, what)
			if intact(t, p); p.Source() != netip.AddrPortFrom(from, 53) || p.Destination() != to {
				t.Fatalf("%s: %v -> %v, expected it from %v", what, p.Source(), p.Destination(), from)
			}
		}
		answer(client, podNet, "before a call")
		for _, called := range []netip.Addr{ip(a.node), second, podNet, second} {
			p := mk(packet.ProtoUDP, client, netip.AddrPortFrom(called, 53), 0)
			want(t, b, b.Inbound(p), packet.VerdictReflect, "call")
			if intact(t, p); p.Dst != called {
				t.Fatal(p.Dst)
			}
			answer(client, called, "answer")
			answer(client, called, "one more")
			answer(other, podNet, "to a port that has not called")
		}
		for id, first := range []bool{true, false} {
			p := fragmentOf(netip.AddrPortFrom(podNet, 53), client, 7, first)
			want(t, b, b.Outbound(p), packet.VerdictPeer, "fragment of an answer")
			if intact(t, p); p.Src != second {
				t.Fatal(id, p.Src)
			}
		}
		p := mk(packet.ProtoUDP, at(a.node, 53), client, 0)
		want(t, b, b.Outbound(p), packet.VerdictPeer, "of a server that is bound to an address")
		if p.Src != ip(a.node) {
			t.Fatal(p.Src)
		}
		b.clock.Add(conntrack.UDPTimeout + 1)
		answer(client, podNet, "much later")
	})
}
