package forward

import (
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/dns/wire"
)

// FuzzResponse takes any bytes as the answer of an upstream. The answer to the client must be a valid message for its
// question.
func FuzzResponse(f *testing.F) {
	k := cacheKey{typ: mdns.TypeA, name: "\x03www\x07example\x03com\x00"}
	q := new(mdns.Msg).SetQuestion("www.example.com.", mdns.TypeA)
	for _, lines := range [][]string{{"www.example.com. 60 IN A 192.0.2.1"},
		{"www.example.com. 60 IN CNAME a.example.net.", "a.example.net. 5 IN A 192.0.2.2"}, {"other. 1 IN TXT x"}} {
		m := new(mdns.Msg).SetReply(q)
		for _, l := range lines {
			rr, _ := mdns.NewRR(l)
			m.Answer = append(m.Answer, rr)
		}
		m.Compress = true
		b, _ := m.Pack()
		f.Add(b, uint8(0))
	}
	simple, err := new(mdns.Msg).SetQuestion("wWw.example.com.", mdns.TypeA).SetEdns0(4096, false).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte, flags uint8) {
		k.flags = flags & 3
		in := new(mdns.Msg)
		if in.Unpack(raw) != nil || len(in.Question) != 1 {
			return
		}
		sanitize(in, k)
		in.Question[0].Qtype = k.typ // exchange has compared the question before
		m, err := NewMessage(in, k.name)
		if err != nil {
			return
		}
		client := &wire.Query{}
		if client.Parse(simple) != wire.Simple {
			t.Fatal("the question")
		}
		for _, limit := range []int{512, wire.UDPSize, wire.TCPSize} {
			out := m.Answer(nil, client, TTLRule{age: 7}, limit)
			r := new(mdns.Msg)
			if err := r.Unpack(out); err != nil || len(out) > limit || r.Question[0].Name != "wWw.example.com." {
				t.Fatalf("%x -> %x: %v", raw, out, err)
			}
			if limit == wire.TCPSize && len(r.Answer) != len(in.Answer) && !r.Truncated {
				t.Fatalf("%d answers of %d", len(r.Answer), len(in.Answer))
			}
		}
		c := newCache(1<<20, time.Hour)
		c.put(k, m, time.Now())
	})
}
