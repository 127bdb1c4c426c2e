package dns

import (
	"context"

	"github.com/miekg/dns"
)

// answerGeneral answers queries that are not of the plain form, with the library's help.
func (s *Server) answerGeneral(ctx context.Context, pkt []byte, limit int, t *counters) []byte {
	in := new(dns.Msg)
	err := in.Unpack(pkt)
	t.general.Add(1)
	if in.Opcode != dns.OpcodeQuery && len(pkt) >= headerLen {
		return headerOnly(pkt, dns.RcodeNotImplemented)
	}
	if err != nil || len(in.Question) != 1 {
		return headerOnly(pkt, dns.RcodeFormatError) // two questions: no server on the net answers them
	}
	out := new(dns.Msg)
	out.SetReply(in)
	out.RecursionAvailable = true
	size := dns.MinMsgSize
	if o := in.IsEdns0(); o != nil {
		size = min(max(int(o.UDPSize()), dns.MinMsgSize), udpSize)
		out.SetEdns0(udpSize, o.Do())
		if o.Version() != 0 {
			out.Rcode = dns.RcodeBadVers
			return pack(out, size)
		}
	}
	if limit > udpSize {
		size = limit // TCP
	}
	if body := s.answerSpecial(ctx, in, out, size, t); body != nil {
		return body
	}
	return pack(out, size)
}

// answerSpecial fills out, or returns the bytes of an answer made otherwise.
func (s *Server) answerSpecial(ctx context.Context, in, out *dns.Msg, size int, t *counters) []byte {
	q := in.Question[0]
	switch {
	case q.Qclass == dns.ClassCHAOS:
		s.answerCHAOS(q, out)
	case q.Qclass != dns.ClassINET:
		out.Rcode = dns.RcodeRefused
	case q.Qtype == dns.TypeANY:
		return s.answerANY(ctx, in, out, size, t)
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		out.Rcode = dns.RcodeRefused
	case q.Qtype >= 128 && q.Qtype <= 255 || q.Qtype == dns.TypeOPT || q.Qtype == dns.TypeNone:
		out.Rcode = dns.RcodeNotImplemented
	default: // a plain question in an odd form: asked again plainly
		return s.answerAsSimple(ctx, in, q.Qtype, size, t)
	}
	return nil
}

// answerAsSimple rewrites a question in the plain form and answers that.
func (s *Server) answerAsSimple(ctx context.Context, in *dns.Msg, qtype uint16, size int, t *counters) []byte {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: in.Id, RecursionDesired: in.RecursionDesired, CheckingDisabled: in.CheckingDisabled, AuthenticatedData: in.AuthenticatedData}}
	m.Question = []dns.Question{{Name: in.Question[0].Name, Qtype: qtype, Qclass: dns.ClassINET}}
	if o := in.IsEdns0(); o != nil {
		m.SetEdns0(o.UDPSize(), o.Do())
	}
	b, err := m.Pack()
	q := &query{}
	if err != nil || q.parse(b) != simple {
		return nil
	}
	out, _ := s.resolve(ctx, q, size, t)
	return out
}

// answerCHAOS answers the questions that people ask servers about themselves.
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

// answerANY answers ANY with one small record (RFC 8482), for a name that exists or that is not ours, and never asks upstream.
func (s *Server) answerANY(ctx context.Context, in, out *dns.Msg, size int, t *counters) []byte {
	w, err := encodeName(in.Question[0].Name)
	q := &query{}
	probe := &query{pkt: make([]byte, headerLen), typ: typeSOA}
	if err == nil && q.parse(withName(probe, w)) == simple {
		x := s.index.Load()
		if _, mine := s.unknownZone(q); mine && x == nil {
			out.Rcode = dns.RcodeServerFailure
			return nil
		}
		if x != nil {
			f := x.find(q)
			if f.zone != zoneExternal && f.rcode == rcodeNXDomain {
				return s.answerAsSimple(ctx, in, dns.TypeHINFO, size, t)
			}
			out.Authoritative = f.zone != zoneExternal
		}
	}
	out.Answer = []dns.RR{&dns.HINFO{Hdr: dns.RR_Header{Name: in.Question[0].Name, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: s.zone.ttl}, Cpu: "RFC8482"}}
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

// headerOnly answers with a header alone.
func headerOnly(pkt []byte, rcode byte) []byte {
	out := refused(make([]byte, 0, headerLen), pkt)
	out[3] = flagRA | rcode
	return out
}
