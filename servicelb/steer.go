package servicelb

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// steer counts what Steering will say.
type steer struct {
	pods, host map[Port]int
	vips       map[netip.Addr]int
	out        Steering
	dirty      bool
}

func newSteer() steer {
	return steer{pods: map[Port]int{}, host: map[Port]int{}, vips: map[netip.Addr]int{}}
}

// count takes all endpoints, not only those that new flows go to: one that terminates still has its connections.
func (s *steer) count(t *Table, k frontKey, f *frontend, by int) {
	for _, b := range f.all {
		switch at := (Port{k.proto, b.port}); {
		case t.local[b.addr]:
			s.dirty = tally(s.host, at, by) || s.dirty
		case t.here(b.addr):
			s.dirty = tally(s.pods, at, by) || s.dirty
		}
	}
}

func (s *steer) vip(t *Table, a netip.Addr, by int) {
	if !within(t.ranges, a) {
		s.dirty = tally(s.vips, a, by) || s.dirty
	}
}

// tally counts and reports whether a key came or went.
func tally[K comparable](m map[K]int, k K, by int) bool {
	n := m[k] + by
	if n == 0 {
		delete(m, k)
		return true
	}
	m[k] = n
	return n == by
}

func (s *steer) done() Steering {
	if s.dirty {
		s.out = Steering{VIPs: slices.SortedFunc(maps.Keys(s.vips), netip.Addr.Compare), Targets: ports(s.pods), HostTargets: ports(s.host)}
		s.dirty = false
	}
	return s.out
}

func ports(m map[Port]int) []Port {
	return slices.SortedFunc(maps.Keys(m), func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port))
	})
}
