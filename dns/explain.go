package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Explanation is an answer with its reasons, for `warren dns query`.
type Explanation struct {
	Name, Type string
	Rcode      string
	Answers    []string // records in zone file form
	Authority  []string
	Zone       string // cluster, node, reverse, external
	From       string // record, cache, stale, upstream, failure, ...
	Upstream   string
	Note       string
	Allowed    bool // whether the asker may ask at all
	Revision   int64
	// Steps are what a Pod's search list makes of a short name, when a search list was given.
	Steps []Explanation
}

// Query answers a question as a client at from would see it, and says why. It asks upstream when needed.
func (s *Server) Query(ctx context.Context, name string, qtype uint16, from netip.Addr) Explanation {
	e := Explanation{Name: dns.Fqdn(name), Type: dns.Type(qtype).String(), Allowed: s.access.allowed(from.Unmap()), Zone: zoneNames[zoneExternal]}
	m := new(dns.Msg)
	m.SetQuestion(e.Name, qtype)
	b, err := m.Pack()
	q := &query{}
	if err != nil || q.parse(b) != simple {
		e.Rcode, e.Note = "FORMERR", fmt.Sprintf("%q is no name that a plain question may have", name)
		return e
	}
	if x := s.index.Load(); x != nil {
		e.Zone, e.Revision = zoneNames[x.find(q).zone], x.revision
	} else if zone, mine := s.unknownZone(q); mine {
		e.Zone = zoneNames[zone]
	}
	out, how := s.resolve(ctx, q, tcpSize, s.stats.sharedCounters())
	e.From, e.Upstream, e.Note = how.from, how.upstream, how.note
	r := new(dns.Msg)
	if err := r.Unpack(out); err != nil {
		e.Note = err.Error()
		return e
	}
	e.Rcode = dns.RcodeToString[r.Rcode]
	e.Answers, e.Authority = records(r.Answer), records(r.Ns)
	return e
}

// Search answers a name as a resolver with that search list and ndots would ask for it: each step in its order, up to the
// first that has an answer, which is the result.
func (s *Server) Search(ctx context.Context, name string, qtype uint16, from netip.Addr, search []string, ndots int) Explanation {
	var names []string
	for _, d := range search {
		names = append(names, strings.TrimSuffix(name, ".")+"."+strings.TrimPrefix(d, "."))
	}
	switch {
	case strings.HasSuffix(name, "."):
		names = []string{name}
	case strings.Count(name, ".") >= ndots:
		names = append([]string{name}, names...)
	default:
		names = append(names, name)
	}
	var steps []Explanation
	for _, n := range names {
		e := s.Query(ctx, n, qtype, from)
		steps = append(steps, e)
		if e.Rcode == "NOERROR" && len(e.Answers) > 0 {
			break
		}
	}
	last := steps[len(steps)-1]
	last.Steps = steps
	return last
}

func records(rr []dns.RR) []string {
	var out []string
	for _, r := range rr {
		out = append(out, strings.ReplaceAll(r.String(), "\t", " "))
	}
	return out
}

// logQuery writes one line about an answer.
func (s *Server) logQuery(from netip.AddrPort, out []byte) {
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil || len(m.Question) != 1 {
		s.cfg.Log.Info("dns query", "from", from, "rcode", int(out[3]&15))
		return
	}
	s.cfg.Log.Info("dns query", "from", from, "name", m.Question[0].Name, "type", dns.Type(m.Question[0].Qtype).String(),
		"rcode", dns.RcodeToString[m.Rcode], "answers", len(m.Answer))
}
