package announce

import (
	"net/netip"

	"github.com/warrennet/warren/internal/namehash"
)

// score ranks nodes for an address (rendezvous hashing: the highest score wins). Every node computes the same scores. The
// addresses spread over the nodes, and a node that joins or leaves moves only its own addresses.
func score(a netip.Addr, node string) uint64 {
	b := a.As16()
	return namehash.Of(string(b[:]), node)
}

// ranksBefore reports whether node a has a higher rank than node b for an address.
func ranksBefore(addr netip.Addr, a, b string) bool {
	x, y := score(addr, a), score(addr, b)
	return x > y || x == y && a > b
}
