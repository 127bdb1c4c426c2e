package ipam

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
)

const (
	// reservedHead are the first addresses of a block, which no Pod gets: the network address, the node's own Pod
	// network address and its SNAT address.
	reservedHead = 3
	// maxSpan bounds how much of a block is given out: 65,536 addresses are far beyond what a node can run.
	maxSpan = 1 << 16
)

// span is one block with a bit per address that is in use, and the place of the address given out last.
type span struct {
	block       netip.Prefix
	used        []uint64
	first, last uint32 // offsets that Pods may have
	cursor      uint32 // offset given out last; the next one is looked for behind it
	current     bool   // the family's last address came from this block
}

func newSpan(b netip.Prefix) (*span, error) {
	if !b.IsValid() {
		return nil, fmt.Errorf("block %s is not a CIDR", b)
	}
	b = b.Masked()
	hostBits := b.Addr().BitLen() - b.Bits()
	size := uint32(maxSpan)
	if hostBits < 16 {
		size = 1 << hostBits
	}
	last := size - 1
	if b.Addr().Is4() && last > 0 {
		last-- // the broadcast address
	}
	if last < reservedHead {
		return nil, fmt.Errorf("block %s is too small: %d addresses are reserved and none is left for Pods", b, reservedHead)
	}
	return &span{block: b, used: make([]uint64, (size+63)/64), first: reservedHead, last: last, cursor: reservedHead - 1}, nil
}

// offset is the distance of a from the block's beginning; ok is false beyond what the span covers.
func (s *span) offset(a netip.Addr) (uint32, bool) {
	if !s.block.Contains(a) {
		return 0, false
	}
	if a.Is4() {
		x, y := a.As4(), s.block.Addr().As4()
		n := binary.BigEndian.Uint32(x[:]) - binary.BigEndian.Uint32(y[:])
		return n, n < uint32(len(s.used)*64)
	}
	x, y := a.As16(), s.block.Addr().As16()
	if [12]byte(x[:12]) != [12]byte(y[:12]) {
		return 0, false
	}
	n := binary.BigEndian.Uint32(x[12:]) - binary.BigEndian.Uint32(y[12:])
	return n, n < uint32(len(s.used)*64)
}

func (s *span) addr(n uint32) netip.Addr {
	if s.block.Addr().Is4() {
		b := s.block.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
		return netip.AddrFrom4(b)
	}
	b := s.block.Addr().As16()
	binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(b[12:])+n)
	return netip.AddrFrom16(b)
}

// reserved says whether an address inside the block is none that a Pod may ask for.
func (s *span) reserved(a netip.Addr) bool {
	n, ok := s.offset(a)
	if ok {
		return n < s.first || (n > s.last && s.last < maxSpan-2)
	}
	return a.Is4() && !s.block.Contains(a.Next()) // broadcast of a block wider than a span
}

func (s *span) mark(a netip.Addr, used bool) {
	n, ok := s.offset(a)
	switch {
	case !ok:
	case used:
		s.used[n/64] |= 1 << (n % 64)
	default:
		s.used[n/64] &^= 1 << (n % 64)
	}
}

// left counts the addresses that Pods can still have, and all that they can have.
func (s *span) left() (free, size int) {
	size = int(s.last-s.first) + 1
	free = size
	for i, w := range s.used {
		from, to := uint32(i)*64, uint32(i)*64+63
		if to < s.first || from > s.last {
			continue
		}
		if from < s.first {
			w &= ^uint64(0) << (s.first - from)
		}
		if to > s.last {
			w &= ^uint64(0) >> (to - s.last)
		}
		free -= bits.OnesCount64(w)
	}
	return free, size
}

// free finds the first unused offset in from..to, a word of 64 addresses at a time.
func (s *span) free(from, to uint32) (uint32, bool) {
	for n := max(from, s.first); n <= min(to, s.last); {
		w := ^s.used[n/64] >> (n % 64)
		if w == 0 {
			n = (n/64 + 1) * 64
			continue
		}
		if n += uint32(bits.TrailingZeros64(w)); n <= min(to, s.last) {
			return n, true
		}
	}
	return 0, false
}
