package dns

import (
	"sync"
	"time"
)

// The times of asking upstream. A resolver gives up after five seconds.
const (
	askWithin  = 4500 * time.Millisecond
	firstHedge = 400 * time.Millisecond // until a round trip is known
	leastHedge = 60 * time.Millisecond
	staleAfter = 1800 * time.Millisecond // RFC 8767's client response timer
	downFirst  = 2 * time.Second
	downMost   = 60 * time.Second
)

// health is what is known about an upstream from the questions it was asked; nothing probes it besides.
type health struct {
	mu       sync.Mutex
	rtt      time.Duration // smoothed
	failures int
	until    time.Time // down until then
	sent     uint64
	failed   uint64
	lies     uint64 // answers that did not fit the question
}

// hedge is how long to wait before the next upstream is asked as well.
func (h *health) hedge() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rtt == 0 {
		return firstHedge
	}
	return min(max(4*h.rtt, leastHedge), firstHedge)
}

func (h *health) down(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.until)
}

func (h *health) good(rtt time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures, h.until = 0, time.Time{}
	if h.rtt == 0 {
		h.rtt = rtt
	}
	h.rtt += (rtt - h.rtt) / 8
	h.rtt = max(h.rtt, time.Microsecond)
}

// bad notes a timeout or a broken connection; the second in a row takes the upstream out for a while, and each further
// one for twice as long.
func (h *health) bad(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed++
	h.failures++
	if h.failures >= 2 {
		h.until = now.Add(min(downFirst<<min(h.failures-2, 10), downMost))
	}
}

func (h *health) asked() {
	h.mu.Lock()
	h.sent++
	h.mu.Unlock()
}

func (h *health) lied() {
	h.mu.Lock()
	h.lies++
	h.mu.Unlock()
}

// order is who to ask: healthy ones as configured, then those that are down, never those that lead back to us.
func (u *upstreams) order(now time.Time) []*upstream {
	up, down := make([]*upstream, 0, len(u.list)), []*upstream(nil)
	for _, p := range u.list {
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
