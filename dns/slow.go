package dns

import (
	"context"
	"net/netip"
	"time"
)

// slow answers what the hot path left over: names of others that are not cached, aliases, and queries of odd form.
// nil is no answer.
func (s *Server) slow(ctx context.Context, pkt []byte, from netip.AddrPort, limit int, t *tally) []byte {
	q := &query{}
	var out []byte
	switch q.parse(pkt) {
	case junk:
		return nil
	case odd:
		out = s.odd(ctx, pkt, limit, t)
	default:
		if limit <= udpSize {
			limit = min(limit, q.size)
		}
		q.from = from.Addr()
		out, _ = s.plain(ctx, q, limit, t)
	}
	if out != nil && s.queries.Load() {
		s.logQuery(from, out)
	}
	return out
}

// plain answers a plain question by all means, and says by which.
func (s *Server) plain(ctx context.Context, q *query, limit int, t *tally) ([]byte, means) {
	x := s.index.Load()
	if x == nil {
		if zone, mine := s.unknownYet(q); mine {
			t.count(zone, q.typ, rcodeServfail)
			return q.failure(nil, rcodeServfail), means{from: "no snapshot yet"}
		}
		return s.foreign(ctx, q, limit, t)
	}
	f := x.find(q)
	switch {
	case f.zone == zoneExternal:
		return s.foreign(ctx, q, limit, t)
	case f.chase != nil:
		m := s.chase(ctx, q, x, f.chase)
		t.count(f.zone, q.typ, m.rcode)
		return q.message(nil, m, ttlRule{}, limit), means{from: "record", note: "alias of " + textName([]byte(f.chase.target))}
	case f.loop:
		s.probeSeen(string(q.label(0)[1:]))
	case f.rcode == rcodeNX:
		if m := s.complete(ctx, q, x); m != nil {
			t.completed.Add(1)
			t.count(f.zone, q.typ, m.rcode)
			return q.message(nil, m, ttlRule{}, limit), means{from: "completed"}
		}
	}
	t.count(f.zone, q.typ, f.rcode)
	return q.local(nil, x, f, 0, limit), means{from: "record"}
}

// foreign answers a name of others.
func (s *Server) foreign(ctx context.Context, q *query, limit int, t *tally) ([]byte, means) {
	m, rule, how := s.external(ctx, q)
	t.count(zoneExternal, q.typ, m.rcode)
	t.how(how)
	if len(m.body) == 0 && m.rcode != rcodeOK && m.rcode != rcodeNX {
		return q.failure(nil, m.rcode), how
	}
	return q.message(nil, m, rule, limit), how
}

// means says where an external answer came from.
type means struct {
	from     string // record, cache, stale, upstream, ...
	upstream string
	note     string
}

// external gets the answer for a name of others: cached, or from upstream, or stale when upstream fails or takes longer
// than a client likes to wait.
func (s *Server) external(ctx context.Context, q *query) (*message, ttlRule, means) {
	set := s.routes.Load().pick(q)
	look := keyOf(set, q)
	hit := s.cache.get(look, time.Now())
	switch {
	case hit.usable && hit.refresh:
		_, _ = s.fetch(set, look.key()) // the client does not wait for it
		fallthrough
	case hit.usable:
		return hit.msg, hit.ttl, hit.means()
	case !q.recursion:
		return &message{rcode: rcodeRefused}, ttlRule{}, means{from: "refused", note: "recursion was not asked for"}
	}
	r, err := s.await(ctx, set, look.key(), hit.stale)
	switch {
	case err == nil && r.usable():
		return r.msg, ttlRule{}, means{from: "upstream", upstream: r.up.name}
	case hit.stale:
		return hit.msg, hit.ttl, hit.means()
	case err == nil && r.err == nil:
		return &message{rcode: r.msg.rcode}, ttlRule{}, means{from: "upstream", upstream: r.up.name}
	case err == nil:
		err = r.err
	}
	return &message{rcode: rcodeServfail}, ttlRule{}, means{from: "failure", note: err.Error()}
}

// await asks upstream and waits, less long when something stale is at hand.
func (s *Server) await(ctx context.Context, set *upstreams, k cacheKey, stale bool) (reply, error) {
	f, err := s.fetch(set, k)
	if err != nil {
		return reply{}, err
	}
	wait := askWithin
	if stale {
		wait = staleAfter
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.r, nil
	case <-timer.C:
		return reply{}, context.DeadlineExceeded
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
}

func (l lookup) means() means {
	if l.stale {
		return means{from: "stale"}
	}
	return means{from: "cache"}
}
