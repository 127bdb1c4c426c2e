package dns

import (
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// FuzzResponse takes any bytes as an upstream's answer: what comes out for a client must be a message to its question.
func FuzzResponse(f *testing.F) {
	k := cacheKey{typ: mdns.TypeA, name: "\x03www\x07example\x03com\x00"}
	q := new(mdns.Msg).SetQuestion("www.example.com.", mdns.TypeA)
	for _, lines := range [][]string{{"www.example.com. 60 IN A 192.0.2.1"}, {"www.example.com. 60 IN CNAME a.example.net.", "a.example.net. 5 IN A 192.0.2.2"}, {"other. 1 IN TXT x"}} {
		m := new(mdns.Msg).SetReply(q)
		for _, l := range lines {
			rr, _ := mdns.NewRR(l)
			m.Answer = append(m.Answer, rr)
		}
		m.Compress = true
		b, _ := m.Pack()
		f.Add(b, uint8(0))
	}
	plainQuestion := packed(f, "wWw.example.com.", mdns.TypeA, true)
	f.Fuzz(func(t *testing.T, raw []byte, flags uint8) {
		k.flags = flags & 3
		in := new(mdns.Msg)
		if in.Unpack(raw) != nil || len(in.Question) != 1 {
			return
		}
		sanitize(in, k)
		in.Question[0].Qtype = k.typ // exchange has compared the question before
		m, err := newMessage(in, k.name)
		if err != nil {
			return
		}
		client := &query{}
		if client.parse(plainQuestion) != simple {
			t.Fatal("the question")
		}
		for _, limit := range []int{512, udpSize, tcpSize} {
			out := client.message(nil, m, ttlRule{age: 7}, limit)
			r := new(mdns.Msg)
			if err := r.Unpack(out); err != nil || len(out) > limit || r.Question[0].Name != "wWw.example.com." {
				t.Fatalf("%x -> %x: %v", raw, out, err)
			}
			if limit == tcpSize && len(r.Answer) != len(in.Answer) && !r.Truncated {
				t.Fatalf("%d answers of %d", len(r.Answer), len(in.Answer))
			}
		}
		c := newCache(1<<20, time.Hour)
		c.put(k, m, time.Now())
	})
}
