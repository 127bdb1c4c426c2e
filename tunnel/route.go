package tunnel

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// routes answers which peer owns an address. It is built once per SetPeers and never changed: the prefixes are
// flattened into disjoint intervals, so that a lookup is a binary search whatever the nesting.
type routes struct {
	v4, v6 intervals
}

// intervals are sorted; owner i holds from start[i] up to start[i+1]. A nil owner is a gap.
type intervals struct {
	start []u128
	owner []*peerState
}

// u128 is an address as a number. IPv4 uses the low 32 bits.
type u128 struct{ hi, lo uint64 }

func (a u128) less(b u128) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

// next returns a+1; ok is false behind the last number.
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

// last returns the highest address of a prefix that starts at a and leaves free host bits.
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
	owner       *peerState
}

// newRoutes builds the table. No prefix may appear twice; they are masked.
func newRoutes(peers []*peerState) *routes {
	var four, six []span
	for _, p := range peers {
		for _, c := range p.want.AllowedIPs {
			first := number(c.Addr())
			if c.Addr().Is4() {
				four = append(four, span{first, first.last(32 - c.Bits()), p})
			} else {
				six = append(six, span{first, first.last(128 - c.Bits()), p})
			}
		}
	}
	return &routes{v4: flatten(four, 32), v6: flatten(six, 128)}
}

// flatten turns nested spans into intervals: sorted by start, wider ones first, with a stack of those still open.
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

// resume gives what follows the closed span back to the one around it.
func (t *intervals) resume(closed, end u128, open []span) {
	next, ok := closed.next()
	if !ok || end.less(next) {
		return
	}
	if len(open) > 0 {
		if open[len(open)-1].last.less(next) {
			return // the one around it ends here too and resumes on its own
		}
		t.emit(next, open[len(open)-1].owner)
		return
	}
	t.emit(next, nil)
}

func (t *intervals) emit(at u128, owner *peerState) {
	if n := len(t.start); n > 0 && t.start[n-1] == at {
		t.owner[n-1] = owner
		return
	}
	t.start = append(t.start, at)
	t.owner = append(t.owner, owner)
}

// lookup returns the owner of an address, or nil.
func (r *routes) lookup(a netip.Addr) *peerState {
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
