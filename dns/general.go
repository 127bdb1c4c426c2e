package dns

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/dns/zone"
)

// generalQuery is a query that is not simple.
type generalQuery struct {
	in, out  *dns.Msg
	client   netip.Addr
	size     int // of the largest answer
	counters *counters
}

// answerGeneral answers queries that are not simple. The DNS library parses them. g has the client, its counters and, as
// size, the limit of the transport.
func (s *Server) answerGeneral(ctx context.Context, pkt []byte, g *generalQuery) []byte {
	in := new(dns.Msg)
	err := in.Unpack(pkt)
	if in.Opcode != dns.OpcodeQuery && len(pkt) >= wire.HeaderLen {
		return wire.HeaderOnly(pkt, dns.RcodeNotImplemented)
	}
	if err != nil || len(in.Question) != 1 {
		return wire.HeaderOnly(pkt, dns.RcodeFormatError) // DNS servers answer one question only (RFC 9619)
	}
	out := new(dns.Msg)
	out.SetReply(in)
	out.RecursionAvailable = true
	size := dns.MinMsgSize
	if o := in.IsEdns0(); o != nil {
		size = min(max(int(o.UDPSize()), dns.MinMsgSize), wire.UDPSize)
		out.SetEdns0(wire.UDPSize, o.Do())
		if o.Version() != 0 {
			out.Rcode = dns.RcodeBadVers
			return pack(out, size)
		}
	}
	if g.size <= wire.UDPSize {
		g.size = size // not TCP
	}
	g.in, g.out = in, out
	if body := s.answerSpecial(ctx, g); body != nil {
		return body
	}
	return pack(out, g.size)
}

// answerSpecial fills in out, or returns an answer in wire form.
func (s *Server) answerSpecial(ctx context.Context, g *generalQuery) []byte {
	q, out := g.in.Question[0], g.out
	switch {
	case q.Qclass == dns.ClassCHAOS:
		s.answerCHAOS(q, out)
	case q.Qclass != dns.ClassINET:
		out.Rcode = dns.RcodeRefused
	case q.Qtype == dns.TypeANY:
		return s.answerANY(ctx, g)
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		out.Rcode = dns.RcodeRefused
	case q.Qtype >= 128 && q.Qtype <= 255 || q.Qtype == dns.TypeOPT || q.Qtype == dns.TypeNone:
		out.Rcode = dns.RcodeNotImplemented
	default: // an ordinary question with uncommon options
		return s.answerAsSimple(ctx, g, q.Qtype)
	}
	return nil
}

// answerAsSimple writes the question as a simple query and answers that.
func (s *Server) answerAsSimple(ctx context.Context, g *generalQuery, qtype uint16) []byte {
	in := g.in
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: in.Id, RecursionDesired: in.RecursionDesired,
		CheckingDisabled: in.CheckingDisabled, AuthenticatedData: in.AuthenticatedData}}
	m.Question = []dns.Question{{Name: in.Question[0].Name, Qtype: qtype, Qclass: dns.ClassINET}}
	if o := in.IsEdns0(); o != nil {
		m.SetEdns0(o.UDPSize(), o.Do())
	}
	b, err := m.Pack()
	q := &wire.Query{}
	if err != nil || q.Parse(b) != wire.Simple {
		return nil
	}
	q.Client = g.client
	out, _ := s.resolve(ctx, q, g.size, g.counters)
	return out
}

// answerCHAOS answers the names by which servers are identified (RFC 4892).
func (s *Server) answerCHAOS(q dns.Question, out *dns.Msg) {
	text := ""
	switch dns.CanonicalName(q.Name) {
	case "version.bind.", "version.server.":
		text = "warren"
	case "hostname.bind.", "id.server.":
		text = s.cfg.Node
	}
	if text == "" || q.Qtype != dns.TypeTXT && q.Qtype != dns.TypeANY {
		out.Rcode = dns.RcodeRefused
		return
	}
	out.Authoritative = true
	out.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassCHAOS}, Txt: []string{text}}}
}

// answerANY answers ANY with one small record (RFC 8482), for a name that exists or is external. It never queries an upstream.
func (s *Server) answerANY(ctx context.Context, g *generalQuery) []byte {
	in, out := g.in, g.out
	w, err := wire.EncodeName(in.Question[0].Name)
	q := &wire.Query{}
	if err == nil && q.Parse(wire.NewQuery(w, wire.TypeSOA)) == wire.Simple {
		x := s.index.Load()
		if _, maybe := s.maybeCluster(q); maybe && x == nil {
			out.Rcode = dns.RcodeServerFailure
			return nil
		}
		if x != nil {
			f := x.Find(q)
			if f.Zone != zone.External && f.Rcode == wire.RcodeNXDomain {
				return s.answerAsSimple(ctx, g, dns.TypeHINFO)
			}
			out.Authoritative = f.Zone != zone.External
		}
	}
	hdr := dns.RR_Header{Name: in.Question[0].Name, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: s.zone.TTL}
	out.Answer = []dns.RR{&dns.HINFO{Hdr: hdr, Cpu: "RFC8482"}}
	return nil
}

func pack(m *dns.Msg, size int) []byte {
	m.Truncate(size)
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}
