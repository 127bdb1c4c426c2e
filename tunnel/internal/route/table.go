// Package route finds the peer that owns an address, and how large packets to it may be. It owns nothing and starts nothing.
package route

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/warrennet/warren/tunnel/internal/limits"
)

// Owner is a peer as the packet path uses it. AllowedIPs and MTU never change.
type Owner struct {
	AllowedIPs []netip.Prefix
	MTU        int          // bytes, of the peer's own device; 0: unknown
	PathMTU    atomic.Int32 // bytes that the path carries; 0: as much as both ends
	// Live is true while the peer has a session: packets for it leave the WireGuard device again. Backpressure counts only those.
	Live atomic.Bool
}

// Limit returns the size in bytes of the largest inner packet for the peer; deviceMTU is the MTU of the TUN device.
func (o *Owner) Limit(deviceMTU int) int {
	top := o.Configured(deviceMTU)
	if n := int(o.PathMTU.Load()); n != 0 && n < top {
		return n
	}
	return top
}

// Configured returns the smaller MTU of both ends in bytes. The WireGuard device pads packets to multiples of 16 up to the TUN
// device's MTU; where the peer's MTU is smaller, only multiples of 16 cannot be padded beyond it.
func (o *Owner) Configured(deviceMTU int) int {
	if o.MTU == 0 || o.MTU >= deviceMTU {
		return deviceMTU
	}
	return max(o.MTU&^15, limits.MinMTU4)
}

// Floor returns the size in bytes that a path to the peer must carry.
func (o *Owner) Floor() int {
	for _, c := range o.AllowedIPs {
		if c.Addr().Is6() {
			return limits.MinMTU6
		}
	}
	return limits.MinMTU4
}

// Table maps addresses to the peers that own them. It never changes: each SetPeers builds a new one. The prefixes are flattened
// into disjoint intervals, so that a lookup is a binary search whatever the nesting.
type Table struct {
	v4, v6 intervals
}

// intervals are sorted; owner i holds from start[i] up to start[i+1]. A nil owner is a gap.
type intervals struct {
	start []u128
	owner []*Owner
}

// u128 is an address as a number. IPv4 uses the low 32 bits.
type u128 struct{ hi, lo uint64 }

func (a u128) less(b u128) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

// next returns a+1; ok is false after the last number.
func (a u128) next() (u128, bool) {
	a.lo++
	if a.lo == 0 {
		a.hi++
		return a, a.hi != 0
	}
	return a, true
}

func number(a netip.Addr) u128 {
	if a.Is4() {
		b := a.As4()
		return u128{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// last returns the highest address of a prefix that starts at a and has that many host bits.
func (a u128) last(free int) u128 {
	switch {
	case free >= 128:
		return u128{^uint64(0), ^uint64(0)}
	case free > 64:
		return u128{a.hi | (1<<(free-64) - 1), ^uint64(0)}
	case free == 64:
		return u128{a.hi, ^uint64(0)}
	}
	return u128{a.hi, a.lo | (1<<free - 1)}
}

type span struct {
	first, last u128
	owner       *Owner
}

// New builds the table. No prefix may appear twice; they are masked.
func New(peers []*Owner) *Table {
	var four, six []span
	for _, p := range peers {
		for _, c := range p.AllowedIPs {
			first := number(c.Addr())
			if c.Addr().Is4() {
				four = append(four, span{first, first.last(32 - c.Bits()), p})
			} else {
				six = append(six, span{first, first.last(128 - c.Bits()), p})
			}
		}
	}
	return &Table{v4: flatten(four, 32), v6: flatten(six, 128)}
}

// flatten turns nested spans into intervals: sorted by start, wider ones first, with a stack of the open spans.
func flatten(spans []span, bits int) intervals {
	slices.SortFunc(spans, func(a, b span) int {
		switch {
		case a.first.less(b.first):
			return -1
		case b.first.less(a.first):
			return 1
		case b.last.less(a.last):
			return -1
		}
		return 1
	})
	var out intervals
	var open []span
	end := u128{}.last(bits)
	closeUpTo := func(limit u128) {
		for len(open) > 0 && (open[len(open)-1].last.less(limit)) {
			top := open[len(open)-1]
			open = open[:len(open)-1]
			out.resume(top.last, end, open)
		}
	}
	for _, s := range spans {
		closeUpTo(s.first)
		out.emit(s.first, s.owner)
		open = append(open, s)
	}
	for len(open) > 0 {
		top := open[len(open)-1]
		open = open[:len(open)-1]
		out.resume(top.last, end, open)
	}
	return out
}

// resume returns the addresses after the closed span to the span around it.
func (t *intervals) resume(closed, end u128, open []span) {
	next, ok := closed.next()
	if !ok || end.less(next) {
		return
	}
	if len(open) > 0 {
		if open[len(open)-1].last.less(next) {
			return // the surrounding span ends here, too, and resumes by itself
		}
		t.emit(next, open[len(open)-1].owner)
		return
	}
	t.emit(next, nil)
}

func (t *intervals) emit(at u128, owner *Owner) {
	if n := len(t.start); n > 0 && t.start[n-1] == at {
		t.owner[n-1] = owner
		return
	}
	t.start = append(t.start, at)
	t.owner = append(t.owner, owner)
}

// Lookup returns the owner of an address, or nil.
func (r *Table) Lookup(a netip.Addr) *Owner {
	t := &r.v6
	if a.Is4() {
		t = &r.v4
	}
	n := number(a)
	lo, hi := 0, len(t.start)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if n.less(t.start[mid]) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == 0 {
		return nil
	}
	return t.owner[lo-1]
}
