package forward

import (
	"net/netip"
	"testing"
)

// Abusive clients take all that they get and keep it. Another one gets a place, and more than one.
func TestShares_AbusiveClients_HonestClientHasPlaces(t *testing.T) {
	for abusive, want := range map[int]int{1: 100, 7: 40, 16: 1} {
		s := NewShares(1000)
		a := netip.MustParseAddr("10.42.1.2")
		held := map[netip.Addr]int{}
		for range abusive {
			a = a.Next()
			for range 2 {
				for s.Acquire(a) {
					held[a]++
				}
			}
		}
		a = a.Next()
		n := 0
		for s.Acquire(a) {
			n++
		}
		if n < want {
			t.Errorf("%d abusive clients: another one has %d places, expected at least %d", abusive, n, want)
		}
		for client, n := range held {
			for range n {
				s.Release(client)
			}
		}
		for range n {
			s.Release(a)
		}
		if s.used != 0 || len(s.held) != 0 {
			t.Errorf("%d places of %d clients in use after all were released", s.used, len(s.held))
		}
	}
}
