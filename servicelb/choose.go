package servicelb

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/packet"
)

// picker is a way to choose among backends.
type picker uint8

const (
	pickRandom picker = iota
	pickRoundRobin
	pickLeast
	pickMaglev
)

// Annotation names the algorithm of a Service.
const Annotation = "warren.dev/balance"

// pickerOf reads the annotation; what it does not know is random.
func pickerOf(annotations map[string]string) picker {
	switch annotations[Annotation] {
	case "round-robin":
		return pickRoundRobin
	case "least-connections":
		return pickLeast
	case "maglev":
		return pickMaglev
	}
	return pickRandom
}

// prepare computes what the algorithm needs. Frontends of one port share their pools.
func (f *frontend) prepare() {
	if f.pick != pickMaglev {
		return
	}
	for _, p := range []*pool{f.internal, f.external} {
		if p.maglev == nil {
			p.maglev = maglev(p.backends)
		}
	}
}

// choose picks the backend of a new flow. The pool is not empty.
func (b *Balancer) choose(f *frontend, in *pool, p *packet.Packet) backend {
	if f.affinity > 0 {
		return b.affinity.choose(f, in, p.Src, b.now())
	}
	n := uint32(len(in.backends))
	i, pick := 0, rand.Uint64()
	switch f.pick {
	case pickRoundRobin:
		i = int((in.turn.Add(1) - 1) % n)
	case pickLeast:
		i = int(uint32(pick) % n)
		if j := int(uint32(pick>>32) % n); b.flows.load(p.Proto, in.backends[j]) < b.flows.load(p.Proto, in.backends[i]) {
			i = j
		}
	case pickMaglev:
		pick = stable(p.Src, uint64(p.SrcPort))
		i = int(in.maglev[pick%uint64(len(in.maglev))])
	default:
		i = int(uint32(pick) % n)
	}
	return in.backends[in.avoid(i, pick, b.now())]
}

func (f *flows) load(proto uint8, b backend) int32 {
	return f.loads[loadSlot(proto, b.addrPort())].Load()
}

// pool returns the backends for a client.
func (f *frontend) pool(outside bool) *pool {
	if outside {
		return f.external
	}
	return f.internal
}

func (p *pool) has(b netip.AddrPort) bool {
	_, ok := p.find(b)
	return ok
}

func (p *pool) find(b netip.AddrPort) (int, bool) {
	return slices.BinarySearchFunc(p.backends, b, backend.compare)
}

// knows reports whether an endpoint exists, in whatever condition: connections to one that terminates go on.
func (f *frontend) knows(b netip.AddrPort) bool {
	_, ok := slices.BinarySearchFunc(f.all, b, backend.compare)
	return ok
}

func (b backend) compare(to netip.AddrPort) int {
	return cmp.Or(b.addr.Compare(to.Addr()), cmp.Compare(b.port, to.Port()))
}
