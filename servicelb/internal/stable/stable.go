// Package stable hashes addresses: the result is the same on every node and in every process. Clients of Maglev and of
// ClientIP session affinity therefore find the same backend after a restart and at another node.
package stable

import (
	"encoding/binary"
	"net/netip"
)

// Hash hashes an address and a number.
func Hash(a netip.Addr, x uint64) uint64 {
	b := a.As16()
	h := Mix(x ^ 0x9e3779b97f4a7c15) // SplitMix64's increment: zero must not hash to zero
	h = Mix(h ^ binary.BigEndian.Uint64(b[:8]))
	return Mix(h ^ binary.BigEndian.Uint64(b[8:]))
}

// Mix is the finalizer of SplitMix64.
func Mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
