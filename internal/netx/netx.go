// Package netx calculates with addresses and prefixes, beyond what net/netip offers. It is pure: standard library only,
// no state, no kernel object.
package netx

import (
	"encoding/binary"
	"net/netip"
)

// Contains reports whether one of the ranges contains the address.
func Contains(ranges []netip.Prefix, a netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// Add returns the address n behind a. The caller ensures that it exists: beyond the last address of the family the
// result wraps.
func Add(a netip.Addr, n uint64) netip.Addr { return add(a, 0, n) }

// Nth returns address number n of a prefix; number 0 is the network address. The caller ensures that the prefix has it.
func Nth(p netip.Prefix, n uint64) netip.Addr { return Add(p.Masked().Addr(), n) }

// NthPrefix returns prefix number n of that length inside p. The caller ensures that p has it.
func NthPrefix(p netip.Prefix, bits int, n uint64) netip.Prefix {
	var hi, lo uint64
	switch shift := p.Addr().BitLen() - bits; {
	case shift >= 64:
		hi = n << (shift - 64)
	case shift > 0:
		hi, lo = n>>(64-shift), n<<shift
	default:
		lo = n
	}
	return netip.PrefixFrom(add(p.Masked().Addr(), hi, lo), bits)
}

// Last returns the last address of a prefix; for IPv4 it is usually the broadcast address.
func Last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // its length is an address's
	return a
}

// Halves returns an address as two numbers, the more significant one first. An IPv4 address is the lower 32 bits of the
// second one, above them are those of an IPv4-mapped address.
func Halves(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

func add(a netip.Addr, hi, lo uint64) netip.Addr {
	h, l := Halves(a)
	l += lo
	if l < lo {
		h++
	}
	h += hi
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], h)
	binary.BigEndian.PutUint64(b[8:], l)
	if a.Is4() {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}
