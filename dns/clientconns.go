package dns

import (
	"net"
	"net/netip"
	"sync"
)

// clientConns are the open TCP connections of each client. When there are too many, the client with the most loses one to a
// client that has fewer, so that no client can keep others out.
type clientConns struct {
	total, most int

	mu   sync.Mutex
	used int
	open map[netip.Addr]map[net.Conn]struct{}
}

// newClientConns admits so many connections, of which one client has at most most.
func newClientConns(total, most int) *clientConns {
	return &clientConns{total: total, most: most, open: map[netip.Addr]map[net.Conn]struct{}{}}
}

// add records a connection. It reports false if the client has its share.
func (s *clientConns) add(a netip.Addr, c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.open[a]
	if len(own) >= s.most || s.used >= s.total && !s.closeOne(len(own)+1) {
		return false
	}
	if own == nil {
		own = map[net.Conn]struct{}{}
		s.open[a] = own
	}
	own[c] = struct{}{}
	s.used++
	return true
}

// closeOne closes a connection of the client with the most, if it has more than so many. mu is locked.
func (s *clientConns) closeOne(more int) bool {
	var richest map[net.Conn]struct{}
	var of netip.Addr
	for a, conns := range s.open {
		if len(conns) > len(richest) {
			richest, of = conns, a
		}
	}
	if len(richest) <= more {
		return false
	}
	for c := range richest {
		c.Close() // its goroutine ends
		s.forget(of, c)
		break
	}
	return true
}

func (s *clientConns) remove(a netip.Addr, c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(a, c)
}

// forget removes a connection, unless that was done before. mu is locked.
func (s *clientConns) forget(a netip.Addr, c net.Conn) {
	own := s.open[a]
	if _, ok := own[c]; !ok {
		return
	}
	delete(own, c)
	s.used--
	if len(own) == 0 {
		delete(s.open, a)
	}
}
