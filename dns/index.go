package dns

import (
	"net/netip"

	"github.com/warrennet/warren/internal/model"
)

// index is the whole zone at one snapshot: immutable, read by every worker, swapped through an atomic pointer.
type index struct {
	revision int64
	z        *zones
	services map[string]*service // by "<service>.<ns>" in wire form without the root
	idle     map[string]struct{} // likewise, Services that have no names now
	spaces   map[string]struct{} // namespaces by label
	nodes    map[string]*rec     // by everything left of the node zone
	static   map[string]*rec     // by everything left of the domain: apex, ns.dns, dns-version and empty names
	node     *rec                // the apex of node.warren and of the reverse zones
	rev      *reverse
	spans    []span
	pods     map[podKey]struct{} // PodsVerified only
	soa      []byte              // SOA record without its owner
}

type podKey struct {
	addr netip.Addr
	ns   string
}

// zones are the names that never change while a server lives.
type zones struct {
	domain string // wire form
	labels int
	pods   PodMode
	ttl    uint32
}

const nodeZone, nodeLabels = "\x04node\x06warren\x00", 2

// zoneKind says who answers for a name; it is a metric label too.
type zoneKind uint8

const (
	zoneExternal zoneKind = iota
	zoneCluster
	zoneNode
	zoneReverse
)

var zoneNames = [...]string{"external", "cluster", "node", "reverse"}

// where says to which zone a name belongs without looking into a snapshot. Reverse names are external here: only a
// snapshot knows the ranges.
func (z *zones) where(q *query) zoneKind {
	switch {
	case q.under(z.domain, z.labels):
		return zoneCluster
	case q.under(nodeZone, nodeLabels):
		return zoneNode
	}
	return zoneExternal
}

// found is what the index says about one question.
type found struct {
	zone  zoneKind
	rcode byte
	cut   int        // where the zone's name starts in the question's
	set   *rrset     // the prepared answer
	addr  netip.Addr // or the one address of a Pod name
	names []string   // or the targets of a reverse name
	chase *service   // or an ExternalName to follow
	loop  bool       // a probe of ours came back through an upstream
}

// find looks a plain question up. zoneExternal means that the name is not ours.
func (x *index) find(q *query) found {
	switch x.z.where(q) {
	case zoneCluster:
		return x.cluster(q)
	case zoneNode:
		cut := q.off(q.labels - nodeLabels)
		if cut == 0 {
			return answer(found{zone: zoneNode}, x.node, q)
		}
		return answer(found{zone: zoneNode, cut: cut}, x.nodes[string(q.name[:cut])], q)
	}
	return x.reversed(q)
}

// answer picks the type asked from what a name has.
func answer(f found, r *rec, q *query) found {
	if r == nil {
		f.rcode = rcodeNX
		return f
	}
	f.set = r.get(q.typ)
	return f
}

// cluster resolves a name at or below the domain by its labels from the right.
func (x *index) cluster(q *query) found {
	n := q.labels - x.z.labels // labels left of the domain
	f := found{zone: zoneCluster, cut: q.off(n)}
	if n > 0 {
		switch string(q.label(n - 1)) {
		case "\x03svc":
			return x.service(f, q, n-1)
		case "\x03pod":
			return x.pod(f, q, n-1)
		case "\x04node":
			if n > 1 {
				return answer(f, x.nodes[string(q.name[:q.off(n-1)])], q)
			}
		case "\x04loop":
			f.loop = true
		}
	}
	return answer(f, x.static[string(q.name[:f.cut])], q)
}

// service resolves the n labels left of "svc".
func (x *index) service(f found, q *query, n int) found {
	switch n {
	case 0:
		return f // empty, and it exists
	case 1:
		if _, ok := x.spaces[string(q.label(0))]; !ok {
			f.rcode = rcodeNX
		}
		return f
	}
	s := x.services[string(q.name[q.off(n-2):q.off(n)])]
	switch {
	case s == nil:
		f.rcode = rcodeNX
		return f
	case n > 2:
		return answer(f, s.subs[string(q.name[:q.off(n-2)])], q)
	case s.target != "" && q.typ != typeCNAME:
		f.chase = s
		return f
	}
	return answer(f, s.self, q)
}

// pod resolves the n labels left of "pod": the address is in the name.
func (x *index) pod(f found, q *query, n int) found {
	if n < 2 {
		return f
	}
	addr, ok := dashed(q.label(0)[1:])
	if n > 2 || !ok || x.z.pods == PodsOff {
		f.rcode = rcodeNX
		return f
	}
	if x.z.pods == PodsVerified {
		if _, ok := x.pods[podKey{addr, string(q.label(1)[1:])}]; !ok {
			f.rcode = rcodeNX
			return f
		}
	}
	if addr.Is4() == (q.typ == typeA) && (q.typ == typeA || q.typ == typeAAAA) {
		f.addr = addr
	}
	return f
}

// dashed reads 10-42-0-7 or fd42--7.
func dashed(b []byte) (netip.Addr, bool) {
	var text [64]byte
	four := true
	n := copy(text[:], b)
	for i, c := range text[:n] {
		if c == '-' {
			text[i] = '.'
		} else if c < '0' || c > '9' {
			four = false
		}
	}
	if four {
		if a, ok := parse4(text[:n]); ok {
			return a, true
		}
	}
	return parse6(b)
}

// reversed resolves a reverse name of the Pod and Service ranges, or of any address that a Service has.
func (x *index) reversed(q *query) found {
	p, whole, ok := q.reversed()
	if !ok {
		return found{}
	}
	f := found{zone: zoneReverse}
	in := false
	for _, s := range x.spans {
		if s.prefix.Contains(p.Addr()) && p.Bits() >= s.prefix.Bits() {
			in, f.cut = true, q.off(q.labels-s.labels)
			break
		}
	}
	if in && f.cut == 0 {
		return answer(f, x.node, q) // apex: SOA and NS
	}
	full := whole && p.IsSingleIP()
	if full {
		if names := x.rev.get(p.Addr()); names != nil {
			if q.typ == typePTR {
				f.names = names
			}
			if in || f.names != nil {
				return f
			}
		}
	}
	switch {
	case !in:
		return found{}
	case !whole || full:
		f.rcode = rcodeNX
	}
	return f
}

// namespaces are those that have a Service or a Pod: the ones that `<ns>.svc` exists for.
func namespaces(snap *model.Snapshot) map[string]struct{} {
	out := map[string]struct{}{}
	last := ""
	note := func(ns string) {
		if ns == last {
			return // the lists are sorted
		}
		last = ns
		if l, err := appendLabel(nil, ns); err == nil {
			out[string(l)] = struct{}{}
		}
	}
	for i := range snap.Services {
		note(snap.Services[i].Namespace)
	}
	for i := range snap.Pods {
		note(snap.Pods[i].Namespace)
	}
	return out
}
