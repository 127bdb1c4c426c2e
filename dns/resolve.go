package dns

import (
	"context"
	"net/netip"
	"time"
)

// slow answers what the hot path left over: names of others that are not cached, aliases, and queries of odd form.
// nil is no answer.
func (s *Server) resolvePacket(ctx context.Context, pkt []byte, from netip.AddrPort, limit int, t *counters) []byte {
	q := &query{}
	var out []byte
	switch q.parse(pkt) {
	case malformed:
		return nil
	case general:
		out = s.answerGeneral(ctx, pkt, limit, t)
	default:
		if limit <= udpSize {
			limit = min(limit, q.size)
		}
		q.client = from.Addr()
		out, _ = s.resolve(ctx, q, limit, t)
	}
	if out != nil && s.logQueriesOn.Load() {
		s.logQuery(from, out)
	}
	return out
}

// resolve answers a plain question by all means, and says by which.
func (s *Server) resolve(ctx context.Context, q *query, limit int, t *counters) ([]byte, source) {
	x := s.index.Load()
	if x == nil {
		if zone, mine := s.unknownZone(q); mine {
			t.count(zone, q.typ, rcodeServfail)
			return q.answerError(nil, rcodeServfail), source{from: "no snapshot yet"}
		}
		return s.resolveExternal(ctx, q, limit, t)
	}
	f := x.find(q)
	switch {
	case f.zone == zoneExternal:
		return s.resolveExternal(ctx, q, limit, t)
	case f.chase != nil:
		m := s.followAlias(ctx, q, x, f.chase)
		t.count(f.zone, q.typ, m.rcode)
		return q.message(nil, m, ttlRule{}, limit), source{from: "record", note: "alias of " + decodeName([]byte(f.chase.target))}
	case f.loopProbe:
		s.loopProbeReceived(string(q.label(0)[1:]))
	case f.rcode == rcodeNXDomain:
		if m := s.autopath(ctx, q, x); m != nil {
			t.autopath.Add(1)
			t.count(f.zone, q.typ, m.rcode)
			return q.message(nil, m, ttlRule{}, limit), source{from: "autopath"}
		}
	}
	t.count(f.zone, q.typ, f.rcode)
	return q.local(nil, x, f, 0, limit), source{from: "record"}
}

// resolveExternal answers a name of others.
func (s *Server) resolveExternal(ctx context.Context, q *query, limit int, t *counters) ([]byte, source) {
	m, rule, how := s.external(ctx, q)
	t.count(zoneExternal, q.typ, m.rcode)
	t.countSource(how)
	if len(m.body) == 0 && m.rcode != rcodeOK && m.rcode != rcodeNXDomain {
		return q.answerError(nil, m.rcode), how
	}
	return q.message(nil, m, rule, limit), how
}

// source says where an external answer came from.
type source struct {
	from     string // record, cache, stale, upstream, ...
	upstream string
	note     string
}

// external gets the answer for a name of others: cached, or from upstream, or stale when upstream fails or takes longer
// than a client likes to wait.
func (s *Server) external(ctx context.Context, q *query) (*message, ttlRule, source) {
	set := s.routes.Load().pick(q)
	look := keyOf(set, q)
	hit := s.cache.get(look, time.Now())
	switch {
	case hit.usable && hit.refresh:
		_, _ = s.fetch(set, look.key()) // the client does not wait for it
		fallthrough
	case hit.usable:
		return hit.msg, hit.ttl, hit.means()
	case !q.recursionDesired:
		return &message{rcode: rcodeRefused}, ttlRule{}, source{from: "refused", note: "recursion was not asked for"}
	}
	r, err := s.await(ctx, set, look.key(), hit.stale)
	switch {
	case err == nil && r.usable():
		return r.msg, ttlRule{}, source{from: "upstream", upstream: r.up.name}
	case hit.stale:
		return hit.msg, hit.ttl, hit.means()
	case err == nil && r.err == nil:
		return &message{rcode: r.msg.rcode}, ttlRule{}, source{from: "upstream", upstream: r.up.name}
	case err == nil:
		err = r.err
	}
	return &message{rcode: rcodeServfail}, ttlRule{}, source{from: "failure", note: err.Error()}
}

// await asks upstream and waits, less long when something stale is at hand.
func (s *Server) await(ctx context.Context, set *upstreamSet, k cacheKey, stale bool) (attempt, error) {
	f, err := s.fetch(set, k)
	if err != nil {
		return attempt{}, err
	}
	wait := queryTimeout
	if stale {
		wait = staleDelay
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.result, nil
	case <-timer.C:
		return attempt{}, context.DeadlineExceeded
	case <-ctx.Done():
		return attempt{}, ctx.Err()
	}
}

func (l hit) means() source {
	if l.stale {
		return source{from: "stale"}
	}
	return source{from: "cache"}
}
