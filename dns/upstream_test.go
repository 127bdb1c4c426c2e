package dns

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/internal/testutil"
)

// fake is an upstream on loopback. It answers a question over UDP with any number of datagrams.
type fake struct {
	addr     netip.AddrPort
	udp      *net.UDPConn
	tcp      net.Listener
	received atomic.Int64
	overTCP  atomic.Int64
	mu       sync.Mutex
	answer   func(q *mdns.Msg) []*mdns.Msg
	stream   func(q *mdns.Msg) *mdns.Msg
	join     sync.WaitGroup
}

func newFake(t testing.TB, answer func(q *mdns.Msg) []*mdns.Msg) *fake {
	t.Helper()
	k := openSockets(t, freePort(t))
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
			f.received.Add(1)
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
	m.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA,
		Class: mdns.ClassINET, Ttl: ttl}, A: net.ParseIP(a)}}
	return m
}

func answers(a string) func(*mdns.Msg) []*mdns.Msg {
	return func(q *mdns.Msg) []*mdns.Msg { return []*mdns.Msg{address(q, a)} }
}

func rcode(code int) func(*mdns.Msg) []*mdns.Msg {
	return func(q *mdns.Msg) []*mdns.Msg { return []*mdns.Msg{new(mdns.Msg).SetRcode(q, code)} }
}

func silent(*mdns.Msg) []*mdns.Msg { return nil }

// wantA queries an A record and compares the one address.
func wantA(t *testing.T, at netip.AddrPort, name, want string) *mdns.Msg {
	t.Helper()
	r := exchange(t, at, "udp", name, mdns.TypeA)
	if len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != want {
		t.Fatalf("%s: %v, want one A %s", name, r, want)
	}
	return r
}

func TestServer_ExternalNames_ForwardedAndCached(t *testing.T) {
	up := newFake(t, answers("192.0.2.10"))
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	wantA(t, at, "WWW.example.COM", "192.0.2.10")
	r := wantA(t, at, "www.EXAMPLE.com", "192.0.2.10")
	if up.received.Load() != 1 {
		t.Errorf("%d queries to the upstream, expected one: the second answer is cached", up.received.Load())
	}
	if r.Answer[0].Header().Name != "www.EXAMPLE.com." || r.Authoritative || !r.RecursionAvailable {
		t.Errorf("owner or flags: %v", r)
	}
	wantA(t, at, "10.in-addr.arpa", "192.0.2.10")                        // a reverse zone larger than ours
	wantA(t, at, "1.2.0.192.in-addr.arpa", "192.0.2.10")                 // and one outside of the ranges
	wantA(t, at, "xcluster.local", "192.0.2.10")                         // no label boundary
	r = exchange(t, at, "udp", "away.ext.svc.cluster.local", mdns.TypeA) // ExternalName, followed
	if got := plainRecords(r.Answer); len(got) != 2 || got[0] != "away.ext.svc.cluster.local. CNAME www.example.com." ||
		got[1] != "www.example.com. A 192.0.2.10" {
		t.Errorf("alias: %q", got)
	}
	before := up.received.Load()
	for _, n := range []string{"nope.default.svc.cluster.local", "9.9.42.10.in-addr.arpa", "x.node.warren"} {
		exchange(t, at, "udp", n, mdns.TypeA)
	}
	if up.received.Load() != before {
		t.Error("a wrong cluster name was sent upstream")
	}
	if r := exchange(t, at, "udp", "fresh.example.com", mdns.TypeA,
		func(m *mdns.Msg) { m.RecursionDesired = false }); r.Rcode != mdns.RcodeRefused {
		t.Errorf("without recursion: %v", r)
	}
}

func TestServer_FirstUpstreamFails_NextOneAnswers(t *testing.T) {
	good := newFake(t, answers("192.0.2.11"))
	for what, bad := range map[string]func(*mdns.Msg) []*mdns.Msg{
		"dead": silent, "servfail": rcode(mdns.RcodeServerFailure), "refused": rcode(mdns.RcodeRefused),
		"mismatching": func(q *mdns.Msg) []*mdns.Msg { // wrong ID, wrong name, no matching answer
			wrongID, wrongName := address(q, "6.6.6.6"), address(q, "6.6.6.7")
			wrongID.Id++
			wrongName.Question[0].Name = "other.example.com."
			return []*mdns.Msg{wrongID, wrongName}
		},
	} {
		for _, policy := range []Policy{Sequential, Parallel} {
			t.Run(fmt.Sprintf("%s, policy %d", what, policy), func(t *testing.T) {
				first := newFake(t, bad)
				s, at := start(t, Config{Upstreams: []string{first.addr.String(), good.addr.String()}, Policy: policy})
				for _, n := range []string{"a.example.com", "b.example.com", "c.example.com"} {
					wantA(t, at, n, "192.0.2.11")
				}
				u := s.Upstreams()
				if down := u[0].Down; down != (what == "dead" || what == "mismatching") && policy == Sequential {
					t.Errorf("down is %v: %+v", down, u[0])
				}
				if what == "mismatching" && u[0].Mismatched == 0 {
					t.Error("mismatched answers were not counted")
				}
			})
		}
	}
}

func TestServer_UpstreamRefusesConnections_Servfail(t *testing.T) {
	_, at := start(t, Config{Upstreams: []string{freePort(t).String()}})
	begin := time.Now()
	r := exchange(t, at, "udp", "www.example.com", mdns.TypeA)
	if r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("no upstream: %v after %v, want SERVFAIL", r, time.Since(begin))
	}
	r = exchange(t, at, "udp", "away.ext.svc.cluster.local", mdns.TypeA)
	if len(r.Answer) != 1 || r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("alias without upstream: %v, want the CNAME and SERVFAIL", r)
	}
}

func TestServer_ForgedAnswers_Ignored(t *testing.T) {
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
		t.Errorf("records outside of the question were passed on: %v", r)
	}
	up.set(answers("192.0.2.13"))
	wantA(t, at, "bank.example.com", "192.0.2.13")
}

// An answer with the right name in another case may be forged. The query is repeated over TCP.
func TestServer_AnswerInOtherCase_RepeatedOverTCP(t *testing.T) {
	up := newFake(t, func(q *mdns.Msg) []*mdns.Msg {
		m := address(q, "6.6.6.6")
		m.Question[0].Name = strings.ToLower(m.Question[0].Name)
		return []*mdns.Msg{m}
	})
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	wantA(t, at, "averyveryverylongnamewithmanyletters.example.com", "192.0.2.99")
}

func TestServer_TruncatedAnswer_RepeatedOverTCP(t *testing.T) {
	up := newFake(t, func(q *mdns.Msg) []*mdns.Msg {
		m := new(mdns.Msg).SetReply(q)
		m.Truncated = true
		return []*mdns.Msg{m}
	})
	up.stream = func(q *mdns.Msg) *mdns.Msg {
		m := new(mdns.Msg).SetReply(q)
		for i := range 200 {
			m.Answer = append(m.Answer, &mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA,
				Class: mdns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, byte(i))})
		}
		return m
	}
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	r := exchange(t, at, "udp", "big.example.com", mdns.TypeA)
	r.Compress = true
	if !r.Truncated || len(r.Answer) == 0 || r.Len() > 512 {
		t.Errorf("over UDP: TC %v, %d answers, %d bytes; want TC, some answers, at most 512 bytes", r.Truncated, len(r.Answer), r.Len())
	}
	if r = exchange(t, at, "tcp", "big.example.com", mdns.TypeA); len(r.Answer) != 200 || r.Truncated {
		t.Errorf("over TCP: %d answers", len(r.Answer))
	}
}

func TestServer_UpstreamWithoutEDNS_QueriedWithoutIt(t *testing.T) {
	up := newFake(t, nil)
	up.set(func(q *mdns.Msg) []*mdns.Msg {
		if q.IsEdns0() != nil {
			return rcode(mdns.RcodeFormatError)(q)
		}
		return answers("192.0.2.14")(q)
	})
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	wantA(t, at, "old.example.com", "192.0.2.14")
}

func TestServer_EqualQuestions_ShareOneQuery(t *testing.T) {
	hold := make(chan struct{})
	up := newFake(t, nil)
	up.set(func(q *mdns.Msg) []*mdns.Msg {
		if !isProbe(q) {
			<-hold
		}
		return answers("192.0.2.15")(q)
	})
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { wantA(t, at, "same.example.com", "192.0.2.15") })
	}
	testutil.EventuallyTrue(t, "19 queries share one", func() bool { return s.forward.Stats().Shared == 19 })
	close(hold)
	wg.Wait()
}

func TestServer_TooManyQueriesInFlight_Servfail(t *testing.T) {
	hold := make(chan struct{})
	up := newFake(t, func(q *mdns.Msg) []*mdns.Msg { <-hold; return answers("192.0.2.16")(q) })
	t.Cleanup(func() { close(hold) })
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}, InFlight: 1})
	go func() { _, _ = mdns.Exchange(new(mdns.Msg).SetQuestion("one.example.com.", mdns.TypeA), at.String()) }()
	testutil.EventuallyTrue(t, "one query is in flight", func() bool { return s.forward.Stats().InFlight == 1 })
	if r := exchange(t, at, "udp", "two.example.com", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("beyond the bound: %v, want SERVFAIL", r)
	}
}

// An upstream forwards to this server: its probe arrives here, and the upstream is disabled.
func TestServer_UpstreamForwardsBack_LoopDetected(t *testing.T) {
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
	testutil.EventuallyTrue(t, "the loop is detected", func() bool { return s.Upstreams()[0].Loop })
	if r := exchange(t, at, "udp", "www.example.com", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("with a loop alone: %v, want SERVFAIL", r)
	}
	if _, err := New(Config{Listen: []netip.AddrPort{at}, Upstreams: []string{at.String()}}); err == nil {
		t.Error("an upstream that is this server was accepted")
	}
}
