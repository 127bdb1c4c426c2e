package lbpool

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
)

// ParseRange reads a CIDR ("192.0.2.0/28", all of its addresses) or a range ("192.0.2.10-192.0.2.20").
func ParseRange(s string) (model.AddressRange, error) {
	var r model.AddressRange
	if from, to, ok := strings.Cut(s, "-"); ok {
		a, errA := netip.ParseAddr(from)
		b, errB := netip.ParseAddr(to)
		if errA != nil || errB != nil || a.BitLen() != b.BitLen() {
			return r, fmt.Errorf("must be two addresses of one family, such as 192.0.2.10-192.0.2.20")
		}
		if b.Less(a) {
			return r, fmt.Errorf("ends before it begins")
		}
		r = model.AddressRange{First: a, Last: b}
	} else {
		p, err := netip.ParsePrefix(s)
		if err != nil || p != p.Masked() {
			return r, fmt.Errorf("must be a CIDR without host bits, such as 192.0.2.0/28, or a range, such as 192.0.2.10-192.0.2.20")
		}
		r = model.AddressRange{First: p.Addr(), Last: netx.Last(p)}
	}
	for _, a := range []netip.Addr{r.First, r.Last} {
		if a.Zone() != "" || a.Is4In6() || !a.IsGlobalUnicast() {
			return r, fmt.Errorf("must hold unicast addresses, no loopback, link-local, multicast or IPv4-mapped ones")
		}
	}
	return r, nil
}

// OfPrefix is every address of a prefix.
func OfPrefix(p netip.Prefix) model.AddressRange {
	return model.AddressRange{First: p.Masked().Addr(), Last: netx.Last(p)}
}

// most bounds the addresses of one range that are used: more than any cluster has Services.
const most = 1 << 32

// size is the number of addresses of a range that can be assigned.
func size(r model.AddressRange) uint64 {
	firstHi, firstLo := netx.Halves(r.First)
	lastHi, lastLo := netx.Halves(r.Last)
	if lastHi-firstHi > 1 || lastHi != firstHi && lastLo >= firstLo || lastLo-firstLo >= most {
		return most
	}
	return lastLo - firstLo + 1 // across a 64 bit boundary the difference wraps to the right number
}

// Size is the number of addresses of a pool, at most 2^32 for each of its ranges.
func Size(p *model.AddressPool) (n uint64) {
	for _, r := range p.Ranges {
		n += size(r)
	}
	return n
}

// nth returns address number i of the ranges of a family, counted through all of them in order.
func nth(ranges []model.AddressRange, f model.Family, i uint64) netip.Addr {
	for _, r := range ranges {
		if model.FamilyOf(r.First) != f {
			continue
		}
		if n := size(r); i >= n {
			i -= n
			continue
		}
		return netx.Add(r.First, i)
	}
	return netip.Addr{}
}
