package forward

import (
	"fmt"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func TestCacheTTL_Response_SmallestTTLWithinBounds(t *testing.T) {
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
		t.Run(what, func(t *testing.T) {
			if got := cacheTTL(&c.m); got != c.want {
				t.Errorf("TTL %v, expected %v", got, c.want)
			}
		})
	}
}

func TestCache_ManyAnswers_MemoryIsBounded(t *testing.T) {
	c := newCache(64<<10, time.Hour)
	now := time.Now()
	for i := range 10000 {
		c.put(cacheKey{typ: 1, name: fmt.Sprintf("\x06%06d\x00", i)}, &Message{body: make([]byte, 100), ttl: time.Minute}, now)
	}
	if n, bytes := c.size(); bytes > 64<<10 || n == 0 {
		t.Errorf("%d entries, %d bytes, want at most %d", n, bytes, 64<<10)
	}
	c.put(cacheKey{typ: 1, name: "\x03big\x00"}, &Message{body: make([]byte, 60000), ttl: time.Minute}, now)
	if l := c.get(cacheLookup{typ: 1, name: []byte("\x03big\x00")}, now); l.Message != nil {
		t.Error("an answer larger than a shard was stored")
	}
}
