package dns

import (
	"net/netip"
	"sync"
)

// shares counts what each client holds.
type shares struct {
	mu   sync.Mutex
	most int
	held map[netip.Addr]int
}

func newShares(most int) *shares { return &shares{most: most, held: map[netip.Addr]int{}} }

func (s *shares) take(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[a] >= s.most {
		return false
	}
	s.held[a]++
	return true
}

func (s *shares) give(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[a]--; s.held[a] <= 0 {
		delete(s.held, a)
	}
}
