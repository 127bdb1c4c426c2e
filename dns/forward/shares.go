package forward

import (
	"net/netip"
	"sync"
)

// Shares are places that clients take for a short time, such as that of a query that waits for an upstream. A client has an
// eighth of them at most, and fewer than half as many as are free (A. K. Choudhury, E. L. Hahne, "Dynamic queue length
// thresholds for shared-memory packet switches", 1998). However many clients take what they can get, some places stay free
// for the next one: of 1,000 places one client has 125, and of twenty clients, after a while, each has 45 and 90 stay free.
type Shares struct {
	total, most int

	mu   sync.Mutex
	used int
	held map[netip.Addr]int
}

// NewShares makes so many places.
func NewShares(total int) *Shares {
	return &Shares{total: total, most: max(total/8, 1), held: map[netip.Addr]int{}}
}

// Acquire takes a place for a client. It reports false if none is free for this client.
func (s *Shares) Acquire(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	free, held := s.total-s.used, s.held[a]
	if free <= 0 || held >= s.most || held > 0 && 2*held >= free {
		return false
	}
	s.held[a]++
	s.used++
	return true
}

// Release gives a client's place back.
func (s *Shares) Release(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.held[a]--; s.held[a] <= 0 {
		delete(s.held, a)
	}
}
