package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// TestNegativeAnswersAreCached for the time that the SOA says, and no longer than our own bound.
func TestNegativeAnswersAreCached(t *testing.T) {
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
		name string
		code int
		asks int64
	}{{"nx.example.com", mdns.RcodeNameError, 1}, {"nodata.example.com", mdns.RcodeSuccess, 1}, {"nosoa.example.com", mdns.RcodeNameError, 2}} {
		before := up.asked.Load()
		for range 2 {
			r := ask(t, at, "udp", c.name, mdns.TypeA)
			if r.Rcode != c.code || len(r.Answer) != 0 {
				t.Errorf("%s: %v", c.name, r)
			}
		}
		if got := up.asked.Load() - before; got != c.asks {
			t.Errorf("%s: upstream was asked %d times, want %d", c.name, got, c.asks)
		}
	}
}

func TestLife(t *testing.T) {
	soa, _ := mdns.NewRR("example.com. 30 IN SOA a. b. 1 2 3 4 600000")
	big, _ := mdns.NewRR("a.example.com. 604800 IN A 192.0.2.1")
	small, _ := mdns.NewRR("a.example.com. 7 IN A 192.0.2.2")
	broken, _ := mdns.NewRR("a.example.com. 4294967295 IN A 192.0.2.2")
	q := []mdns.Question{{Name: "a.example.com.", Qtype: mdns.TypeA, Qclass: mdns.ClassINET}}
	for what, c := range map[string]struct {
		m    mdns.Msg
		want time.Duration
	}{
		"smallest TTL":  {mdns.Msg{Question: q, Answer: []mdns.RR{big, small}}, 7 * time.Second},
		"bounded":       {mdns.Msg{Question: q, Answer: []mdns.RR{big}}, maxTTL},
		"top bit":       {mdns.Msg{Question: q, Answer: []mdns.RR{broken}}, 0},
		"SOA's own TTL": {mdns.Msg{Question: q, Ns: []mdns.RR{soa}}, 30 * time.Second},
		"no SOA":        {mdns.Msg{Question: q}, 0},
		"servfail":      {mdns.Msg{Question: q, MsgHdr: mdns.MsgHdr{Rcode: mdns.RcodeServerFailure}}, failureTTL},
		"refused":       {mdns.Msg{Question: q, MsgHdr: mdns.MsgHdr{Rcode: mdns.RcodeRefused}}, 0},
	} {
		if got := cacheTTL(&c.m); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

// age makes everything in the cache d older, instead of waiting.
func (c *cache) age(d time.Duration) {
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		for _, el := range sh.m {
			e := el.Value.(*entry)
			e.stored, e.expires, e.retry = e.stored.Add(-d), e.expires.Add(-d), e.retry.Add(-d)
		}
		sh.mu.Unlock()
	}
}

func TestStaleServesWhileUpstreamFails(t *testing.T) {
	up := newFake(t, says("192.0.2.20"))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	wantA(t, at, "www.example.com", "192.0.2.20")
	s.cache.age(10 * time.Second)
	if r := wantA(t, at, "www.example.com", "192.0.2.20"); r.Answer[0].Header().Ttl > 50 {
		t.Errorf("TTL after ten seconds: %d", r.Answer[0].Header().Ttl)
	}
	s.cache.age(time.Hour)
	up.set(rcode(mdns.RcodeServerFailure))
	r := wantA(t, at, "www.example.com", "192.0.2.20")
	if r.Answer[0].Header().Ttl != staleTTL {
		t.Errorf("stale TTL %d, want %d", r.Answer[0].Header().Ttl, staleTTL)
	}
	before := up.asked.Load()
	wantA(t, at, "www.example.com", "192.0.2.20")
	if up.asked.Load() != before {
		t.Error("a failed refresh was tried again at once")
	}
	if e := s.Query(t.Context(), "www.example.com", mdns.TypeA, netip.MustParseAddr("127.0.0.1")); e.From != "stale" || len(e.Answers) != 1 {
		t.Errorf("explanation: %+v", e)
	}
	s.cache.age(time.Minute)
	up.set(says("192.0.2.21"))
	wantA(t, at, "www.example.com", "192.0.2.21")
	s.cache.age(48 * time.Hour)
	up.set(rcode(mdns.RcodeServerFailure))
	if r := ask(t, at, "udp", "www.example.com", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("after two days: %v, want SERVFAIL", r)
	}
}

func TestHotNamesAreFetchedBeforeTheyExpire(t *testing.T) {
	up := newFake(t, says("192.0.2.22"))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	for range 6 {
		wantA(t, at, "hot.example.com", "192.0.2.22")
	}
	wantA(t, at, "cold.example.com", "192.0.2.22")
	s.cache.age(56 * time.Second) // of 60
	up.set(says("192.0.2.23"))
	wantA(t, at, "cold.example.com", "192.0.2.22")
	wantA(t, at, "hot.example.com", "192.0.2.22") // this client does not wait
	until(t, func() bool { return up.asked.Load() == 3 })
	until(t, func() bool {
		r := ask(t, at, "udp", "hot.example.com", mdns.TypeA)
		return r.Answer[0].(*mdns.A).A.String() == "192.0.2.23"
	})
}

// TestChangedUpstreamsForget: an answer never outlives the upstreams that gave it, not even stale.
func TestChangedUpstreamsForget(t *testing.T) {
	one, two := newFake(t, says("192.0.2.24")), newFake(t, rcode(mdns.RcodeServerFailure))
	s, at := start(t, Config{Upstreams: []string{one.addr.String()}})
	wantA(t, at, "www.example.com", "192.0.2.24")
	wantA(t, at, "a.corp.example", "192.0.2.24")
	if err := s.SetUpstreams([]string{two.addr.String()}, nil); err != nil {
		t.Fatal(err)
	}
	if r := ask(t, at, "udp", "www.example.com", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("after the change: %v, want the new upstream's SERVFAIL", r)
	}
	if err := s.SetUpstreams([]string{two.addr.String()}, map[string][]string{"corp.example": {one.addr.String()}}); err != nil {
		t.Fatal(err)
	}
	wantA(t, at, "a.CORP.example", "192.0.2.24")
	if err := s.SetUpstreams([]string{"nonsense"}, nil); err == nil {
		t.Error("nonsense was taken for an upstream")
	}
	asked := one.asked.Load()
	if err := s.SetUpstreams([]string{one.addr.String()}, map[string][]string{"corp.example": {one.addr.String()}}); err != nil {
		t.Fatal(err)
	}
	wantA(t, at, "a.corp.example", "192.0.2.24")
	if one.asked.Load() != asked {
		t.Error("a stub domain that did not change lost its cached answers")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(64<<10, time.Hour)
	now := time.Now()
	for i := range 10000 {
		c.put(cacheKey{typ: 1, name: fmt.Sprintf("\x06%06d\x00", i)}, &message{body: make([]byte, 100), ttl: time.Minute}, now)
	}
	if n, bytes := c.size(); bytes > 64<<10 || n == 0 {
		t.Errorf("%d entries, %d bytes, want at most %d", n, bytes, 64<<10)
	}
	c.put(cacheKey{typ: 1, name: "\x03big\x00"}, &message{body: make([]byte, 60000), ttl: time.Minute}, now)
	if l := c.get(cacheLookup{typ: 1, name: []byte("\x03big\x00")}, now); l.msg != nil {
		t.Error("an answer larger than a shard was kept")
	}
}
