package dns

import (
	"net"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/dns/wire"
)

// hotQuestions take every branch of the hot path.
var hotQuestions = []struct {
	name string
	typ  uint16
}{
	{"web.default.svc.cluster.local.", mdns.TypeA}, {"Four.default.svc.cluster.local.", mdns.TypeAAAA},
	{"www.example.com.default.svc.cluster.local.", mdns.TypeA}, {"_pg._tcp.db.prod.svc.cluster.local.", mdns.TypeSRV},
	{"db.prod.svc.cluster.local.", mdns.TypeA}, {"5.0.43.10.in-addr.arpa.", mdns.TypePTR}, {"9.9.43.10.in-addr.arpa.", mdns.TypePTR},
	{"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa.", mdns.TypePTR},
	{"10-42-0-7.default.pod.cluster.local.", mdns.TypeA}, {"fd42--7.default.pod.cluster.local.", mdns.TypeAAAA},
	{"n1.node.warren.", mdns.TypeA}, {"cached.example.com.", mdns.TypeA},
}

func packed(t testing.TB, name string, typ uint16, edns bool) []byte {
	t.Helper()
	m := new(mdns.Msg)
	m.SetQuestion(name, typ)
	if edns {
		m.SetEdns0(4096, false)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// warm is a server that does not run, with the sample cluster and one cached answer.
func warm(t testing.TB) *Server {
	t.Helper()
	up := newFake(t, func(q *mdns.Msg) []*mdns.Msg { return []*mdns.Msg{addressTTL(q, "192.0.2.80", 3600)} })
	at := freePort(t)
	s, err := New(Config{Listen: []netip.AddrPort{at}, Upstreams: []string{up.addr.String()}})
	if err != nil {
		t.Fatal(err)
	}
	s.Set(sample())
	stop := runServer(t, s)
	exchange(t, at, "udp", "cached.example.com", mdns.TypeA)
	stop()
	return s
}

func TestResponder_HotQuestions_AllocateNothing(t *testing.T) {
	s := warm(t)
	a := responder{s: s, counters: s.stats.newCounters(), now: time.Now()}
	dst, from := make([]byte, 0, wire.UDPSize), netip.MustParseAddr("127.0.0.1")
	for _, c := range hotQuestions {
		for _, edns := range []bool{false, true} {
			pkt := packed(t, c.name, c.typ, edns)
			n := testing.AllocsPerRun(200, func() {
				if out, v := a.answer(dst, pkt, from, wire.UDPSize); v != answered || len(out) == 0 {
					t.Fatalf("%s: verdict %d", c.name, v)
				}
			})
			if n != 0 {
				t.Errorf("%s %s: %v allocations, want 0", c.name, mdns.TypeToString[c.typ], n)
			}
		}
	}
}

// Whole batches pass through real sockets.
func TestWorker_Batch_AllocatesNothing(t *testing.T) {
	s := warm(t)
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0"} {
		w, client := pair(t, s, listen)
		in := make([]byte, 2048)
		n := testing.AllocsPerRun(100, func() {
			for i := range hotQuestions {
				if _, err := client.Write(hotPackets[i]); err != nil {
					t.Fatal(err)
				}
			}
			for got := 0; got < len(hotQuestions); {
				n, err := w.b.recv()
				if err != nil {
					t.Fatal(err)
				}
				w.serve(n)
				got += n
			}
			for range hotQuestions {
				if _, err := client.Read(in); err != nil {
					t.Fatal(err)
				}
			}
		})
		if n != 0 {
			t.Errorf("listening on %s: %v allocations in a batch, want 0", listen, n)
		}
	}
}

var hotPackets [][]byte

func pair(t testing.TB, s *Server, listen string) (*worker, net.Conn) {
	t.Helper()
	k := openSockets(t, netip.MustParseAddrPort(listen))
	t.Cleanup(k.close)
	w, err := newWorker(s, k.udp[0])
	if err != nil {
		t.Fatal(err)
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"),
		netip.MustParseAddrPort(k.udp[0].LocalAddr().String()).Port()))
	client, err := net.DialUDP("udp4", nil, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	hotPackets = nil
	for _, c := range hotQuestions {
		hotPackets = append(hotPackets, packed(t, c.name, c.typ, true))
	}
	return w, client
}

// A client with a connected socket accepts the answer only from the address that it queried, also of a wildcard listener.
func TestServer_WildcardListener_AnswersFromQueriedAddress(t *testing.T) {
	port := freePort(t).Port()
	listen := []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), port), netip.AddrPortFrom(netip.IPv6Unspecified(), port)}
	start(t, Config{Listen: listen})
	for _, a := range addrs("127.0.0.1", "127.0.0.9", "127.8.7.6", "::1") {
		if r := exchange(t, netip.AddrPortFrom(a, port), "udp", "web.default.svc.cluster.local", mdns.TypeA); len(r.Answer) != 1 {
			t.Errorf("answer from %s: %v", a, r)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	s := warm(b)
	a := responder{s: s, counters: s.stats.newCounters(), now: time.Now()}
	dst, from := make([]byte, 0, wire.UDPSize), netip.MustParseAddr("127.0.0.1")
	for _, c := range hotQuestions {
		pkt := packed(b, c.name, c.typ, true)
		b.Run(c.name+mdns.TypeToString[c.typ], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.answer(dst, pkt, from, wire.UDPSize)
			}
		})
	}
}
