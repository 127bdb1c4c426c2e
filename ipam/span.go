package ipam

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/warrennet/warren/internal/model"
)

const (
	// reservedHead is the number of addresses at the start of a block that no Pod gets: the network address, the node's
	// Pod-net address and the SNAT address.
	reservedHead = 3
	// maxSpan bounds the part of a block that is assigned: no node runs 65,536 Pods.
	maxSpan = 1 << 16
)

// span is one block with a bit per used address, and the position of the address assigned last.
type span struct {
	block       netip.Prefix
	used        []uint64
	first, last uint32 // offsets that are assigned to Pods
	cursor      uint32 // offset assigned last; the search for the next one starts after it
	current     bool   // the address of the family that was assigned last is of this block
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
		return nil, fmt.Errorf("block %s is too small: its first %d addresses are reserved and none is left for Pods", b, reservedHead)
	}
	return &span{block: b, used: make([]uint64, (size+63)/64), first: reservedHead, last: last, cursor: reservedHead - 1}, nil
}

// family returns the family of the block.
func (s *span) family() model.Family { return model.FamilyOf(s.block.Addr()) }

// offset returns the distance of a from the start of the block. ok is false outside of the span.
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

// addr returns the address at an offset.
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

// reserved reports whether an address of the block can be assigned to no Pod, not even on request.
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

// room returns the number of free addresses and of all that can be assigned.
func (s *span) room() (free, size int) {
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

// free returns the first unused offset in from..to. It tests 64 addresses at a time.
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
