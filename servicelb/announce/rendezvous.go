package announce

import (
	"hash/fnv"
	"net/netip"
)

// score ranks nodes for an address (rendezvous hashing: the highest score wins). Every node computes the same scores. The
// addresses spread over the nodes, and a node that joins or leaves moves only its own addresses.
func score(a netip.Addr, node string) uint64 {
	h := fnv.New64a()
	b := a.As16()
	h.Write(b[:])
	h.Write([]byte(node))
	x := h.Sum64() // FNV mixes the low bits of short inputs badly: finalizer of MurmurHash3
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// ranksBefore reports whether node a has a higher rank than node b for an address.
func ranksBefore(addr netip.Addr, a, b string) bool {
	x, y := score(addr, a), score(addr, b)
	return x > y || x == y && a > b
}
