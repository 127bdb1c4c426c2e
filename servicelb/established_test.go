package servicelb

import (
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// One source port for minutes, while the Service changes in every respect.
func TestUDPFlow_ServiceChanges_FollowsTheService(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		two := ip(a.far).Next().String()
		b := newBalancer(t, 64, Build(testSelf(), snap(nil, nil)))
		send := func() (packet.Verdict, netip.AddrPort) {
			p := mk(packet.ProtoUDP, at(a.pod, 4000), at(a.vip, 53), 0)
			v := b.Outbound(p)
			intact(t, p)
			return v, p.Destination()
		}
		for i, c := range []struct {
			target    uint16
			endpoints []string
			removed   bool
		}{
			{target: 1, removed: true}, {target: 1}, {1, []string{a.far}, false}, {1, []string{two}, false}, {2, []string{two}, false},
			{target: 2}, {2, []string{a.pod}, false}, {target: 2, removed: true}, {2, []string{a.node}, false},
			{1, []string{a.far, two}, false},
		} {
			svc, parts := service("dns", packet.ProtoUDP, a.vip, 53, c.target, c.endpoints...)
			if c.removed {
				b.Set(Build(testSelf(), snap(nil, parts)))
			} else {
				b.Set(tableOf(svc, parts))
			}
			for range 3 {
				v, dst := send()
				if len(c.endpoints) == 0 {
					want(t, b, v, packet.VerdictReply, "no endpoint")
					continue
				}
				if v == packet.VerdictDrop || v == packet.VerdictReply || dst.Port() != c.target || dst.Addr() != ip(c.endpoints[0]) &&
					dst.Addr() != ip(c.endpoints[len(c.endpoints)-1]) {
					t.Fatalf("step %d: %v to %v", i, v, dst)
				}
			}
		}
	})
}

func TestTCPFlow_BackendDeleted_ResetsBothEnds(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)
		b := newBalancer(t, 64, tableOf(svc, parts))
		open := func(port uint16) netip.AddrPort {
			p := mk(packet.ProtoTCP, at(a.pod, port), at(a.vip, 80), packet.SYN)
			want(t, b, b.Outbound(p), packet.VerdictPeer, "SYN")
			want(t, b, b.Inbound(mk(packet.ProtoTCP, p.Destination(), p.Source(), packet.SYN|packet.ACK)), packet.VerdictReflect, "SYN-ACK")
			want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, port), at(a.vip, 80), packet.ACK)), packet.VerdictPeer, "ACK")
			return p.Destination()
		}
		back := open(4000)
		open(4001)
		for i := range parts { // it terminates: connections continue, new ones are refused
			for j := range parts[i].Endpoints {
				e := &parts[i].Endpoints[j]
				e.Ready, e.Serving, e.Terminating = false, false, true
			}
		}
		b.Set(tableOf(svc, parts))
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.ACK)), packet.VerdictPeer, "terminating")
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 4002), at(a.vip, 80), packet.SYN)), packet.VerdictReply,
			"new while terminating")
		b.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod)))
		p := mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.ACK)
		want(t, b, b.Outbound(p), packet.VerdictReply, "the client is reset")
		if intact(t, p); p.TCPFlags&packet.RST == 0 || p.Source() != at(a.vip, 80) {
			t.Fatal("no RST")
		}
		p = mk(packet.ProtoTCP, back, at(a.pod, 4001), packet.ACK)
		want(t, b, b.Inbound(p), packet.VerdictReply, "the backend is reset")
		if intact(t, p); p.TCPFlags&packet.RST == 0 || p.Destination() != back {
			t.Fatal("no RST")
		}
		if n := len(b.Flows(nil, 0)); n != 0 {
			t.Fatalf("%d flows left", n)
		}
	})
}

func TestTCPFlow_Segments_StateFollows(t *testing.T) {
	a := families["4"]
	b := newBalancer(t, 64, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
	client, vip := at(a.pod, 4000), at(a.vip, 80)
	var back netip.AddrPort
	send := func(dir conntrack.Direction, flags uint8, seq uint32, state string) {
		t.Helper()
		p := mk(packet.ProtoTCP, client, vip, flags)
		if dir == reply {
			p = mk(packet.ProtoTCP, back, client, flags)
		}
		p.Buf[p.L4+4], p.Buf[p.L4+5], p.Buf[p.L4+6], p.Buf[p.L4+7] = byte(seq>>24), byte(seq>>16), byte(seq>>8), byte(seq)
		p.FixChecksum()
		if dir == reply {
			want(t, b, b.Inbound(p), packet.VerdictReflect, state)
		} else {
			want(t, b, b.Outbound(p), packet.VerdictPeer, state)
			back = p.Destination()
		}
		if f := b.Flows(nil, 0); len(f) != 1 || f[0].State != state {
			t.Fatalf("%+v, want %s", f, state)
		}
	}
	handshake := func() {
		send(original, packet.SYN, 1000, "tcp-syn")
		send(original, packet.SYN, 1000, "tcp-syn")
		send(reply, packet.SYN|packet.ACK, 1000, "tcp-answered")
		send(original, packet.ACK, 1000, "tcp-open")
	}
	handshake()
	send(original, packet.SYN, 1000, "tcp-open")
	send(reply, packet.RST, 1000+1<<25, "tcp-open")
	send(reply, packet.FIN|packet.ACK, 1<<30, "tcp-open")
	send(original, packet.RST, 1<<31, "tcp-open")
	send(reply, packet.FIN|packet.ACK, 1000, "tcp-half-closed")
	send(original, packet.ACK, 1000, "tcp-half-closed")
	send(original, packet.FIN|packet.ACK, 1000, "tcp-closing")
	send(reply, packet.ACK, 1000, "tcp-closing")
	handshake() // the client takes the same port again
	send(reply, packet.RST, 1000, "tcp-reset")
	send(original, packet.ACK, 1000, "tcp-reset")
	send(reply, packet.ACK, 1000, "tcp-open") // neither end has accepted the RST
	send(original, packet.RST|packet.ACK, 1000, "tcp-reset")
	handshake()
	for _, c := range []struct {
		idle uint32
		n    int
	}{{23 * 3600, 1}, {24*3600 + 1, 0}} {
		now := b.now() + c.idle
		b.flows.Sweep(now)
		if n := len(b.Flows(nil, 0)); n != c.n {
			t.Fatalf("%d flows after %d s", n, c.idle)
		}
	}
	if used := b.flows.Len(); used != 0 {
		t.Fatalf("%d slots used", used)
	}
}

// When the node loses the source address of flows, they end.
func TestFlow_NodeAddressRemoved_Ends(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		self := testSelf()
		b := newBalancer(t, 64, Build(self, snap(nil, nil)))
		p := mk(packet.ProtoTCP, at(a.pod, 4000), at(a.endpoint, 443), packet.SYN)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "SYN")
		u := mk(packet.ProtoUDP, at(a.pod, 4000), at(a.endpoint, 443), 0)
		want(t, b, b.Outbound(u), packet.VerdictReflect, "datagram")
		self.Addrs = []netip.Addr{ip("192.168.7.7"), ip("fd00::77")}
		b.Set(Build(self, snap(nil, nil)))
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 4000), at(a.endpoint, 443), packet.ACK)), packet.VerdictReply, "segment")
		u = mk(packet.ProtoUDP, at(a.pod, 4000), at(a.endpoint, 443), 0)
		want(t, b, b.Outbound(u), packet.VerdictReflect, "datagram")
		if intact(t, u); u.Src != self.Addrs[familyOf(u)] {
			t.Fatal(u.Src)
		}
	})
}
