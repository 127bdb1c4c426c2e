package forward

import (
	"encoding/binary"
	"time"

	"github.com/miekg/dns"

	"github.com/warrennet/warren/dns/wire"
)

// Message is an answer in the form that the cache stores: the records after the question, in wire form. Compression
// pointers in body count from the start of the message. The question in front has the same length in every spelling, so
// that the pointers stay valid for a client that uses other capitals.
type Message struct {
	Rcode         byte
	Authoritative bool // AA: the answer contains cluster names
	ad            bool
	an, ns, ar    uint16
	body          []byte
	ttl           time.Duration // how long it may be cached, 0 for not at all
}

// Failure is an answer without records.
func Failure(rcode byte) *Message { return &Message{Rcode: rcode} }

// Empty reports whether the answer has no records.
func (m *Message) Empty() bool { return len(m.body) == 0 }

// TTLRule changes the TTLs of a cached message when it is sent.
type TTLRule struct {
	age   uint32 // subtracted, in seconds
	fixed uint32 // replaces every TTL when it is not 0
}

func (r TTLRule) apply(ttl uint32) uint32 {
	switch {
	case r.fixed != 0:
		return r.fixed
	case ttl > r.age:
		return ttl - r.age
	}
	return 0
}

// Answer writes m as the answer to q, in at most limit bytes. It allocates nothing when dst is large enough.
func (m *Message) Answer(dst []byte, q *wire.Query, rule TTLRule, limit int) []byte {
	dst = q.Begin(dst, m.Rcode, 0)
	if m.ad && (q.DNSSECOK || q.WantsAD) {
		dst[3] |= wire.FlagAD
	}
	if m.Authoritative {
		dst[2] |= wire.FlagAA
	}
	room := q.Room(limit)
	for i, n := 0, int(m.an)+int(m.ns)+int(m.ar); n > 0; n-- {
		at, end := skipRecord(m.body, i)
		if end == 0 || end > room {
			if n > int(m.ns)+int(m.ar) || end == 0 {
				dst[2] |= wire.FlagTC // only missing answers set TC (RFC 2181 section 9)
			}
			break
		}
		start := len(dst)
		dst = append(dst, m.body[i:end]...)
		ttl := dst[start+at-i+4:]
		binary.BigEndian.PutUint32(ttl, rule.apply(binary.BigEndian.Uint32(ttl)))
		section := 6
		if n <= int(m.ar) {
			section = 10
		} else if n <= int(m.ns)+int(m.ar) {
			section = 8
		}
		binary.BigEndian.PutUint16(dst[section:], binary.BigEndian.Uint16(dst[section:])+1)
		i = end
	}
	return q.Finish(dst)
}

// skipRecord returns the offset of the type of the record at i and the offset after the record, 0 and 0 when it is
// truncated.
func skipRecord(b []byte, i int) (typ, end int) {
	for i < len(b) && b[i] != 0 {
		if b[i] >= 0xC0 {
			i++
			break
		}
		i += 1 + int(b[i])
	}
	i++
	if i+10 > len(b) {
		return 0, 0
	}
	end = i + 10 + int(binary.BigEndian.Uint16(b[i+8:]))
	if end > len(b) {
		return 0, 0
	}
	return i, end
}

// NewMessage converts a response to the question for name (wire form, lower case). It replaces the question and removes
// the OPT record.
func NewMessage(m *dns.Msg, name string) (*Message, error) {
	m.Question = []dns.Question{{Name: wire.DecodeName([]byte(name)), Qtype: m.Question[0].Qtype, Qclass: dns.ClassINET}}
	m.Extra = withoutOPT(m.Extra)
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		return nil, err
	}
	return &Message{Rcode: byte(m.Rcode & 15), ad: m.AuthenticatedData, an: uint16(len(m.Answer)), ns: uint16(len(m.Ns)),
		ar: uint16(len(m.Extra)), body: b[wire.HeaderLen+len(name)+4:], ttl: cacheTTL(m)}, nil
}

func withoutOPT(rr []dns.RR) []dns.RR {
	out := rr[:0]
	for _, r := range rr {
		if r.Header().Rrtype != dns.TypeOPT {
			out = append(out, r)
		}
	}
	return out
}

// cacheTTL is how long a response may be cached: the smallest TTL of its answer records. A negative response has the TTL
// of its SOA (RFC 2308 section 5); without an SOA it is not cached.
func cacheTTL(m *dns.Msg) time.Duration {
	switch {
	case m.Rcode == dns.RcodeServerFailure:
		return failureTTL
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return 0
	}
	ttl, negative := uint32(maxTTL/time.Second), true
	for _, r := range m.Answer {
		ttl = min(ttl, seconds(r.Header().Ttl))
		negative = negative && r.Header().Rrtype != m.Question[0].Qtype
	}
	if !negative {
		return time.Duration(ttl) * time.Second
	}
	for _, r := range m.Ns {
		if soa, ok := r.(*dns.SOA); ok {
			return min(maxNegative, time.Duration(min(ttl, seconds(soa.Hdr.Ttl), seconds(soa.Minttl)))*time.Second)
		}
	}
	return 0
}

// seconds reads a TTL. A TTL with the top bit set is 0 (RFC 2181 section 8).
func seconds(ttl uint32) uint32 {
	if ttl > 1<<31-1 {
		return 0
	}
	return ttl
}
