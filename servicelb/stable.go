package servicelb

import (
	"encoding/binary"
	"net/netip"
)

// stable hashes an address and a number, the same on every node and in every process: clients of Maglev and of
// ClientIP affinity find their backend again after a restart and at another node.
func stable(a netip.Addr, x uint64) uint64 {
	b := a.As16()
	h := mix(x ^ 0x9e3779b97f4a7c15)
	h = mix(h ^ binary.BigEndian.Uint64(b[:8]))
	return mix(h ^ binary.BigEndian.Uint64(b[8:]))
}

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
