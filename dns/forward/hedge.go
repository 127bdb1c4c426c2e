package forward

import (
	"context"
	"sync"
	"time"

	"github.com/warrennet/warren/dns/wire"
)

// attempt is the outcome of one query to one upstream.
type attempt struct {
	msg *Message
	up  *upstream
	err error
}

// usable answers end the search. SERVFAIL, REFUSED and other codes do not: another upstream may answer.
func (a attempt) usable() bool {
	return a.err == nil && (a.msg.Rcode == wire.RcodeOK || a.msg.Rcode == wire.RcodeNXDomain)
}

// queryUpstreams sends a question to the upstreams of a set until one answer is usable.
//
// Policy Sequential queries the next upstream when the previous one fails, or has not answered within its hedge delay.
// After the last upstream it starts again with the first, as long as time is left: a lost datagram costs one hedge delay
// and not the client's five seconds. Policy Parallel queries all upstreams at once.
func (f *Forwarder) queryUpstreams(ctx context.Context, set *upstreamSet, k cacheKey) attempt {
	order := set.order(f.cfg.Now())
	if len(order) == 0 {
		return attempt{err: errNoUpstream}
	}
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	hedged := &hedgedQuery{key: k, now: f.cfg.Now, attempts: make(chan attempt, 8*len(order)+8)}
	defer hedged.join.Wait()
	defer cancel()
	best := attempt{err: context.DeadlineExceeded}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n, wait := 0, initialHedgeDelay; ; {
		select {
		case <-timer.C:
			if n >= 4*len(order) || n >= 8 {
				continue // enough attempts: wait for them until the deadline
			}
			up := order[n%len(order)]
			wait = up.health.hedgeDelay() << min(n/len(order), 3)
			n++
			hedged.start(ctx, up, wait)
			if f.cfg.Policy == Parallel && n < len(order) {
				wait = 0
			}
			timer.Reset(wait)
		case a := <-hedged.attempts:
			hedged.open--
			if a.usable() {
				return a
			}
			if best.msg == nil {
				best = a
			}
			if hedged.open == 0 && n >= len(order) && a.err == nil {
				return best // every upstream answered, none with a usable code
			}
			if n < len(order) || hedged.open == 0 && n < 2*len(order) {
				timer.Reset(0)
			} else if hedged.open == 0 {
				return best
			}
		case <-ctx.Done():
			return best
		}
	}
}

// hedgedQuery are the attempts at one question. Only queryUpstreams uses open.
type hedgedQuery struct {
	key      cacheKey
	now      func() time.Time
	attempts chan attempt
	join     sync.WaitGroup
	open     int // attempts without an outcome
}

// start queries one upstream. An attempt that another upstream's answer cancels counts as a failure of this upstream
// only when it has run for patience.
func (h *hedgedQuery) start(ctx context.Context, up *upstream, patience time.Duration) {
	h.open++
	up.health.recordSent()
	h.join.Go(func() {
		start := time.Now()
		m, err := up.exchange(ctx, h.key)
		switch took := time.Since(start); {
		case err == nil:
			up.health.recordSuccess(took)
		case ctx.Err() == nil || took >= patience:
			up.health.recordFailure(h.now())
		}
		h.attempts <- attempt{m, up, err}
	})
}
