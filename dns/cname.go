package dns

import (
	"context"
	"encoding/binary"

	"github.com/miekg/dns"
)

// maxAliases bounds how many ExternalNames lead to one answer.
const maxAliases = 8

// followAlias follows an ExternalName: inside the cluster through the same index, outside through upstream. The aliases come
// first in the answer and are kept when what follows fails; then the whole is SERVFAIL, so that a client asks again.
func (s *Server) followAlias(ctx context.Context, q *query, x *index, svc *service) *message {
	out := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}, Question: []dns.Question{{Qtype: q.typ}}}
	owner, seen := decodeName(q.name), map[string]bool{string(q.name): true}
	for n := 0; n < maxAliases && svc != nil; n++ {
		target := decodeName([]byte(svc.target))
		out.Answer = append(out.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: x.config.ttl}, Target: target})
		if seen[svc.target] {
			break // a ring
		}
		seen[svc.target] = true
		owner, svc = target, s.resolveAliasTarget(ctx, q, x, svc.target, out)
	}
	m, err := newMessage(out, string(q.name))
	if err != nil {
		return &message{rcode: rcodeServfail}
	}
	m.authority, m.ttl = true, 0
	return m
}

// resolveAliasTarget asks for an alias's target and adds the answer to out, or returns the next alias.
func (s *Server) resolveAliasTarget(ctx context.Context, q *query, x *index, target string, out *dns.Msg) *service {
	sub := &query{}
	if sub.parse(withName(q, target)) != simple {
		return nil
	}
	f := x.find(sub)
	var raw []byte
	switch {
	case f.chase != nil:
		return f.chase
	case f.zone != zoneExternal:
		raw = sub.local(nil, x, f, 0, tcpSize)
	case !q.recursionDesired:
		out.Rcode = dns.RcodeSuccess // the alias is all we have ourselves
		return nil
	default:
		m, rule, _ := s.external(ctx, sub)
		raw = sub.message(nil, m, rule, tcpSize)
	}
	in := new(dns.Msg)
	if in.Unpack(raw) == nil {
		out.Answer, out.Ns, out.Rcode = append(out.Answer, in.Answer...), in.Ns, in.Rcode
	}
	return nil
}

// withName is the same question for another name.
func withName(q *query, name string) []byte {
	p := append([]byte(nil), q.pkt[:headerLen]...)
	copy(p[4:], "\x00\x01\x00\x00\x00\x00\x00\x00")
	p = append(p, name...)
	p = binary.BigEndian.AppendUint16(p, q.typ)
	p = binary.BigEndian.AppendUint16(p, classIN)
	if q.edns {
		p[11] = 1
		p = append(p, 0, 0, typeOPT, udpSize>>8, udpSize&0xff, 0, 0, 0, 0, 0, 0)
		if q.dnssecOK {
			p[len(p)-4] = 0x80
		}
	}
	return p
}
