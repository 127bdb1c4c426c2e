package model

import "net/netip"

// AddressRange is every address from First to Last inclusive, both of one family.
type AddressRange struct{ First, Last netip.Addr }

// Contains reports whether a lies in the range.
func (r AddressRange) Contains(a netip.Addr) bool {
	return r.First.BitLen() == a.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// Overlaps reports whether two ranges have an address in common.
func (r AddressRange) Overlaps(o AddressRange) bool {
	return r.First.BitLen() == o.First.BitLen() && r.First.Compare(o.Last) <= 0 && o.First.Compare(r.Last) <= 0
}

func (r AddressRange) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// AddressPool is a warren.dev/v1alpha1 AddressPool: addresses of the underlay for Services of type LoadBalancer.
type AddressPool struct {
	Name   string
	Ranges []AddressRange
	// AutoAssign: the pool serves every Service of its namespaces, otherwise only those that name it or one of its addresses.
	AutoAssign bool
	Namespaces []string // of the Services it serves; empty: all
	Priority   int      // higher first
}

// Contains reports whether a is one of the pool's addresses.
func (p *AddressPool) Contains(a netip.Addr) bool {
	for _, r := range p.Ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}
