package announce

import (
	"hash/fnv"
	"net/netip"
)

// score ranks nodes for an address (rendezvous hashing: the highest has it). Every node computes the same, addresses
// spread over the nodes, and a node that comes or goes moves its own addresses only.
func score(a netip.Addr, node string) uint64 {
	h := fnv.New64a()
	b := a.As16()
	h.Write(b[:])
	h.Write([]byte(node))
	x := h.Sum64() // its low bits spread short inputs badly: mix once more
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// before reports whether node a goes before node b for an address.
func before(addr netip.Addr, a, b string) bool {
	x, y := score(addr, a), score(addr, b)
	return x > y || x == y && a > b
}
