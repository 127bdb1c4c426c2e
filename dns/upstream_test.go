package dns

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// fake is an upstream on loopback. Its answers to a question over UDP are datagrams, none or several.
type fake struct {
	addr    netip.AddrPort
	udp     *net.UDPConn
	tcp     net.Listener
	asked   atomic.Int64
	overTCP atomic.Int64
	mu      sync.Mutex
	answer  func(q *mdns.Msg) []*mdns.Msg
	stream  func(q *mdns.Msg) *mdns.Msg
	join    sync.WaitGroup
}

func newFake(t testing.TB, answer func(q *mdns.Msg) []*mdns.Msg) *fake {
	t.Helper()
	k, err := listenAll(t.Context(), []netip.AddrPort{freePort(t)}, 1)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{udp: k.udp[0], tcp: k.tcp[0], answer: answer, addr: netip.MustParseAddrPort(k.udp[0].LocalAddr().String())}
	f.join.Go(f.serveUDP)
	f.join.Go(f.serveTCP)
	t.Cleanup(func() {
		k.close()
		f.join.Wait()
	})
	return f
}

func (f *fake) set(answer func(q *mdns.Msg) []*mdns.Msg) {
	f.mu.Lock()
	f.answer = answer
	f.mu.Unlock()
}

func (f *fake) serveUDP() {
	b := make([]byte, 4096)
	for {
		n, from, err := f.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		q := new(mdns.Msg)
		if q.Unpack(b[:n]) != nil {
			continue
		}
		if !strings.Contains(q.Question[0].Name, ".") || !isProbe(q) {
			f.asked.Add(1)
		}
		f.mu.Lock()
		answer := f.answer
		f.mu.Unlock()
		for _, m := range answer(q) {
			out, err := m.Pack()
			if err == nil {
				_, _ = f.udp.WriteToUDPAddrPort(out, from)
			}
		}
	}
}

func isProbe(q *mdns.Msg) bool {
	return strings.HasSuffix(mdns.CanonicalName(q.Question[0].Name), ".loop.cluster.local.")
}

func (f *fake) serveTCP() {
	for {
		c, err := f.tcp.Accept()
		if err != nil {
			return
		}
		f.join.Go(func() { f.conn(c) })
	}
}

func (f *fake) conn(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	for {
		var n [2]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(n[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		q := new(mdns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		f.overTCP.Add(1)
		m := address(q, "192.0.2.99")
		if f.stream != nil {
			m = f.stream(q)
		}
		if m == nil {
			return
		}
		out, _ := m.Pack()
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	}
}

// address answers a question with one A record of 60 seconds.
func address(q *mdns.Msg, a string) *mdns.Msg { return addressTTL(q, a, 60) }

func addressTTL(q *mdns.Msg, a string, ttl uint32) *mdns.Msg {
	m := new(mdns.Msg).SetReply(q)
	m.RecursionAvailable = true
	m.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: ttl}, A: net.ParseIP(a)}}
	return m
}

func says(a string) func(*mdns.Msg) []*mdns.Msg {
	return func(q *mdns.Msg) []*mdns.Msg { return []*mdns.Msg{address(q, a)} }
}

func rcode(code int) func(*mdns.Msg) []*mdns.Msg {
	return func(q *mdns.Msg) []*mdns.Msg { return []*mdns.Msg{new(mdns.Msg).SetRcode(q, code)} }
}

func silent(*mdns.Msg) []*mdns.Msg { return nil }

// wantA asks for an A record and compares the one address.
func wantA(t *testing.T, at netip.AddrPort, name, want string) *mdns.Msg {
	t.Helper()
	r := ask(t, at, "udp", name, mdns.TypeA)
	if len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != want {
		t.Fatalf("%s: %v, want one A %s", name, r, want)
	}
	return r
}

func TestForward(t *testing.T) {
	up := newFake(t, says("192.0.2.10"))
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	wantA(t, at, "WWW.example.COM", "192.0.2.10")
	r := wantA(t, at, "www.EXAMPLE.com", "192.0.2.10")
	if up.asked.Load() != 1 {
		t.Errorf("upstream was asked %d times, want once: the second answer is cached", up.asked.Load())
	}
	if r.Answer[0].Header().Name != "www.EXAMPLE.com." || r.Authoritative || !r.RecursionAvailable {
		t.Errorf("owner or flags: %v", r)
	}
	wantA(t, at, "10.in-addr.arpa", "192.0.2.10")                   // a reverse zone larger than ours
	wantA(t, at, "1.2.0.192.in-addr.arpa", "192.0.2.10")            // and one elsewhere
	wantA(t, at, "xcluster.local", "192.0.2.10")                    // no label boundary
	r = ask(t, at, "udp", "away.ext.svc.cluster.local", mdns.TypeA) // ExternalName, chased
	if got := plainRecords(r.Answer); len(got) != 2 || got[0] != "away.ext.svc.cluster.local. CNAME www.example.com." || got[1] != "www.example.com. A 192.0.2.10" {
		t.Errorf("chased alias: %q", got)
	}
	before := up.asked.Load()
	for _, n := range []string{"nope.default.svc.cluster.local", "9.9.42.10.in-addr.arpa", "x.node.warren"} {
		ask(t, at, "udp", n, mdns.TypeA)
	}
	if up.asked.Load() != before {
		t.Error("a wrong cluster name was sent upstream")
	}
	if r := ask(t, at, "udp", "fresh.example.com", mdns.TypeA, func(m *mdns.Msg) { m.RecursionDesired = false }); r.Rcode != mdns.RcodeRefused {
		t.Errorf("without recursion: %v", r)
	}
}

func TestFailover(t *testing.T) {
	good := newFake(t, says("192.0.2.11"))
	for what, bad := range map[string]func(*mdns.Msg) []*mdns.Msg{
		"dead": silent, "servfail": rcode(mdns.RcodeServerFailure), "refused": rcode(mdns.RcodeRefused),
		"lying": func(q *mdns.Msg) []*mdns.Msg { // wrong id, wrong name, no answer that fits
			wrongID, wrongName := address(q, "6.6.6.6"), address(q, "6.6.6.7")
			wrongID.Id++
			wrongName.Question[0].Name = "other.example.com."
			return []*mdns.Msg{wrongID, wrongName}
		},
	} {
		for _, policy := range []Policy{Sequential, Parallel} {
			first := newFake(t, bad)
			s, at := start(t, Config{Upstreams: []string{first.addr.String(), good.addr.String()}, Policy: policy})
			for _, n := range []string{"a.example.com", "b.example.com", "c.example.com"} {
				wantA(t, at, n, "192.0.2.11")
			}
			u := s.Upstreams()
			if down := u[0].Down; down != (what == "dead" || what == "lying") && policy == Sequential {
				t.Errorf("%s upstream: down is %v: %+v", what, down, u[0])
			}
			if what == "lying" && u[0].Mismatched == 0 {
				t.Error("answers that do not fit were not counted")
			}
		}
	}
}

func TestUpstreamRefusesConnections(t *testing.T) {
	_, at := start(t, Config{Upstreams: []string{freePort(t).String()}})
	begin := time.Now()
	r := ask(t, at, "udp", "www.example.com", mdns.TypeA)
	if r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("no upstream: %v after %v, want SERVFAIL", r, time.Since(begin))
	}
	r = ask(t, at, "udp", "away.ext.svc.cluster.local", mdns.TypeA)
	if len(r.Answer) != 1 || r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("alias without upstream: %v, want the CNAME and SERVFAIL", r)
	}
}

func TestPoisonIsIgnored(t *testing.T) {
	up := newFake(t, nil)
	up.set(func(q *mdns.Msg) []*mdns.Msg {
		id, name, typ, reply := address(q, "6.6.6.1"), address(q, "6.6.6.2"), address(q, "6.6.6.3"), address(q, "6.6.6.4")
		id.Id ^= 1
		name.Question[0].Name = "x" + name.Question[0].Name
		typ.Question[0].Qtype = mdns.TypeAAAA
		reply.Response = false
		right := address(q, "192.0.2.12")
		evil, _ := mdns.NewRR("bank.example.com. 60 IN A 6.6.6.5")
		ns, _ := mdns.NewRR("com. 60 IN NS evil.example.com.")
		right.Answer = append(right.Answer, evil)
		right.Ns, right.Extra = []mdns.RR{ns}, []mdns.RR{evil}
		return []*mdns.Msg{id, name, typ, reply, right}
	})
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	r := wantA(t, at, "www.example.com", "192.0.2.12")
	if len(r.Ns) != 0 || len(r.Extra) != 0 {
		t.Errorf("records that nobody asked for were passed on: %v", r)
	}
	up.set(says("192.0.2.13"))
	wantA(t, at, "bank.example.com", "192.0.2.13")
}

// TestRespelledGoesToTCP: an answer with the right letters in the wrong case may be forged and is asked for over TCP.
func TestRespelledGoesToTCP(t *testing.T) {
	up := newFake(t, func(q *mdns.Msg) []*mdns.Msg {
		m := address(q, "6.6.6.6")
		m.Question[0].Name = strings.ToLower(m.Question[0].Name)
		return []*mdns.Msg{m}
	})
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	wantA(t, at, "averyveryverylongnamewithmanyletters.example.com", "192.0.2.99")
}

func TestTruncatedGoesToTCP(t *testing.T) {
	up := newFake(t, func(q *mdns.Msg) []*mdns.Msg {
		m := new(mdns.Msg).SetReply(q)
		m.Truncated = true
		return []*mdns.Msg{m}
	})
	up.stream = func(q *mdns.Msg) *mdns.Msg {
		m := new(mdns.Msg).SetReply(q)
		for i := range 200 {
			m.Answer = append(m.Answer, &mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, byte(i))})
		}
		return m
	}
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	r := ask(t, at, "udp", "big.example.com", mdns.TypeA)
	r.Compress = true
	if !r.Truncated || len(r.Answer) == 0 || r.Len() > 512 {
		t.Errorf("over UDP: TC %v, %d answers, %d bytes; want TC, some answers, at most 512 bytes", r.Truncated, len(r.Answer), r.Len())
	}
	if r = ask(t, at, "tcp", "big.example.com", mdns.TypeA); len(r.Answer) != 200 || r.Truncated {
		t.Errorf("over TCP: %d answers", len(r.Answer))
	}
}

func TestUpstreamWithoutEDNS(t *testing.T) {
	up := newFake(t, nil)
	up.set(func(q *mdns.Msg) []*mdns.Msg {
		if q.IsEdns0() != nil {
			return rcode(mdns.RcodeFormatError)(q)
		}
		return says("192.0.2.14")(q)
	})
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	wantA(t, at, "old.example.com", "192.0.2.14")
}

func TestEqualQuestionsAreAskedOnce(t *testing.T) {
	hold := make(chan struct{})
	up := newFake(t, nil)
	up.set(func(q *mdns.Msg) []*mdns.Msg {
		if !isProbe(q) {
			<-hold
		}
		return says("192.0.2.15")(q)
	})
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { wantA(t, at, "same.example.com", "192.0.2.15") })
	}
	until(t, func() bool { return s.stats.joined.Load() == 19 })
	close(hold)
	wg.Wait()
}

// until waits for a condition.
func until(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

func TestInFlightIsBounded(t *testing.T) {
	hold := make(chan struct{})
	up := newFake(t, func(q *mdns.Msg) []*mdns.Msg { <-hold; return says("192.0.2.16")(q) })
	t.Cleanup(func() { close(hold) })
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}, InFlight: 1})
	go func() { _, _ = mdns.Exchange(new(mdns.Msg).SetQuestion("one.example.com.", mdns.TypeA), at.String()) }()
	until(t, func() bool { s.flights.mu.Lock(); defer s.flights.mu.Unlock(); return len(s.flights.calls) == 1 })
	if r := ask(t, at, "udp", "two.example.com", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("beyond the bound: %v, want SERVFAIL", r)
	}
}

// TestLoop points a server at itself through a forwarder: the probe comes back and the upstream is left out.
func TestLoop(t *testing.T) {
	at := freePort(t)
	up := newFake(t, nil)
	up.set(func(q *mdns.Msg) []*mdns.Msg {
		c := &mdns.Client{Timeout: time.Second}
		r, _, err := c.Exchange(q.Copy(), at.String())
		if err != nil {
			return nil
		}
		return []*mdns.Msg{r}
	})
	s, _ := start(t, Config{Listen: []netip.AddrPort{at}, Upstreams: []string{up.addr.String()}})
	until(t, func() bool { return s.Upstreams()[0].Loop })
	if r := ask(t, at, "udp", "www.example.com", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("with a loop alone: %v, want SERVFAIL", r)
	}
	if _, err := New(Config{Listen: []netip.AddrPort{at}, Upstreams: []string{at.String()}}); err == nil {
		t.Error("an upstream that is this server was accepted")
	}
}
