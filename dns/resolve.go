package dns

import (
	"context"
	"net/netip"

	"github.com/warrennet/warren/dns/forward"
	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/dns/zone"
)

// resolvePacket answers a query that the hot path deferred: an external name that is not cached, an ExternalName, a step
// of a search list, or a query that is not simple. It may wait for an upstream. nil means: no answer.
func (s *Server) resolvePacket(ctx context.Context, pkt []byte, from netip.AddrPort, limit int, t *counters) []byte {
	q := &wire.Query{}
	var out []byte
	switch q.Parse(pkt) {
	case wire.Malformed:
		return nil
	case wire.General:
		out = s.answerGeneral(ctx, pkt, &generalQuery{client: from.Addr(), size: limit, counters: t})
	default:
		if limit <= wire.UDPSize {
			limit = min(limit, q.Size)
		}
		q.Client = from.Addr()
		out, _ = s.resolve(ctx, q, limit, t)
	}
	if out != nil && s.logQueriesOn.Load() {
		s.logQuery(from, out)
	}
	return out
}

// resolve answers a simple query and reports where the answer came from.
func (s *Server) resolve(ctx context.Context, q *wire.Query, limit int, t *counters) ([]byte, forward.Source) {
	x := s.index.Load()
	if x == nil {
		if kind, maybe := s.maybeCluster(q); maybe {
			t.count(kind, q.Type, wire.RcodeServfail)
			return q.AnswerError(nil, wire.RcodeServfail), forward.Source{From: "no snapshot yet"}
		}
		return s.resolveExternal(ctx, q, limit, t)
	}
	r := x.Find(q)
	switch {
	case r.Zone == zone.External:
		return s.resolveExternal(ctx, q, limit, t)
	case r.Alias != "":
		m := s.followAlias(ctx, q, x, r.Alias)
		t.count(r.Zone, q.Type, m.Rcode)
		return m.Answer(nil, q, forward.TTLRule{}, limit), forward.Source{From: "record", Note: "alias of " +
			wire.DecodeName([]byte(r.Alias))}
	case r.LoopProbe:
		s.forward.LoopProbeReceived(string(q.Label(0)[1:]))
	case r.Rcode == wire.RcodeNXDomain:
		if m := s.completeSearch(ctx, q, x); m != nil {
			t.autopath.Add(1)
			t.count(r.Zone, q.Type, m.Rcode)
			return m.Answer(nil, q, forward.TTLRule{}, limit), forward.Source{From: "autopath"}
		}
	}
	t.count(r.Zone, q.Type, r.Rcode)
	return x.Answer(nil, q, r, 0, limit), forward.Source{From: "record"}
}

// resolveExternal answers a name outside the cluster zone.
func (s *Server) resolveExternal(ctx context.Context, q *wire.Query, limit int, t *counters) ([]byte, forward.Source) {
	m, rule, source := s.forward.Resolve(ctx, q)
	t.count(zone.External, q.Type, m.Rcode)
	t.countSource(source)
	if m.Empty() && m.Rcode != wire.RcodeOK && m.Rcode != wire.RcodeNXDomain {
		return q.AnswerError(nil, m.Rcode), source
	}
	return m.Answer(nil, q, rule, limit), source
}
