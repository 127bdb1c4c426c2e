package dns

import (
	"context"

	"github.com/miekg/dns"

	"github.com/warrennet/warren/dns/forward"
	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/dns/zone"
)

// maxAliases bounds the chain of ExternalName Services of one answer.
const maxAliases = 8

// followAlias answers for a Service of type ExternalName: names of the cluster from the same index, external names from
// upstream. The CNAMEs stay in the answer when their target cannot be resolved; the answer is SERVFAIL then, so that the
// client tries again.
func (s *Server) followAlias(ctx context.Context, q *wire.Query, x *zone.Index, alias string) *forward.Message {
	out := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}, Question: []dns.Question{{Qtype: q.Type}}}
	owner, seen := wire.DecodeName(q.Name), map[string]bool{string(q.Name): true}
	for n := 0; n < maxAliases && alias != ""; n++ {
		target := wire.DecodeName([]byte(alias))
		out.Answer = append(out.Answer, newCNAME(owner, target, x.TTL()))
		if seen[alias] {
			break // the Services refer to each other
		}
		seen[alias] = true
		owner, alias = target, s.resolveAliasTarget(ctx, q, x, alias, out)
	}
	m, err := forward.NewMessage(out, string(q.Name))
	if err != nil {
		return forward.Failure(wire.RcodeServfail)
	}
	m.Authoritative = true
	return m
}

// resolveAliasTarget adds the answer for an alias's target to out. When the target is an ExternalName too, it returns
// that one's target.
func (s *Server) resolveAliasTarget(ctx context.Context, q *wire.Query, x *zone.Index, target string, out *dns.Msg) string {
	sub := &wire.Query{}
	if sub.Parse(q.WithName(target)) != wire.Simple {
		return ""
	}
	sub.Client = q.Client
	r := x.Find(sub)
	var raw []byte
	switch {
	case r.Alias != "":
		return r.Alias
	case r.Zone != zone.External:
		raw = x.Answer(nil, sub, r, 0, wire.TCPSize)
	case !q.RecursionDesired:
		out.Rcode = dns.RcodeSuccess // the CNAME alone is the authoritative answer
		return ""
	default:
		m, rule, _ := s.forward.Resolve(ctx, sub)
		raw = m.Answer(nil, sub, rule, wire.TCPSize)
	}
	in := new(dns.Msg)
	if in.Unpack(raw) == nil {
		out.Answer, out.Ns, out.Rcode = append(out.Answer, in.Answer...), in.Ns, in.Rcode
	}
	return ""
}

func newCNAME(owner, target string, ttl uint32) *dns.CNAME {
	return &dns.CNAME{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: ttl}, Target: target}
}
