package dns

import (
	"sync"
	"time"
)

// The times of asking upstream. A resolver gives up after five seconds.
const (
	queryTimeout      = 4500 * time.Millisecond
	initialHedgeDelay = 400 * time.Millisecond // until a round trip is known
	minHedgeDelay     = 60 * time.Millisecond
	staleDelay        = 1800 * time.Millisecond // RFC 8767's client response timer
	minDownTime       = 2 * time.Second
	maxDownTime       = 60 * time.Second
)

// health is what is known about an upstream from the questions it was asked; nothing probes it besides.
type health struct {
	mu         sync.Mutex
	rtt        time.Duration // smoothed
	failures   int
	downUntil  time.Time // down until then
	sent       uint64
	failed     uint64
	mismatched uint64 // answers that did not fit the question
}

// hedgeDelay is how long to wait before the next upstream is asked as well.
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

// recordFailure notes a timeout or a broken connection; the second in a row takes the upstream out for a while, and each further
// one for twice as long.
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

// order is who to ask: healthy ones as configured, then those that are down, never those that lead back to us.
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
