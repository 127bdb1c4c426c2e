package forward

import (
	"sync"
	"time"
)

// QueryTimeout bounds one query to all upstreams. A client's resolver gives up after five seconds.
const QueryTimeout = 4500 * time.Millisecond

const (
	initialHedgeDelay = 400 * time.Millisecond // until a round trip is measured
	minHedgeDelay     = 60 * time.Millisecond
	staleDelay        = 1800 * time.Millisecond // client response timer (RFC 8767 section 5)
	minDownTime       = 2 * time.Second
	maxDownTime       = 60 * time.Second
)

// health is the state of an upstream, from the queries of clients alone: there are no health probes.
type health struct {
	mu         sync.Mutex
	rtt        time.Duration // smoothed
	failures   int           // in a row
	downUntil  time.Time
	sent       uint64
	failed     uint64
	mismatched uint64 // answers that do not match the question
}

// hedgeDelay is how long to wait for this upstream before the next one is queried as well.
func (h *health) hedgeDelay() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rtt == 0 {
		return initialHedgeDelay
	}
	return min(max(4*h.rtt, minHedgeDelay), initialHedgeDelay)
}

func (h *health) down(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.downUntil)
}

func (h *health) recordSuccess(rtt time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures, h.downUntil = 0, time.Time{}
	if h.rtt == 0 {
		h.rtt = rtt
	}
	h.rtt += (rtt - h.rtt) / 8
	h.rtt = max(h.rtt, time.Microsecond)
}

// recordFailure counts a timeout or a broken connection. The second failure in a row takes the upstream down for
// minDownTime, each further one for twice as long, up to maxDownTime.
func (h *health) recordFailure(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed++
	h.failures++
	if h.failures >= 2 {
		h.downUntil = now.Add(min(minDownTime<<min(h.failures-2, 10), maxDownTime))
	}
}

func (h *health) recordSent() {
	h.mu.Lock()
	h.sent++
	h.mu.Unlock()
}

func (h *health) recordMismatch() {
	h.mu.Lock()
	h.mismatched++
	h.mu.Unlock()
}

// order lists the upstreams in the order of queries: healthy ones as configured, then those that are down. Upstreams that
// forward back to this server are left out.
func (u *upstreamSet) order(now time.Time) []*upstream {
	up, down := make([]*upstream, 0, len(u.members)), []*upstream(nil)
	for _, p := range u.members {
		switch {
		case p.looped.Load():
		case p.health.down(now):
			down = append(down, p)
		default:
			up = append(up, p)
		}
	}
	return append(up, down...)
}
