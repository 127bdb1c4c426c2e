package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

// ErrNoBlock means that the node has no block yet from which to assign an address.
var ErrNoBlock = errors.New("this node has no Pod CIDR yet")

// HeldError means that a requested address belongs to another attachment.
type HeldError struct {
	Addr netip.Addr
	By   api.Attachment
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("address %s is held by %s", e.Addr, Name(e.By))
}

// FullError means that the blocks of a family have no free address.
type FullError struct {
	Blocks []netip.Prefix
	Pods   int // with addresses of these blocks
}

func (e *FullError) Error() string {
	return fmt.Sprintf("no address is free in %v: %d Pods have them all", e.Blocks, e.Pods)
}

// RequestError means that no Pod can get the requested address, because of Why.
type RequestError struct {
	Addr netip.Addr
	Why  string
}

func (e *RequestError) Error() string { return fmt.Sprintf("requested address %s %s", e.Addr, e.Why) }

// families lists the families of the blocks in the order of the blocks.
func (p *Pool) families() (out []model.Family) {
	for _, s := range p.spans {
		if !slices.Contains(out, s.family()) {
			out = append(out, s.family())
		}
	}
	return out
}

// choose selects one address per family: the requested one, else the next free one. It changes nothing.
func (p *Pool) choose(requested []netip.Addr) ([]netip.Addr, error) {
	fams := p.families()
	if len(fams) == 0 {
		return nil, ErrNoBlock
	}
	var wanted [len(model.Families)]netip.Addr
	for _, a := range requested {
		f := model.FamilyOf(a)
		if other := wanted[f]; other.IsValid() && other != a {
			return nil, &RequestError{a, fmt.Sprintf("conflicts with %s: a Pod has one address per family", other)}
		}
		if err := p.allowed(a); err != nil {
			return nil, err
		}
		wanted[f] = a
	}
	var out []netip.Addr
	for _, f := range fams {
		a := wanted[f]
		if !a.IsValid() {
			var err error
			if a, err = p.next(f); err != nil {
				return nil, err
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// allowed returns an error when a Pod must not have the requested address.
func (p *Pool) allowed(a netip.Addr) error {
	if by, ok := p.holder[a]; ok {
		return &HeldError{a, by}
	}
	if p.unmanaged[a] {
		return &RequestError{a, "belongs to an unmanaged Pod of this node"}
	}
	var blocks []netip.Prefix
	for _, s := range p.spans {
		if s.block.Contains(a) {
			if s.reserved(a) {
				return &RequestError{a, fmt.Sprintf("is reserved in block %s for the node itself", s.block)}
			}
			return nil
		}
		blocks = append(blocks, s.block)
	}
	return &RequestError{a, fmt.Sprintf("is in none of this node's blocks %v", blocks)}
}

// next returns the next free address after the one assigned last, over all blocks of the family.
func (p *Pool) next(f model.Family) (netip.Addr, error) {
	var spans []*span
	at := 0
	for _, s := range p.spans {
		if s.family() == f {
			if s.current {
				at = len(spans)
			}
			spans = append(spans, s)
		}
	}
	for i := range spans {
		s := spans[(at+i)%len(spans)]
		from := s.first
		if i == 0 && s.current {
			from = s.cursor + 1
		}
		if n, ok := s.free(from, s.last); ok {
			return s.addr(n), nil
		}
	}
	s := spans[at] // the addresses before the cursor are assigned last
	if n, ok := s.free(s.first, s.cursor); ok {
		return s.addr(n), nil
	}
	return netip.Addr{}, p.full(spans)
}

// Room returns how many addresses of a family are free, the number of addresses of its largest block, and its number of
// blocks.
func (p *Pool) Room(f model.Family) (free, largest, blocks int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.spans {
		if s.family() == f {
			n, size := s.room()
			free, largest, blocks = free+n, max(largest, size), blocks+1
		}
	}
	return free, largest, blocks
}

// full returns the error for blocks without a free address.
func (p *Pool) full(spans []*span) error {
	e := &FullError{}
	for _, s := range spans {
		e.Blocks = append(e.Blocks, s.block)
		for a := range p.holder {
			if s.block.Contains(a) {
				e.Pods++
			}
		}
	}
	return e
}

// mark marks an address of any block as used or free.
func (p *Pool) mark(a netip.Addr, used bool) {
	for _, s := range p.spans {
		if s.block.Contains(a) {
			s.mark(a, used)
		}
	}
}

// moveCursor makes a the address that was assigned last in its family.
func (p *Pool) moveCursor(a netip.Addr) {
	for _, s := range p.spans {
		if s.family() == model.FamilyOf(a) {
			s.current = s.block.Contains(a)
			if s.current {
				s.cursor, _ = s.offset(a)
			}
		}
	}
}
