package lbpool

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/warrennet/warren/internal/model"
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
		r = model.AddressRange{First: p.Addr(), Last: last(p)}
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
	return model.AddressRange{First: p.Masked().Addr(), Last: last(p)}
}

func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // its length is an address's
	return a
}

// most is how many addresses of one range are used at most: more than any cluster has Services.
const most = 1 << 32

// size is the number of addresses of a range that can be given.
func size(r model.AddressRange) uint64 {
	firstHi, firstLo := halves(r.First)
	lastHi, lastLo := halves(r.Last)
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

// nth is the i-th address of a family's ranges, one behind the other.
func nth(ranges []model.AddressRange, v6 bool, i uint64) netip.Addr {
	for _, r := range ranges {
		if r.First.Is6() != v6 {
			continue
		}
		if n := size(r); i >= n {
			i -= n
			continue
		}
		return add(r.First, i)
	}
	return netip.Addr{}
}

func add(a netip.Addr, n uint64) netip.Addr {
	hi, lo := halves(a)
	lo += n
	if lo < n {
		hi++
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	if a.Is4() {
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrFrom16(b)
}

func halves(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
