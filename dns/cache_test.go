package dns

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/internal/testutil"
)

// Negative answers are cached for the TTL of their SOA; without an SOA they are not cached.
func TestServer_NegativeAnswer_CachedByItsSOA(t *testing.T) {
	up := newFake(t, nil)
	up.set(func(q *mdns.Msg) []*mdns.Msg {
		m := new(mdns.Msg).SetRcode(q, mdns.RcodeNameError)
		if strings.HasPrefix(strings.ToLower(q.Question[0].Name), "nodata") {
			m.Rcode = mdns.RcodeSuccess
		}
		if !strings.HasPrefix(strings.ToLower(q.Question[0].Name), "nosoa") {
			soa, _ := mdns.NewRR("example.com. 3600 IN SOA a. b. 1 2 3 4 60")
			m.Ns = []mdns.RR{soa}
		}
		return []*mdns.Msg{m}
	})
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	for _, c := range []struct {
		name    string
		code    int
		queries int64
	}{
		{"nx.example.com", mdns.RcodeNameError, 1},
		{"nodata.example.com", mdns.RcodeSuccess, 1},
		{"nosoa.example.com", mdns.RcodeNameError, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := up.received.Load()
			for range 2 {
				r := exchange(t, at, "udp", c.name, mdns.TypeA)
				if r.Rcode != c.code || len(r.Answer) != 0 {
					t.Errorf("answer %v, expected %s without records", r, mdns.RcodeToString[c.code])
				}
			}
			if got := up.received.Load() - before; got != c.queries {
				t.Errorf("%d queries to the upstream, expected %d", got, c.queries)
			}
		})
	}
}

func TestServer_UpstreamFails_ServesStale(t *testing.T) {
	clock := &testClock{}
	up := newFake(t, answers("192.0.2.20"))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}, now: clock.Now})
	wantA(t, at, "www.example.com", "192.0.2.20")
	clock.advance(10 * time.Second)
	if r := wantA(t, at, "www.example.com", "192.0.2.20"); r.Answer[0].Header().Ttl > 50 {
		t.Errorf("TTL after ten seconds: %d", r.Answer[0].Header().Ttl)
	}
	clock.advance(time.Hour)
	up.set(rcode(mdns.RcodeServerFailure))
	r := wantA(t, at, "www.example.com", "192.0.2.20")
	if r.Answer[0].Header().Ttl != 30 {
		t.Errorf("TTL %d of a stale answer, expected %d (RFC 8767)", r.Answer[0].Header().Ttl, 30)
	}
	before := up.received.Load()
	wantA(t, at, "www.example.com", "192.0.2.20")
	if up.received.Load() != before {
		t.Error("a failed refresh was repeated at once")
	}
	if e := s.Query(t.Context(), "www.example.com", mdns.TypeA, netip.MustParseAddr("127.0.0.1")); e.From != "stale" ||
		len(e.Answers) != 1 {
		t.Errorf("Query returned %+v, expected one stale answer", e)
	}
	clock.advance(time.Minute)
	up.set(answers("192.0.2.21"))
	wantA(t, at, "www.example.com", "192.0.2.21")
	clock.advance(48 * time.Hour)
	up.set(rcode(mdns.RcodeServerFailure))
	if r := exchange(t, at, "udp", "www.example.com", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("after two days: %v, want SERVFAIL", r)
	}
}

func TestServer_OftenUsedName_FetchedBeforeItExpires(t *testing.T) {
	clock := &testClock{}
	up := newFake(t, answers("192.0.2.22"))
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}, now: clock.Now})
	for range 6 {
		wantA(t, at, "hot.example.com", "192.0.2.22")
	}
	wantA(t, at, "cold.example.com", "192.0.2.22")
	clock.advance(56 * time.Second) // of 60
	up.set(answers("192.0.2.23"))
	wantA(t, at, "cold.example.com", "192.0.2.22")
	wantA(t, at, "hot.example.com", "192.0.2.22") // this client does not wait
	testutil.EventuallyTrue(t, "the name is fetched again", func() bool { return up.received.Load() == 3 })
	testutil.EventuallyTrue(t, "the new answer is served", func() bool {
		r := exchange(t, at, "udp", "hot.example.com", mdns.TypeA)
		return r.Answer[0].(*mdns.A).A.String() == "192.0.2.23"
	})
}

// A cached answer never outlives the upstreams that gave it, not even as a stale answer.
func TestServer_UpstreamsChanged_CacheForgetsTheirAnswers(t *testing.T) {
	one, two := newFake(t, answers("192.0.2.24")), newFake(t, rcode(mdns.RcodeServerFailure))
	s, at := start(t, Config{Upstreams: []string{one.addr.String()}})
	wantA(t, at, "www.example.com", "192.0.2.24")
	wantA(t, at, "a.corp.example", "192.0.2.24")
	if err := s.SetUpstreams([]string{two.addr.String()}, nil); err != nil {
		t.Fatal(err)
	}
	if r := exchange(t, at, "udp", "www.example.com", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("after the change: %v, want the new upstream's SERVFAIL", r)
	}
	if err := s.SetUpstreams([]string{two.addr.String()}, map[string][]string{"corp.example": {one.addr.String()}}); err != nil {
		t.Fatal(err)
	}
	wantA(t, at, "a.CORP.example", "192.0.2.24")
	if err := s.SetUpstreams([]string{"nonsense"}, nil); err == nil {
		t.Error("the upstream \"nonsense\" was accepted")
	}
	asked := one.received.Load()
	if err := s.SetUpstreams([]string{one.addr.String()}, map[string][]string{"corp.example": {one.addr.String()}}); err != nil {
		t.Fatal(err)
	}
	wantA(t, at, "a.corp.example", "192.0.2.24")
	if one.received.Load() != asked {
		t.Error("an unchanged stub domain lost its cached answers")
	}
}
