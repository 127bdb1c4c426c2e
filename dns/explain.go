package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/dns/zone"
)

// Explanation is an answer and where it came from, for `warren dns query`.
type Explanation struct {
	Name, Type string
	Rcode      string
	Answers    []string // records in zone file form
	Authority  []string
	Zone       string // cluster, node, reverse, external
	From       string // record, cache, stale, upstream, failure, ...
	Upstream   string
	Note       string
	Allowed    bool // whether this client may query at all
	Revision   int64
	// Steps are the queries of a search list, when one was given.
	Steps []Explanation
}

// Query answers a question as the client at from would receive it, and reports where the answer came from. It queries
// upstreams when needed.
func (s *Server) Query(ctx context.Context, name string, qtype uint16, from netip.Addr) Explanation {
	e := Explanation{Name: dns.Fqdn(name), Type: dns.Type(qtype).String(), Zone: zone.Kinds[zone.External]}
	e.Allowed = s.access.allowed(from.Unmap())
	m := new(dns.Msg)
	m.SetQuestion(e.Name, qtype)
	b, err := m.Pack()
	q := &wire.Query{}
	if err != nil || q.Parse(b) != wire.Simple {
		e.Rcode, e.Note = "FORMERR", fmt.Sprintf("%q is not a valid DNS name", name)
		return e
	}
	if x := s.index.Load(); x != nil {
		e.Zone, e.Revision = zone.Kinds[x.Find(q).Zone], x.Revision
	} else if kind, maybe := s.maybeCluster(q); maybe {
		e.Zone = zone.Kinds[kind]
	}
	out, source := s.resolve(ctx, q, wire.TCPSize, s.stats.sharedCounters())
	e.From, e.Upstream, e.Note = source.From, source.Upstream, source.Note
	r := new(dns.Msg)
	if err := r.Unpack(out); err != nil {
		e.Note = err.Error()
		return e
	}
	e.Rcode = dns.RcodeToString[r.Rcode]
	e.Answers, e.Authority = records(r.Answer), records(r.Ns)
	return e
}

// Search queries a name as a resolver with that search list and ndots does: one name after the other, until one has an
// answer. The result is the last query, with all of them as its Steps.
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

// logQuery logs one answer.
func (s *Server) logQuery(client netip.AddrPort, out []byte) {
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil || len(m.Question) != 1 {
		s.cfg.Log.Info("answered a DNS query", "client", client, "rcode", dns.RcodeToString[int(out[3]&15)])
		return
	}
	q := m.Question[0]
	s.cfg.Log.Info("answered a DNS query", "client", client, "question", q.Name+" "+dns.Type(q.Qtype).String(),
		"rcode", dns.RcodeToString[m.Rcode], "count", len(m.Answer))
}
