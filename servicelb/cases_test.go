package servicelb

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// at joins an address and a port.
func at(a string, port uint16) netip.AddrPort { return netip.AddrPortFrom(ip(a), port) }

// both runs a case in both families.
func both(t *testing.T, f func(t *testing.T, a places)) {
	for fam, a := range families {
		t.Run(fam, func(t *testing.T) { f(t, a) })
	}
}

func want(t *testing.T, b *Balancer, got, want packet.Verdict, what string) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %v, want %v; counters %v", what, got, want, nonzero(b.Stats().Dropped))
	}
}

func nonzero(m map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for k, n := range m {
		if n != 0 {
			out[k] = n
		}
	}
	return out
}

func TestRejects(t *testing.T) {
	both(t, func(t *testing.T, a places) {
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
		want(t, b, b.Outbound(p), packet.VerdictReply, "ping of nobody")
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

func TestPoliciesAndSourceRanges(t *testing.T) {
	both(t, func(t *testing.T, a places) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)
		lb := at(a.endpoint, 80)
		svc.Type, svc.LBAddresses = model.LoadBalancer, []netip.Addr{lb.Addr()}
		svc.InternalPolicy, svc.ExternalPolicy = model.PolicyLocal, model.PolicyCluster
		svc.ExternalIPs, svc.Ports[0].NodePort = []netip.Addr{lb.Addr().Next()}, 30080
		svc.LBSourceRanges = []netip.Prefix{netip.PrefixFrom(ip(a.outside), ip(a.outside).BitLen())}
		b := newBalancer(t, 64, tableOf(svc, parts))
		syn := func(src string, dst netip.AddrPort) packet.Verdict {
			return b.Outbound(mk(packet.ProtoTCP, at(src, 4000), dst, packet.SYN))
		}
		want(t, b, syn(a.pod, at(a.vip, 80)), packet.VerdictDrop, "internal policy Local without a local endpoint")
		want(t, b, syn(a.node, at(a.vip, 80)), packet.VerdictDrop, "likewise from the node")
		for _, client := range []string{a.pod, a.node} {
			for _, dst := range []netip.AddrPort{lb, at(svc.ExternalIPs[0].String(), 80), at(a.node, 30080)} {
				want(t, b, syn(client, dst), packet.VerdictPeer, "internal policy Local is for cluster addresses, this is "+dst.String())
			}
		}
		want(t, b, syn(a.outside, lb), packet.VerdictPeer, "allowed client")
		want(t, b, syn(ip(a.outside).Next().String(), lb), packet.VerdictDrop, "forbidden client")
		svc.InternalPolicy, svc.ExternalPolicy = model.PolicyCluster, model.PolicyLocal
		b.Set(tableOf(svc, parts))
		want(t, b, syn(ip(a.pod).Next().String(), lb), packet.VerdictPeer, "a Pod has Cluster semantics")
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.outside, 4001), lb, packet.SYN)), packet.VerdictDrop, "external policy Local")
		if s := b.Stats(); s.Dropped["local_policy"] != 3 || s.Dropped["source_range"] != 1 {
			t.Fatal(nonzero(s.Dropped))
		}
	})
}

// A node with several addresses is seen with the one that its routing table prefers towards the destination.
func TestMasqueradeSource(t *testing.T) {
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

// A port of the masquerade range that a program of the host listens on is never taken.
func TestMasqueradeSparesPorts(t *testing.T) {
	both(t, func(t *testing.T, a places) {
		self := testSelf()
		self.MasqueradePorts, self.ReservedPorts = [2]uint16{40000, 40003}, []uint16{40000, 40001, 40003}
		b := newBalancer(t, 64, Build(self, snap(nil, nil)))
		for i := range uint16(20) {
			p := mk(packet.ProtoUDP, at(a.pod, 5000), at(a.endpoint, 1+i), 0)
			if want(t, b, b.Outbound(p), packet.VerdictReflect, "to the world"); p.SrcPort != 40002 {
				t.Fatalf("source port %d, expected 40002, the only one that is not spared", p.SrcPort)
			}
		}
	})
}

func TestMasquerade(t *testing.T) {
	both(t, func(t *testing.T, a places) {
		self := testSelf()
		self.MasqueradePorts = [2]uint16{40000, 40003}
		self.NonMasquerade = []netip.Prefix{netip.PrefixFrom(ip(a.outside), ip(a.outside).BitLen())}
		b := newBalancer(t, 64, Build(self, snap(nil, nil)))
		world := at(a.endpoint, 443)
		for i := range uint16(4) {
			p := mk(packet.ProtoUDP, at(a.pod, 5000+i), world, 0)
			want(t, b, b.Outbound(p), packet.VerdictReflect, "to the world")
			if intact(t, p); p.Src != ip(a.node) || p.SrcPort < 40000 || p.SrcPort > 40003 || p.Destination() != world {
				t.Fatalf("%v -> %v", p.Source(), p.Destination())
			}
			for way, enter := range map[string]func(*packet.Packet) packet.Verdict{"answer": b.Outbound, "answer in fragments": b.FromHost} {
				back := mk(packet.ProtoUDP, world, p.Source(), 0)
				want(t, b, enter(back), packet.VerdictReflect, way)
				if intact(t, back); back.Destination() != at(a.pod, 5000+i) || back.Source() != world {
					t.Fatalf("%s: %v -> %v", way, back.Source(), back.Destination())
				}
			}
		}
		want(t, b, b.FromHost(mk(packet.ProtoUDP, at(a.endpoint, 444), at(a.node, 40001), 0)), packet.VerdictDrop, "of no flow, in fragments")
		want(t, b, b.FromHost(mk(packet.ProtoUDP, at(a.far, 5000), at(a.node, 40001), 0)), packet.VerdictDrop, "spoofed, in fragments")
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.pod, 6000), world, 0)), packet.VerdictDrop, "exhausted")
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.pod, 6000), at(a.endpoint, 444), 0)), packet.VerdictReflect, "same ports, other destination")
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
		want(t, b, b.FromHost(echoOf(ip(a.endpoint), ip(a.node), false, 9)), packet.VerdictDrop, "somebody else's pong")
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 5000), world, packet.ACK)), packet.VerdictReply, "segment without flow")
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 5000), world, packet.RST)), packet.VerdictDrop, "RST without flow")
		want(t, b, b.Outbound(echoOf(ip(a.pod), ip(a.endpoint), false, 77)), packet.VerdictDrop, "pong without flow")
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.pod, 5000), at(a.outside, 1), 0)), packet.VerdictReflect, "not masqueraded")
		self.ExternalPeers = self.NonMasquerade
		b.Set(Build(self, snap(nil, nil)))
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.pod, 5000), at(a.outside, 1), 0)), packet.VerdictPeer, "to a WireGuard host that is no node")
		want(t, b, b.Outbound(mk(packet.ProtoUDP, at(a.far, 5000), world, 0)), packet.VerdictDrop, "spoofed")
		want(t, b, b.Outbound(parsed(append(ipHeader(ip(a.pod), ip(a.endpoint), 47, 8), make([]byte, 8)...))), packet.VerdictDrop, "GRE")
		if s := b.Stats(); s.Dropped["ports_exhausted"] != 1 || s.Dropped["spoofed_source"] != 2 {
			t.Fatal(nonzero(s.Dropped))
		}
	})
}

// TestErrors: an error about a packet of a flow reaches the end that sent it, about the addresses that end knows.
func TestErrors(t *testing.T) {
	both(t, func(t *testing.T, a places) {
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
			if intact(t, e); e.Src != ip(a.vip) || e.Dst != ip(c.client) || in.Src != ip(c.client) || in.SrcPort != 4000 || in.Dst != ip(a.vip) || in.DstPort != 80 {
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
			if intact(t, e); e.Src != source.Addr() || e.Dst != ip(c.backend) || in.Src != ip(c.backend) || in.SrcPort != 8080 || in.Dst != source.Addr() || in.DstPort != source.Port() {
				t.Fatalf("%v -> %v about %+v", e.Src, e.Dst, in)
			}
		}
		b := newBalancer(t, 64, tableOf(service("web", packet.ProtoUDP, a.vip, 80, 8080)))
		e := errorAbout(mk(packet.ProtoUDP, at(a.far, 1), at(a.pod, 2), 0), ip(a.pod))
		want(t, b, b.Outbound(e), packet.VerdictPeer, "unknown error")
		e = errorAbout(mk(packet.ProtoUDP, at(a.endpoint, 1), at(a.pod, 2), 0), ip(a.pod))
		want(t, b, b.Outbound(e), packet.VerdictDrop, "unknown error to the world")
		e = errorAbout(mk(packet.ProtoUDP, at(a.vip, 1), at(a.pod, 2), 0), ip(a.pod))
		want(t, b, b.Outbound(e), packet.VerdictDrop, "unknown error to a Service")
	})
}

// TestUDPFollowsTheService: one source port for minutes, while the Service goes through everything.
func TestUDPFollowsTheService(t *testing.T) {
	both(t, func(t *testing.T, a places) {
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
			{target: 2}, {2, []string{a.pod}, false}, {target: 2, removed: true}, {2, []string{a.node}, false}, {1, []string{a.far, two}, false},
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
				if v == packet.VerdictDrop || v == packet.VerdictReply || dst.Port() != c.target || dst.Addr() != ip(c.endpoints[0]) && dst.Addr() != ip(c.endpoints[len(c.endpoints)-1]) {
					t.Fatalf("step %d: %v to %v", i, v, dst)
				}
			}
		}
	})
}

func TestTCPBackendGone(t *testing.T) {
	both(t, func(t *testing.T, a places) {
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
		for i := range parts { // it terminates: connections go on, new ones are refused
			for j := range parts[i].Endpoints {
				e := &parts[i].Endpoints[j]
				e.Ready, e.Serving, e.Terminating = false, false, true
			}
		}
		b.Set(tableOf(svc, parts))
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.ACK)), packet.VerdictPeer, "terminating")
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 4002), at(a.vip, 80), packet.SYN)), packet.VerdictReply, "new while terminating")
		b.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod)))
		p := mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.ACK)
		want(t, b, b.Outbound(p), packet.VerdictReply, "the client is told")
		if intact(t, p); p.TCPFlags&packet.RST == 0 || p.Source() != at(a.vip, 80) {
			t.Fatal("no RST")
		}
		p = mk(packet.ProtoTCP, back, at(a.pod, 4001), packet.ACK)
		want(t, b, b.Inbound(p), packet.VerdictReply, "the backend is told")
		if intact(t, p); p.TCPFlags&packet.RST == 0 || p.Destination() != back {
			t.Fatal("no RST")
		}
		if n := len(b.Flows(nil, 0)); n != 0 {
			t.Fatalf("%d flows left", n)
		}
	})
}

func TestTCPStates(t *testing.T) {
	a := families["4"]
	b := newBalancer(t, 64, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
	client, vip := at(a.pod, 4000), at(a.vip, 80)
	var back netip.AddrPort
	send := func(way conntrack.Direction, flags uint8, seq uint32, state string) {
		t.Helper()
		p := mk(packet.ProtoTCP, client, vip, flags)
		if way == reply {
			p = mk(packet.ProtoTCP, back, client, flags)
		}
		p.Buf[p.L4+4], p.Buf[p.L4+5], p.Buf[p.L4+6], p.Buf[p.L4+7] = byte(seq>>24), byte(seq>>16), byte(seq>>8), byte(seq)
		p.FixChecksum()
		if way == reply {
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
	send(reply, packet.ACK, 1000, "tcp-open") // nobody had believed it
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

func TestAffinity(t *testing.T) {
	both(t, func(t *testing.T, a places) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far, ip(a.far).Next().String(), a.peer, a.node)
		svc.Affinity = time.Minute
		b := newBalancer(t, 1024, tableOf(svc, parts))
		first := map[string]netip.AddrPort{}
		for i := range uint16(100) {
			for _, c := range []string{a.pod, a.outside, a.node} {
				p := mk(packet.ProtoTCP, at(c, 4000+i), at(a.vip, 80), packet.SYN)
				b.Outbound(p)
				if have, ok := first[c]; ok && have != p.Destination() {
					t.Fatalf("%s went to %v, then to %v", c, have, p.Destination())
				}
				first[c] = p.Destination()
			}
		}
	})
}

func TestAlgorithms(t *testing.T) {
	a := families["4"]
	for _, algo := range []string{"random", "round-robin", "least-connections", "maglev", "nonsense"} {
		svc, parts := service("web", packet.ProtoUDP, a.vip, 80, 8080, "10.42.2.2", "10.42.2.3", "10.42.2.4", "10.42.2.5")
		svc.Annotations = map[string]string{Annotation: algo}
		b := newBalancer(t, 8192, tableOf(svc, parts))
		count := map[netip.Addr]int{}
		for i := range uint16(4000) {
			p := mk(packet.ProtoUDP, at(a.pod, 4000+i), at(a.vip, 80), 0)
			want(t, b, b.Outbound(p), packet.VerdictPeer, algo)
			count[p.Dst]++
		}
		spread := 150
		switch algo {
		case "round-robin":
			spread = 0
		case "least-connections":
			spread = 20
		}
		for _, e := range []string{"10.42.2.2", "10.42.2.3", "10.42.2.4", "10.42.2.5"} {
			if n := count[ip(e)]; n < 1000-spread || n > 1000+spread {
				t.Errorf("%s: %v", algo, count)
			}
		}
	}
}

// TestAddressGone: when the node loses the address that flows were translated to, they end.
func TestAddressGone(t *testing.T) {
	both(t, func(t *testing.T, a places) {
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

// TestSteering: the host must steer what the table needs, as long as an endpoint may have connections.
func TestSteering(t *testing.T) {
	both(t, func(t *testing.T, a places) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod, a.far)
		svc.Type, svc.LBAddresses = model.LoadBalancer, []netip.Addr{ip(a.endpoint)}
		svc.ExternalIPs = []netip.Addr{ip(a.node), ip(a.peer)} // these have other uses: never routed to the TUN whole
		host, more := service("api", packet.ProtoTCP, a.vip, 443, 6443, a.node, a.peer)
		for i := range parts {
			for j := range parts[i].Endpoints {
				e := &parts[i].Endpoints[j]
				e.Ready, e.Serving, e.Terminating = false, false, true
			}
		}
		got := Build(testSelf(), snap([]model.Service{host, svc}, append(parts, more...))).Redirects()
		want := Redirects{ServiceAddrs: []netip.Addr{ip(a.endpoint)}, PodPorts: []Port{{Proto: packet.ProtoTCP, Port: 8080}}, HostPorts: []Port{{Proto: packet.ProtoTCP, Port: 6443}}}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
	})
}

// TestReclaim: a full table makes room from what nobody misses.
func TestReclaim(t *testing.T) {
	a := families["4"]
	b := newBalancer(t, 64, tableOf(service("dns", packet.ProtoUDP, a.vip, 5353, 53, a.pod)))
	src := ip("20.0.0.1")
	exchange := func() packet.Verdict {
		src = src.Next()
		p := mk(packet.ProtoUDP, netip.AddrPortFrom(src, 1), at(a.vip, 5353), 0)
		v := b.Outbound(p)
		if v == packet.VerdictReflect {
			b.Outbound(mk(packet.ProtoUDP, p.Destination(), p.Source(), 0))
		}
		return v
	}
	for range 64 {
		want(t, b, exchange(), packet.VerdictReflect, "a slot is free")
	}
	want(t, b, exchange(), packet.VerdictDrop, "all are busy")
	b.clock.Add(21)
	for range 64 {
		want(t, b, exchange(), packet.VerdictReflect, "idle ones make room")
	}
	want(t, b, exchange(), packet.VerdictDrop, "all are busy again")
	b.sound(t)
	if s := b.Stats(); s.Services["d/dns"].Connections != 128 || s.Opened != 128 || s.Flows["dns-open"] != 64 || s.Dropped["table_full"] != 2 {
		t.Fatal(s.Services, s.Opened, s.Flows, nonzero(s.Dropped))
	}
}
