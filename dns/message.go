package dns

import (
	"encoding/binary"
	"time"

	"github.com/miekg/dns"
)

// message is an external answer behind its question, ready to be copied: compression pointers in body count from the
// message's start, and the question in front has the same length in every spelling.
type message struct {
	rcode      byte
	ad         bool
	authority  bool // AA: names of our own inside
	an, ns, ar uint16
	body       []byte
	ttl        time.Duration // how long it may be cached, 0 for not at all
}

// ttlRule says what TTLs a cached message is sent with.
type ttlRule struct {
	age   uint32 // subtracted
	fixed uint32 // or this one, when not 0
}

func (r ttlRule) apply(ttl uint32) uint32 {
	switch {
	case r.fixed != 0:
		return r.fixed
	case ttl > r.age:
		return ttl - r.age
	}
	return 0
}

// message answers with a copy of m.
func (q *query) message(dst []byte, m *message, rule ttlRule, limit int) []byte {
	dst = q.begin(dst, m.rcode, 0)
	if m.ad && (q.dnssecOK || q.wantsAD) {
		dst[3] |= flagAD
	}
	if m.authority {
		dst[2] |= flagAA
	}
	room := q.room(limit)
	for i, n := 0, int(m.an)+int(m.ns)+int(m.ar); n > 0; n-- {
		at, end := skipRecord(m.body, i)
		if end == 0 || end > room {
			if n > int(m.ns)+int(m.ar) || end == 0 {
				dst[2] |= flagTC // answers are missing; authority and additional records may be (RFC 2181, 9)
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
	return q.finish(dst)
}

// skipRecord returns where the record at i has its type, and where it ends; 0 for neither.
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

// newMessage packs a response so that it can be cached: question in lower case, OPT removed.
func newMessage(m *dns.Msg, name string) (*message, error) {
	m.Question = []dns.Question{{Name: decodeName([]byte(name)), Qtype: m.Question[0].Qtype, Qclass: dns.ClassINET}}
	m.Extra = withoutOPT(m.Extra)
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		return nil, err
	}
	out := &message{rcode: byte(m.Rcode & 15), ad: m.AuthenticatedData, an: uint16(len(m.Answer)), ns: uint16(len(m.Ns)),
		ar: uint16(len(m.Extra)), body: b[headerLen+len(name)+4:]}
	out.ttl = cacheTTL(m)
	return out, nil
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

// cacheTTL is how long a response may be kept: the smallest TTL of its answer, or what the SOA says of a negative one
// (RFC 2308); a negative one without SOA is not kept.
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

// seconds reads a TTL; one with the top bit set is 0 (RFC 2181, 8).
func seconds(ttl uint32) uint32 {
	if ttl > 1<<31-1 {
		return 0
	}
	return ttl
}
