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

// reply is what one attempt brought.
type reply struct {
	msg *message
	up  *upstream
	err error
}

// usable answers end the search; SERVFAIL, REFUSED and the like may only be this upstream's.
func (r reply) usable() bool {
	return r.err == nil && (r.msg.rcode == rcodeOK || r.msg.rcode == rcodeNX)
}

// ask sends a question upstream. Sequential: the next server is asked as well when the one before is slow or fails, and
// the round begins again while time is left, so a lost datagram costs a hedge and not five seconds. Parallel: all at once.
func (s *Server) ask(ctx context.Context, set *upstreams, k cacheKey) reply {
	order := set.order(time.Now())
	if len(order) == 0 {
		return reply{err: errNoUpstream}
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	race := &race{k: k, replies: make(chan reply, 8*len(order)+8)}
	defer race.join.Wait()
	defer cancel()
	best := reply{err: context.DeadlineExceeded}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n, wait := 0, firstHedge; ; {
		select {
		case <-timer.C:
			if n >= 4*len(order) || n >= 8 {
				continue // enough on their way: the deadline decides
			}
			up := order[n%len(order)]
			wait = up.health.hedge() << min(n/len(order), 3)
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

// race is the attempts at one question.
type race struct {
	k       cacheKey
	replies chan reply
	join    sync.WaitGroup
	open    int
}

// start asks one upstream; it counts as failed when it has not answered within patience at the end.
func (r *race) start(ctx context.Context, up *upstream, patience time.Duration) {
	r.open++
	up.health.asked()
	r.join.Go(func() {
		start := time.Now()
		m, err := up.exchange(ctx, r.k)
		switch took := time.Since(start); {
		case err == nil:
			up.health.good(took)
		case ctx.Err() == nil || took >= patience:
			up.health.bad(time.Now())
		}
		r.replies <- reply{m, up, err}
	})
}

// flight is a question on its way, shared by all who ask it meanwhile.
type flight struct {
	done chan struct{}
	r    reply
}

type flights struct {
	mu    sync.Mutex
	calls map[cacheKey]*flight
}

// fetch asks upstream once for all who want the same, and puts the answer into the cache.
func (s *Server) fetch(set *upstreams, k cacheKey) (*flight, error) {
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
	f := &flight{done: make(chan struct{})}
	if !s.spawn(func(ctx context.Context) { s.fly(ctx, f, set, k) }) {
		return nil, errors.New("the server is not running")
	}
	s.flights.calls[k] = f
	return f, nil
}

func (s *Server) fly(ctx context.Context, f *flight, set *upstreams, k cacheKey) {
	start := time.Now()
	f.r = s.ask(ctx, set, k)
	now := time.Now()
	s.stats.upstreamTook(now.Sub(start))
	switch {
	case f.r.usable():
		s.cache.put(k, f.r.msg, now)
	case ctx.Err() == nil:
		s.cache.failed(k, now)
		if f.r.msg == nil || f.r.msg.rcode == rcodeServfail {
			s.cache.put(k, &message{rcode: rcodeServfail, life: failureTTL}, now)
		}
	}
	s.flights.mu.Lock()
	delete(s.flights.calls, k)
	s.flights.mu.Unlock()
	close(f.done)
}
