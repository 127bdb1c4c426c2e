package table

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/netx"
)

// Algorithm is how a backend is selected for a new flow.
type Algorithm uint8

// The algorithms.
const (
	Random Algorithm = iota
	RoundRobin
	LeastConnections // of two random backends, the one with fewer flows
	Maglev
)

// Annotation of a Service names its algorithm.
const Annotation = "warren.dev/balance"

// algorithmOf reads the annotation. An unknown value means random.
func algorithmOf(annotations map[string]string) Algorithm {
	switch annotations[Annotation] {
	case "round-robin":
		return RoundRobin
	case "least-connections":
		return LeastConnections
	case "maglev":
		return Maglev
	}
	return Random
}

// prepare computes the lookup tables of Maglev. The frontends of one Service port share their pools. A Service whose tables
// become too large has random selection at its further ports.
func (u *unit) prepare(f *Frontend) {
	if f.Algorithm != Maglev {
		return
	}
	for _, p := range []*Pool{f.Internal, f.External} {
		if p.Maglev != nil {
			continue
		}
		size := maglevSize(len(p.Backends))
		if u.maglevSlots+size > maxMaglevSlots {
			f.Algorithm = Random
			u.problem = fmt.Sprintf("Service %s: the lookup tables of %s: maglev exceed %d slots; some of its ports use random selection; "+
				"use fewer ports or endpoints", f.Service, Annotation, maxMaglevSlots)
			return
		}
		u.maglevSlots += size
		p.Maglev = maglev(p.Backends)
	}
}

// Pool returns the backends for a client inside or outside of the cluster.
func (f *Frontend) Pool(outside bool) *Pool {
	if outside {
		return f.External
	}
	return f.Internal
}

// Admits applies loadBalancerSourceRanges to a client inside or outside of the cluster.
func (f *Frontend) Admits(client netip.Addr) bool {
	return !f.Restricted || f.Kind != KindExternal || netx.Contains(f.SourceRanges, client)
}

// HasEndpoint reports whether an endpoint exists, in whatever condition: connections to a terminating one continue.
func (f *Frontend) HasEndpoint(b netip.AddrPort) bool {
	_, ok := slices.BinarySearchFunc(f.Endpoints, b, Backend.compare)
	return ok
}

// Has reports whether new flows may go to a backend.
func (p *Pool) Has(b netip.AddrPort) bool {
	_, ok := p.Find(b)
	return ok
}

// Find returns the index of a backend.
func (p *Pool) Find(b netip.AddrPort) (int, bool) {
	return slices.BinarySearchFunc(p.Backends, b, Backend.compare)
}

func (b Backend) compare(to netip.AddrPort) int {
	return cmp.Or(b.Addr.Compare(to.Addr()), cmp.Compare(b.Port, to.Port()))
}
