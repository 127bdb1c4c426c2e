package model

import "net/netip"

// Family is an IP address family. Arrays of two elements may be indexed by it.
type Family uint8

// The address families.
const (
	IPv4 Family = iota
	IPv6
)

// Families holds both address families, IPv4 first.
var Families = [...]Family{IPv4, IPv6}

// FamilyOf returns the family of a valid address. An IPv4-mapped IPv6 address belongs to IPv6: unmap it first.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String returns the family as Kubernetes spells it in spec.ipFamilies.
func (f Family) String() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// Bits returns the length of an address in bits: 32 or 128.
func (f Family) Bits() int {
	if f == IPv4 {
		return 32
	}
	return 128
}

// AF returns Linux' number of the family: AF_INET or AF_INET6.
func (f Family) AF() int {
	if f == IPv4 {
		return 2
	}
	return 10
}

// Other returns the other family.
func (f Family) Other() Family { return f ^ 1 }

// Unspecified returns 0.0.0.0 or ::.
func (f Family) Unspecified() netip.Addr {
	if f == IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// Loopback returns 127.0.0.1 or ::1.
func (f Family) Loopback() netip.Addr {
	if f == IPv4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// Default returns the prefix that contains every address of the family: 0.0.0.0/0 or ::/0.
func (f Family) Default() netip.Prefix { return netip.PrefixFrom(f.Unspecified(), 0) }
