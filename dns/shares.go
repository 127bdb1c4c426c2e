package dns

import (
	"net/netip"
	"sync"
)

// clientConns counts what each client holds.
type clientConns struct {
	mu    sync.Mutex
	limit int
	held  map[netip.Addr]int
}

func newClientConns(most int) *clientConns {
	return &clientConns{limit: most, held: map[netip.Addr]int{}}
}

func (s *clientConns) acquire(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[a] >= s.limit {
		return false
	}
	s.held[a]++
	return true
}

func (s *clientConns) release(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[a]--; s.held[a] <= 0 {
		delete(s.held, a)
	}
}
