package dns

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	errNoUpstream = errors.New("no upstream: none is configured, or all of them lead back to this server")
	errOverload   = errors.New("too many queries on their way upstream")
)

// attempt is what one attempt brought.
type attempt struct {
	msg *message
	up  *upstream
	err error
}

// usable answers end the search; SERVFAIL, REFUSED and the like may only be this upstream's.
func (r attempt) usable() bool {
	return r.err == nil && (r.msg.rcode == rcodeOK || r.msg.rcode == rcodeNXDomain)
}

// queryUpstreams sends a question upstream. Sequential: the next server is asked as well when the one before is slow or fails, and
// the round begins again while time is left, so a lost datagram costs a hedge and not five seconds. Parallel: all at once.
func (s *Server) queryUpstreams(ctx context.Context, set *upstreamSet, k cacheKey) attempt {
	order := set.order(time.Now())
	if len(order) == 0 {
		return attempt{err: errNoUpstream}
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	race := &hedgedQuery{k: k, replies: make(chan attempt, 8*len(order)+8)}
	defer race.join.Wait()
	defer cancel()
	best := attempt{err: context.DeadlineExceeded}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n, wait := 0, initialHedgeDelay; ; {
		select {
		case <-timer.C:
			if n >= 4*len(order) || n >= 8 {
				continue // enough on their way: the deadline decides
			}
			up := order[n%len(order)]
			wait = up.health.hedgeDelay() << min(n/len(order), 3)
			n++
			race.start(ctx, up, wait)
			if s.cfg.Policy == Parallel && n < len(order) {
				wait = 0
			}
			timer.Reset(wait)
		case r := <-race.replies:
			race.open--
			if r.usable() {
				return r
			}
			if best.msg == nil {
				best = r
			}
			if race.open == 0 && n >= len(order) && r.err == nil {
				return best // every server has said no
			}
			if n < len(order) || race.open == 0 && n < 2*len(order) {
				timer.Reset(0)
			} else if race.open == 0 {
				return best
			}
		case <-ctx.Done():
			return best
		}
	}
}

// hedgedQuery is the attempts at one question.
type hedgedQuery struct {
	k       cacheKey
	replies chan attempt
	join    sync.WaitGroup
	open    int
}

// start asks one upstream; it counts as failed when it has not answered within patience at the end.
func (r *hedgedQuery) start(ctx context.Context, up *upstream, patience time.Duration) {
	r.open++
	up.health.recordSent()
	r.join.Go(func() {
		start := time.Now()
		m, err := up.exchange(ctx, r.k)
		switch took := time.Since(start); {
		case err == nil:
			up.health.recordSuccess(took)
		case ctx.Err() == nil || took >= patience:
			up.health.recordFailure(time.Now())
		}
		r.replies <- attempt{m, up, err}
	})
}

// inFlightQuery is a question on its way, shared by all who ask it meanwhile.
type inFlightQuery struct {
	done   chan struct{}
	result attempt
}

type inFlightQueries struct {
	mu    sync.Mutex
	calls map[cacheKey]*inFlightQuery
}

// fetch asks upstream once for all who want the same, and puts the answer into the cache.
func (s *Server) fetch(set *upstreamSet, k cacheKey) (*inFlightQuery, error) {
	s.flights.mu.Lock()
	defer s.flights.mu.Unlock()
	if f := s.flights.calls[k]; f != nil {
		s.stats.joined.Add(1)
		return f, nil
	}
	if len(s.flights.calls) >= s.cfg.InFlight {
		s.stats.overload.Add(1)
		return nil, errOverload
	}
	f := &inFlightQuery{done: make(chan struct{})}
	if !s.spawn(func(ctx context.Context) { s.run(ctx, f, set, k) }) {
		return nil, errors.New("the server is not running")
	}
	s.flights.calls[k] = f
	return f, nil
}

func (s *Server) run(ctx context.Context, f *inFlightQuery, set *upstreamSet, k cacheKey) {
	start := time.Now()
	f.result = s.queryUpstreams(ctx, set, k)
	now := time.Now()
	s.stats.upstreamTook(now.Sub(start))
	switch {
	case f.result.usable():
		s.cache.put(k, f.result.msg, now)
	case ctx.Err() == nil:
		s.cache.refreshFailed(k, now)
		if f.result.msg == nil || f.result.msg.rcode == rcodeServfail {
			s.cache.put(k, &message{rcode: rcodeServfail, ttl: failureTTL}, now)
		}
	}
	s.flights.mu.Lock()
	delete(s.flights.calls, k)
	s.flights.mu.Unlock()
	close(f.done)
}
