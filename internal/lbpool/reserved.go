package lbpool

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// Reservation is a range that no pool may contain: of Pods, of Services, or a node's own address.
type Reservation struct {
	Range model.AddressRange
	Whose string // as in "of node n1"
}

// Address reserves one address.
func Address(a netip.Addr, whose string) Reservation {
	return Reservation{model.AddressRange{First: a, Last: a}, whose}
}

// Problem is a fault of a pool.
type Problem struct{ Pool, Text string }

func (p Problem) String() string { return "AddressPool " + p.Pool + ": " + p.Text }

// Without returns pools without overlaps, for stores that cannot refuse a pool. It removes the reserved ranges and those
// of preceding pools from each pool, and reports what it removed.
func Without(pools []model.AddressPool, kept []Reservation) (out []model.AddressPool, problems []Problem) {
	kept = slices.Clone(kept)
	for _, p := range pools {
		var ranges []model.AddressRange
		for _, r := range p.Ranges {
			rest := []model.AddressRange{r}
			for _, k := range kept {
				if r.Overlaps(k.Range) {
					problems = append(problems, Problem{p.Name,
						fmt.Sprintf("%s overlaps %s %s; the shared addresses are not assigned", r, k.Range, k.Whose)})
					rest = cut(rest, k.Range)
				}
			}
			ranges = append(ranges, rest...)
			kept = append(kept, Reservation{r, "of AddressPool " + p.Name})
		}
		p.Ranges = ranges
		out = append(out, p)
	}
	return out, problems
}

// cut removes k from the ranges.
func cut(ranges []model.AddressRange, k model.AddressRange) (out []model.AddressRange) {
	for _, r := range ranges {
		if !r.Overlaps(k) {
			out = append(out, r)
			continue
		}
		if r.First.Less(k.First) {
			out = append(out, model.AddressRange{First: r.First, Last: k.First.Prev()})
		}
		if k.Last.Less(r.Last) {
			out = append(out, model.AddressRange{First: k.Last.Next(), Last: r.Last})
		}
	}
	return out
}
