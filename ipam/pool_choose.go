package ipam

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/warrennet/warren/internal/api"
)

// ErrNoBlock says that the node has no block to take an address from yet.
var ErrNoBlock = errors.New("this node has no Pod CIDR yet")

// HeldError says that a requested address belongs to somebody else.
type HeldError struct {
	Addr netip.Addr
	By   api.Attachment
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("address %s is held by %s", e.Addr, Name(e.By))
}

// FullError says that no address is left in a family.
type FullError struct {
	Blocks []netip.Prefix
	Pods   int // that hold addresses of these blocks
}

func (e *FullError) Error() string {
	return fmt.Sprintf("no address is left in %v: %d Pods hold them all", e.Blocks, e.Pods)
}

// RequestError says why a requested address cannot be given to anybody.
type RequestError struct {
	Addr netip.Addr
	Why  string
}

func (e *RequestError) Error() string { return fmt.Sprintf("requested address %s %s", e.Addr, e.Why) }

// families lists the families of the blocks in their order: true stands for IPv4.
func (p *Pool) families() (out []bool) {
	for _, s := range p.spans {
		if v4 := s.block.Addr().Is4(); len(out) == 0 || (len(out) == 1 && out[0] != v4) {
			out = append(out, v4)
		}
	}
	return out
}

// choose picks one address per family: the requested one, else the next free one. It changes nothing.
func (p *Pool) choose(requested []netip.Addr) ([]netip.Addr, error) {
	fams := p.families()
	if len(fams) == 0 {
		return nil, ErrNoBlock
	}
	asked := map[bool]netip.Addr{}
	for _, a := range requested {
		if other, ok := asked[a.Is4()]; ok && other != a {
			return nil, &RequestError{a, fmt.Sprintf("comes beside %s: a Pod has one address per family", other)}
		}
		if err := p.allowed(a); err != nil {
			return nil, err
		}
		asked[a.Is4()] = a
	}
	var out []netip.Addr
	for _, v4 := range fams {
		a, ok := asked[v4]
		if !ok {
			var err error
			if a, err = p.next(v4); err != nil {
				return nil, err
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// allowed says whether an address may be given out on request.
func (p *Pool) allowed(a netip.Addr) error {
	if by, ok := p.holder[a]; ok {
		return &HeldError{a, by}
	}
	if p.strangers[a] {
		return &RequestError{a, "belongs to a Pod of another network on this node"}
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

// next finds the free address that follows the one given out last, over all blocks of the family.
func (p *Pool) next(v4 bool) (netip.Addr, error) {
	var spans []*span
	at := 0
	for _, s := range p.spans {
		if s.block.Addr().Is4() == v4 {
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
	s := spans[at] // what lies before the cursor comes last
	if n, ok := s.free(s.first, s.cursor); ok {
		return s.addr(n), nil
	}
	return netip.Addr{}, p.full(spans)
}

// Room says how many addresses of a family are free and how many its largest block has; blocks is how many it has.
func (p *Pool) Room(v4 bool) (free, largest, blocks int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.spans {
		if s.block.Addr().Is4() == v4 {
			n, size := s.left()
			free, largest, blocks = free+n, max(largest, size), blocks+1
		}
	}
	return free, largest, blocks
}

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

func (p *Pool) mark(a netip.Addr, used bool) {
	for _, s := range p.spans {
		if s.block.Contains(a) {
			s.mark(a, used)
		}
	}
}

// point makes a the address given out last in its family.
func (p *Pool) point(a netip.Addr) {
	for _, s := range p.spans {
		if s.block.Addr().Is4() == a.Is4() {
			s.current = s.block.Contains(a)
			if s.current {
				s.cursor, _ = s.offset(a)
			}
		}
	}
}
