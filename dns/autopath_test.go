package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// searcher is the address whose search list is completed.
var searcher = netip.MustParseAddr("127.0.0.2")

const usual = "default.svc.cluster.local svc.cluster.local cluster.local"

func lists(domains string, ndots int) map[netip.Addr]Search {
	return map[netip.Addr]Search{searcher: {"default", strings.Fields(domains), ndots}}
}

// askFrom asks from an address of loopback.
func askFrom(t testing.TB, from netip.Addr, at netip.AddrPort, name string, qtype uint16, edit ...func(*mdns.Msg)) *mdns.Msg {
	t.Helper()
	m := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), qtype)
	for _, e := range edit {
		e(m)
	}
	c := &mdns.Client{Dialer: &net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}, Timeout: 5 * time.Second}
	r, _, err := c.Exchange(m, at.String())
	if err != nil {
		t.Fatalf("%s %s from %s: %v", name, mdns.TypeToString[qtype], from, err)
	}
	return r
}

// world answers names by a table: "A", "AAAA", "A AAAA", or "-" for a name without either. Others do not exist; names
// below wild exist all.
func world(names map[string]string) func(*mdns.Msg) []*mdns.Msg {
	return func(q *mdns.Msg) []*mdns.Msg {
		name := mdns.CanonicalName(q.Question[0].Name)
		has, ok := names[strings.TrimSuffix(name, ".")]
		if !ok && strings.HasSuffix(name, ".wild.") {
			has, ok = "A", true
		}
		m := new(mdns.Msg).SetReply(q)
		soa, _ := mdns.NewRR("example. 900 IN SOA a. b. 1 2 3 4 900")
		m.Ns = []mdns.RR{soa}
		if !ok {
			m.Rcode = mdns.RcodeNameError
			return []*mdns.Msg{m}
		}
		data := map[uint16]string{mdns.TypeA: "A 192.0.2.80", mdns.TypeAAAA: "AAAA 2001:db8::80"}[q.Question[0].Qtype]
		if kind, _, _ := strings.Cut(data, " "); data != "" && slices.Contains(strings.Fields(has), kind) {
			rr, _ := mdns.NewRR(q.Question[0].Name + " 600 IN " + data)
			m.Answer, m.Ns, m.AuthenticatedData = []mdns.RR{rr}, nil, true
		}
		return []*mdns.Msg{m}
	}
}

func TestComplete(t *testing.T) {
	up := newFake(t, world(map[string]string{"www.example.com": "A AAAA", "v4.example.com": "A", "host.lan.corp": "A", "both.example": "A", "both.example.corp": "AAAA",
		"empty.example": "-", "x.db.prod": "A", "db-0.none": "A", "away.ext": "A", "a_b.example": "A"}))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}, autopathTimeout: 4 * time.Second})
	nx := "NXDOMAIN"
	const v4, v6 = " A 192.0.2.80", " AAAA 2001:db8::80"
	for _, c := range []struct {
		what, search string
		ndots        int
		name         string // without the first domain of the list
		a, aaaa      string // what the chain leads to: the name and its record, the name alone without data, or NXDOMAIN
	}{
		{"an outside name", usual, 5, "www.example.com", "www.example.com." + v4, "www.example.com." + v6},
		{"the same in capitals", usual, 5, "WWW.Example.com", "www.example.com." + v4, "www.example.com." + v6},
		{"one family is missing: the chain ends all the same", usual, 5, "v4.example.com", "v4.example.com." + v4, "v4.example.com."},
		{"a name of the cluster in another namespace", usual, 5, "db.prod", "db.prod.svc.cluster.local. A 10.42.0.2", "db.prod.svc.cluster.local. AAAA fd42::2"},
		{"with svc", usual, 5, "web.default.svc", "web.default.svc.cluster.local. A 10.43.0.5", "web.default.svc.cluster.local. AAAA fd43::5"},
		{"without the second family", usual, 5, "four.default.svc", "four.default.svc.cluster.local. A 10.43.0.6", "four.default.svc.cluster.local."},
		{"the whole name, in a list", usual, 5, "web.default.svc.cluster.local", "web.default.svc.cluster.local. A 10.43.0.5", "web.default.svc.cluster.local. AAAA fd43::5"},
		{"nothing exists", usual, 5, "nope.example.org", nx, nx},
		{"one label", usual, 5, "wild", nx, nx},
		{"a Pod of a Service that is not ready", usual, 5, "db-3.db.prod", nx, nx},
		{"a Service that is not ready", usual, 5, "none.prod", nx, nx},
		{"below one", usual, 5, "x.none.prod.svc", nx, nx},
		{"ends in a Service of the namespace", usual, 5, "www.web", nx, nx},
		{"an alias is left to the client", usual, 5, "away.ext", nx, nx},
		{"as many dots as ndots", usual, 2, "www.example.com", nx, nx},
		{"ndots from a resolver's default", usual, 1, "www.example.com", nx, nx},
		{"a domain of the node", usual + " lan.corp", 5, "host.lan.corp", "host.lan.corp." + v4, "host.lan.corp."},
		{"which wins over the bare name, for both families", usual + " corp", 5, "both.example", "both.example.corp.", "both.example.corp." + v6},
		{"a name without data ends the chain", usual + " corp", 5, "empty.example", "empty.example.", "empty.example."},
		{"underscores", usual + " _x.corp", 5, "a_b.example", "a_b.example." + v4, "a_b.example."},
		{"dot at the end", usual + " .", 5, "www.example.com", "www.example.com." + v4, "www.example.com." + v6},
		{"dot in the middle", usual + " . corp", 5, "www.example.com", nx, nx},
		{"six domains", usual + " a b c", 5, "www.example.com", "www.example.com." + v4, "www.example.com." + v6},
		{"seven: older resolvers see six", usual + " a b c d", 5, "www.example.com", nx, nx},
		{"seven, and one of the six has it", usual + " a b corp d", 5, "both.example", "both.example.corp.", "both.example.corp." + v6},
		{"256 bytes", usual + " " + strings.Repeat("abcdefghi.", 20) + "abcdefgh", 5, "www.example.com", nx, nx},
		{"a candidate that is too long", usual + " " + strings.Repeat("abcdefgh.", 19) + "abcdefgh", 5, strings.Repeat("a", 50) + "." + strings.Repeat("b", 50), nx, nx},
		{"a list of dnsPolicy None", "default.svc.cluster.local cluster.local svc.cluster.local", 5, "www.example.com", nx, nx},
		{"a list of another namespace", strings.ReplaceAll(usual, "default", "prod"), 5, "www.example.com", nx, nx},
		{"a label with a dot", usual, 5, `w\.w.example.com`, nx, nx},
	} {
		t.Run(strings.ReplaceAll(c.what, " ", "_"), func(t *testing.T) {
			s.SetSearches(lists(c.search, c.ndots))
			q := c.name + ".default.svc.cluster.local."
			for typ, want := range map[uint16]string{mdns.TypeA: c.a, mdns.TypeAAAA: c.aaaa} {
				r := askFrom(t, searcher, at, q, typ)
				if want == nx {
					exactly(t, r, askFrom(t, netip.MustParseAddr("127.0.0.3"), at, q, typ))
					continue
				}
				target, data, _ := strings.Cut(want, " ")
				records := []string{q + " CNAME " + target}
				if data != "" {
					records = append(records, target+" "+data)
				}
				got := plainRecords(r.Answer)
				if data != "" && target == "db.prod.svc.cluster.local." { // several addresses, turned
					got = slices.DeleteFunc(got, func(s string) bool { return strings.Contains(s, " A ") && !strings.HasSuffix(s, data) })
				}
				if r.Rcode != mdns.RcodeSuccess || !slices.Equal(got, records) || r.AuthenticatedData || r.Authoritative {
					t.Errorf("%s %s: %v\nwant %q without AA and AD", q, mdns.TypeToString[typ], r, records)
				}
				for _, rr := range slices.Concat(r.Answer, r.Ns) {
					if soa, ok := rr.(*mdns.SOA); rr.Header().Ttl > 5 || ok && soa.Minttl > 5 {
						t.Errorf("%s: kept longer than 5 seconds", rr)
					}
				}
				if data == "" && len(r.Ns) != 1 {
					t.Errorf("%s: no SOA in %v", q, r)
				}
			}
		})
	}
	if n := s.stats.sum(completed); n == 0 {
		t.Error("completed answers were not counted")
	}
}

// exactly compares an answer with the one that a client without a list got.
func exactly(t *testing.T, got, want *mdns.Msg) {
	t.Helper()
	got.Id = want.Id
	if want.Rcode != mdns.RcodeNameError || got.String() != want.String() {
		t.Errorf("got %v\nwant exactly %v", got, want)
	}
}

// TestCompleteOnlyForThePod: others, other types and DNSSEC get the step's own answer.
func TestCompleteOnlyForThePod(t *testing.T) {
	up := newFake(t, world(map[string]string{"www.example.com": "A AAAA"}))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	s.SetSearches(lists(usual, 5))
	q := "www.example.com.default.svc.cluster.local"
	for what, r := range map[string]*mdns.Msg{
		"another client":   askFrom(t, netip.MustParseAddr("127.0.0.3"), at, q, mdns.TypeA),
		"the node":         askFrom(t, netip.MustParseAddr("127.0.0.1"), at, q, mdns.TypeA),
		"another type":     askFrom(t, searcher, at, q, mdns.TypeMX),
		"DNSSEC":           askFrom(t, searcher, at, q, mdns.TypeA, func(m *mdns.Msg) { m.SetEdns0(1232, true) }),
		"checking off":     askFrom(t, searcher, at, q, mdns.TypeA, func(m *mdns.Msg) { m.CheckingDisabled = true }),
		"no recursion":     askFrom(t, searcher, at, q, mdns.TypeA, func(m *mdns.Msg) { m.RecursionDesired = false }),
		"a later step":     askFrom(t, searcher, at, "www.example.com.svc.cluster.local", mdns.TypeA),
		"other namespaces": askFrom(t, searcher, at, "www.example.com.prod.svc.cluster.local", mdns.TypeA),
	} {
		if r.Rcode != mdns.RcodeNameError || len(r.Answer) != 0 {
			t.Errorf("%s: %v, want NXDOMAIN", what, r)
		}
	}
	if up.asked.Load() != 0 {
		t.Errorf("upstream was asked %d times", up.asked.Load())
	}
	s.SetSearches(nil)
	if r := askFrom(t, searcher, at, q, mdns.TypeA); r.Rcode != mdns.RcodeNameError {
		t.Errorf("switched off: %v", r)
	}
}

// TestCompleteUpstreamTrouble: whatever upstream does, the client gets the exact NXDOMAIN of its step at once, for both
// families alike, and the step after it finds what upstream said meanwhile.
func TestCompleteUpstreamTrouble(t *testing.T) {
	for what, bad := range map[string]func(*mdns.Msg) []*mdns.Msg{
		"dead": silent, "servfail": rcode(mdns.RcodeServerFailure), "refused": rcode(mdns.RcodeRefused),
		"no AAAA": func(q *mdns.Msg) []*mdns.Msg {
			if q.Question[0].Qtype == mdns.TypeAAAA {
				return nil
			}
			return world(map[string]string{"www.example.com": "A"})(q)
		},
	} {
		up := newFake(t, bad)
		s, at := start(t, Config{Upstreams: []string{up.addr.String()}})
		s.SetSearches(lists(usual, 5))
		q := "www.example.com.default.svc.cluster.local"
		var wg sync.WaitGroup
		for _, typ := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
			wg.Go(func() {
				begin := time.Now()
				r := askFrom(t, searcher, at, q, typ)
				if took := time.Since(begin); took > 3*time.Second { // machines are shared; upstream would take 4.5 s
					t.Errorf("%s: waited %v", what, took)
				}
				exactly(t, r, askFrom(t, netip.MustParseAddr("127.0.0.3"), at, q, typ))
			})
		}
		wg.Wait()
		if n := s.stats.sum(completed); n != 0 {
			t.Errorf("%s: %d answers were completed", what, n)
		}
	}
	none, at := start(t, Config{})
	none.SetSearches(lists(usual, 5))
	if r := askFrom(t, searcher, at, "www.example.com.default.svc.cluster.local", mdns.TypeA); r.Rcode != mdns.RcodeNameError {
		t.Errorf("without upstreams: %v", r)
	}
}

// TestCompleteIsOneDecision: A and AAAA of one lookup agree, though upstream changes its mind between them.
func TestCompleteIsOneDecision(t *testing.T) {
	up := newFake(t, nil)
	up.set(world(map[string]string{"www.example.com": "A AAAA"}))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}, CacheBytes: 1, autopathTimeout: 4 * time.Second}) // nothing is kept
	for i := range 5 {
		name := fmt.Sprintf("w%d.wild", i)
		up.set(world(nil))
		s.SetSearches(lists(usual, 5))
		a := askFrom(t, searcher, at, name+".default.svc.cluster.local", mdns.TypeA)
		up.set(rcode(mdns.RcodeServerFailure))
		aaaa := askFrom(t, searcher, at, name+".default.svc.cluster.local", mdns.TypeAAAA)
		if len(a.Answer) != 2 && len(a.Answer) == len(aaaa.Answer) {
			continue // upstream was too slow for both
		}
		if len(a.Answer) != 2 || len(aaaa.Answer) != 1 {
			t.Fatalf("A says %v\nAAAA says %v", a, aaaa)
		}
		return
	}
	t.Error("upstream was too slow five times")
}

func TestSearchListsThatAreNotCompleted(t *testing.T) {
	z := &zoneConfig{domain: "\x07cluster\x05local\x00", labels: 2}
	for _, c := range []Search{
		{}, {"default", nil, 5}, {"default", []string{"corp"}, 5}, {"default", strings.Fields(usual), 0}, {"a.b", strings.Fields(usual), 5},
		{"default", strings.Fields("default.svc.other.domain svc.other.domain other.domain"), 5}, {"default", []string{".", ".", "."}, 5},
	} {
		if l := z.searchList(c); l != nil {
			t.Errorf("%+v became %+v", c, l)
		}
	}
	if l := z.searchList(Search{"default", strings.Fields("Default.svc.cluster.local. svc.cluster.local. Cluster.local."), 99}); l == nil || l.ndots != 15 {
		t.Errorf("final dots and capitals: %+v", l)
	}
}

func completed(t *counters) *atomic.Uint64 { return &t.autopath }
