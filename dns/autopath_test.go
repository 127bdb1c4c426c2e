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

	"github.com/warrennet/warren/dns/zone"
)

// searcher is the address whose search list is completed.
var searcher = netip.MustParseAddr("127.0.0.2")

const standard = "default.svc.cluster.local svc.cluster.local cluster.local"

func lists(domains string, ndots int) map[netip.Addr]Search {
	return map[netip.Addr]Search{searcher: {"default", strings.Fields(domains), ndots}}
}

// exchangeFrom queries from a loopback address.
func exchangeFrom(t testing.TB, from netip.Addr, at netip.AddrPort, name string, qtype uint16, edit ...func(*mdns.Msg)) *mdns.Msg {
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

// namesOf answers names by a table: "A", "AAAA", "A AAAA", or "-" for a name without either. Other names do
// not exist, except below wild.
func namesOf(names map[string]string) func(*mdns.Msg) []*mdns.Msg {
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

func TestAutopath_SearchLists_FirstExistingName(t *testing.T) {
	up := newFake(t, namesOf(map[string]string{"www.example.com": "A AAAA", "v4.example.com": "A",
		"host.lan.corp": "A", "both.example": "A", "both.example.corp": "AAAA",
		"empty.example": "-", "x.db.prod": "A", "db-0.none": "A", "away.ext": "A", "a_b.example": "A"}))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}, autopathTimeout: 4 * time.Second})
	nx := "NXDOMAIN"
	const v4, v6 = " A 192.0.2.80", " AAAA 2001:db8::80"
	for _, c := range []struct {
		what, search string
		ndots        int
		name         string // without the first domain of the list
		a, aaaa      string // the result: a name and its record, a name without data, or NXDOMAIN
	}{
		{"an outside name", standard, 5, "www.example.com", "www.example.com." + v4, "www.example.com." + v6},
		{"the same in capitals", standard, 5, "WWW.Example.com", "www.example.com." + v4, "www.example.com." + v6},
		{"one family is missing: the chain ends all the same", standard, 5, "v4.example.com", "v4.example.com." + v4, "v4.example.com."},
		{"a name of the cluster in another namespace", standard, 5, "db.prod",
			"db.prod.svc.cluster.local. A 10.42.0.2", "db.prod.svc.cluster.local. AAAA fd42::2"},
		{"with svc", standard, 5, "web.default.svc", "web.default.svc.cluster.local. A 10.43.0.5",
			"web.default.svc.cluster.local. AAAA fd43::5"},
		{"without the second family", standard, 5, "four.default.svc", "four.default.svc.cluster.local. A 10.43.0.6",
			"four.default.svc.cluster.local."},
		{"the whole name, in a list", standard, 5, "web.default.svc.cluster.local",
			"web.default.svc.cluster.local. A 10.43.0.5", "web.default.svc.cluster.local. AAAA fd43::5"},
		{"nothing exists", standard, 5, "nope.example.org", nx, nx},
		{"one label", standard, 5, "wild", nx, nx},
		{"a Pod of a Service that is not ready", standard, 5, "db-3.db.prod", nx, nx},
		{"a Service that is not ready", standard, 5, "none.prod", nx, nx},
		{"below one", standard, 5, "x.none.prod.svc", nx, nx},
		{"ends in a Service of the namespace", standard, 5, "www.web", nx, nx},
		{"an alias is left to the client", standard, 5, "away.ext", nx, nx},
		{"as many dots as ndots", standard, 2, "www.example.com", nx, nx},
		{"ndots from a resolver's default", standard, 1, "www.example.com", nx, nx},
		{"a domain of the node", standard + " lan.corp", 5, "host.lan.corp", "host.lan.corp." + v4, "host.lan.corp."},
		{"which wins over the bare name, for both families", standard + " corp", 5, "both.example",
			"both.example.corp.", "both.example.corp." + v6},
		{"a name without data ends the chain", standard + " corp", 5, "empty.example", "empty.example.", "empty.example."},
		{"underscores", standard + " _x.corp", 5, "a_b.example", "a_b.example." + v4, "a_b.example."},
		{"dot at the end", standard + " .", 5, "www.example.com", "www.example.com." + v4, "www.example.com." + v6},
		{"dot in the middle", standard + " . corp", 5, "www.example.com", nx, nx},
		{"six domains", standard + " a b c", 5, "www.example.com", "www.example.com." + v4, "www.example.com." + v6},
		{"seven: older resolvers see six", standard + " a b c d", 5, "www.example.com", nx, nx},
		{"seven, and one of the six has it", standard + " a b corp d", 5, "both.example", "both.example.corp.", "both.example.corp." + v6},
		{"256 bytes", standard + " " + strings.Repeat("abcdefghi.", 20) + "abcdefgh", 5, "www.example.com", nx, nx},
		{"a candidate that is too long", standard + " " + strings.Repeat("abcdefgh.", 19) + "abcdefgh", 5,
			strings.Repeat("a", 50) + "." + strings.Repeat("b", 50), nx, nx},
		{"a list of dnsPolicy None", "default.svc.cluster.local cluster.local svc.cluster.local", 5, "www.example.com", nx, nx},
		{"a list of another namespace", strings.ReplaceAll(standard, "default", "prod"), 5, "www.example.com", nx, nx},
		{"a label with a dot", standard, 5, `w\.w.example.com`, nx, nx},
	} {
		t.Run(strings.ReplaceAll(c.what, " ", "_"), func(t *testing.T) {
			s.SetSearches(lists(c.search, c.ndots))
			q := c.name + ".default.svc.cluster.local."
			for typ, want := range map[uint16]string{mdns.TypeA: c.a, mdns.TypeAAAA: c.aaaa} {
				r := exchangeFrom(t, searcher, at, q, typ)
				if want == nx {
					exactly(t, r, exchangeFrom(t, netip.MustParseAddr("127.0.0.3"), at, q, typ))
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
						t.Errorf("%s: TTL above 5 seconds", rr)
					}
				}
				if data == "" && len(r.Ns) != 1 {
					t.Errorf("%s: no SOA in %v", q, r)
				}
			}
		})
	}
	if n := s.stats.sum(autopathAnswers); n == 0 {
		t.Error("completed answers were not counted")
	}
}

// exactly compares an answer with that of a client without a search list.
func exactly(t *testing.T, got, want *mdns.Msg) {
	t.Helper()
	got.Id = want.Id
	if want.Rcode != mdns.RcodeNameError || got.String() != want.String() {
		t.Errorf("got %v\nwant exactly %v", got, want)
	}
}

// Other clients, other types and DNSSEC get the answer of the step itself.
func TestAutopath_OtherClientsAndQuestions_NotCompleted(t *testing.T) {
	up := newFake(t, namesOf(map[string]string{"www.example.com": "A AAAA"}))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	s.SetSearches(lists(standard, 5))
	q := "www.example.com.default.svc.cluster.local"
	for what, r := range map[string]*mdns.Msg{
		"another client":   exchangeFrom(t, netip.MustParseAddr("127.0.0.3"), at, q, mdns.TypeA),
		"the node":         exchangeFrom(t, netip.MustParseAddr("127.0.0.1"), at, q, mdns.TypeA),
		"another type":     exchangeFrom(t, searcher, at, q, mdns.TypeMX),
		"DNSSEC":           exchangeFrom(t, searcher, at, q, mdns.TypeA, func(m *mdns.Msg) { m.SetEdns0(1232, true) }),
		"checking off":     exchangeFrom(t, searcher, at, q, mdns.TypeA, func(m *mdns.Msg) { m.CheckingDisabled = true }),
		"no recursion":     exchangeFrom(t, searcher, at, q, mdns.TypeA, func(m *mdns.Msg) { m.RecursionDesired = false }),
		"a later step":     exchangeFrom(t, searcher, at, "www.example.com.svc.cluster.local", mdns.TypeA),
		"other namespaces": exchangeFrom(t, searcher, at, "www.example.com.prod.svc.cluster.local", mdns.TypeA),
	} {
		t.Run(what, func(t *testing.T) {
			if r.Rcode != mdns.RcodeNameError || len(r.Answer) != 0 {
				t.Errorf("%v, expected NXDOMAIN", r)
			}
		})
	}
	if up.received.Load() != 0 {
		t.Errorf("%d queries to the upstream, expected none", up.received.Load())
	}
	s.SetSearches(nil)
	if r := exchangeFrom(t, searcher, at, q, mdns.TypeA); r.Rcode != mdns.RcodeNameError {
		t.Errorf("switched off: %v", r)
	}
}

// When upstreams fail, the client gets the exact NXDOMAIN of its step soon, for both families, and continues with its list.
func TestAutopath_UpstreamFails_NXDOMAINOfTheStep(t *testing.T) {
	for what, bad := range map[string]func(*mdns.Msg) []*mdns.Msg{
		"dead": silent, "servfail": rcode(mdns.RcodeServerFailure), "refused": rcode(mdns.RcodeRefused),
		"no AAAA": func(q *mdns.Msg) []*mdns.Msg {
			if q.Question[0].Qtype == mdns.TypeAAAA {
				return nil
			}
			return namesOf(map[string]string{"www.example.com": "A"})(q)
		},
	} {
		t.Run(what, func(t *testing.T) {
			up := newFake(t, bad)
			s, at := start(t, Config{Upstreams: []string{up.addr.String()}})
			s.SetSearches(lists(standard, 5))
			q := "www.example.com.default.svc.cluster.local"
			var wg sync.WaitGroup
			for _, typ := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
				wg.Go(func() {
					begin := time.Now()
					r := exchangeFrom(t, searcher, at, q, typ)
					if took := time.Since(begin); took > 3*time.Second { // machines are shared; upstream would take 4.5 s
						t.Errorf("waited %v", took)
					}
					exactly(t, r, exchangeFrom(t, netip.MustParseAddr("127.0.0.3"), at, q, typ))
				})
			}
			wg.Wait()
			if n := s.stats.sum(autopathAnswers); n != 0 {
				t.Errorf("%d answers were completed", n)
			}
		})
	}
	none, at := start(t, Config{})
	none.SetSearches(lists(standard, 5))
	if r := exchangeFrom(t, searcher, at, "www.example.com.default.svc.cluster.local", mdns.TypeA); r.Rcode != mdns.RcodeNameError {
		t.Errorf("without upstreams: %v", r)
	}
}

// A and AAAA of one lookup follow from one decision, although the upstream changes its answer between them.
func TestAutopath_UpstreamChanges_AAndAAAAAgree(t *testing.T) {
	up := newFake(t, nil)
	up.set(namesOf(map[string]string{"www.example.com": "A AAAA"}))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}, CacheBytes: 1, autopathTimeout: 4 * time.Second}) // nothing is cached
	for i := range 5 {
		name := fmt.Sprintf("w%d.wild", i)
		up.set(namesOf(nil))
		s.SetSearches(lists(standard, 5))
		a := exchangeFrom(t, searcher, at, name+".default.svc.cluster.local", mdns.TypeA)
		up.set(rcode(mdns.RcodeServerFailure))
		aaaa := exchangeFrom(t, searcher, at, name+".default.svc.cluster.local", mdns.TypeAAAA)
		if len(a.Answer) != 2 && len(a.Answer) == len(aaaa.Answer) {
			continue // both answers timed out
		}
		if len(a.Answer) != 2 || len(aaaa.Answer) != 1 {
			t.Fatalf("answer to A: %v\nanswer to AAAA: %v", a, aaaa)
		}
		return
	}
	t.Error("the upstream was too slow five times")
}

func TestNewSearchList_UnpredictableList_NotCompleted(t *testing.T) {
	z := &zone.Config{Domain: "\x07cluster\x05local\x00", Labels: 2}
	for _, c := range []Search{
		{}, {"default", nil, 5}, {"default", []string{"corp"}, 5}, {"default", strings.Fields(standard), 0},
		{"a.b", strings.Fields(standard), 5},
		{"default", strings.Fields("default.svc.other.domain svc.other.domain other.domain"), 5}, {"default", []string{".", ".", "."}, 5},
	} {
		if l := newSearchList(z, c); l != nil {
			t.Errorf("%+v became %+v", c, l)
		}
	}
	if l := newSearchList(z, Search{"default",
		strings.Fields("Default.svc.cluster.local. svc.cluster.local. Cluster.local."), 99}); l == nil || l.ndots != 15 {
		t.Errorf("final dots and capitals: %+v", l)
	}
}

func autopathAnswers(t *counters) *atomic.Uint64 { return &t.autopath }
