package dns

import (
	"net/netip"

	"github.com/warrennet/warren/internal/model"
)

// index is the whole zone at one snapshot: immutable, read by every worker, swapped through an atomic pointer.
type index struct {
	revision     int64
	config       *zoneConfig
	services     map[string]*service // by "<service>.<ns>" in wire form without the root
	unready      map[string]struct{} // likewise, Services that have no names now
	namespaces   map[string]struct{} // namespaces by label
	nodes        map[string]*rrsets  // by everything left of the node zone
	static       map[string]*rrsets  // by everything left of the domain: apex, ns.dns, dns-version and empty names
	apex         *rrsets             // the apex of node.warren and of the reverse zones
	reverse      *reverse
	reverseZones []reverseZone
	pods         map[podKey]struct{} // PodsVerified only
	soa          []byte              // SOA record without its owner
}

type podKey struct {
	addr netip.Addr
	ns   string
}

// zoneConfig are the names that never change while a server lives.
type zoneConfig struct {
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

// zoneOf says to which zone a name belongs without looking into a snapshot. Reverse names are external here: only a
// snapshot knows the ranges.
func (z *zoneConfig) zoneOf(q *query) zoneKind {
	switch {
	case q.inZone(z.domain, z.labels):
		return zoneCluster
	case q.inZone(nodeZone, nodeLabels):
		return zoneNode
	}
	return zoneExternal
}

// result is what the index says about one question.
type result struct {
	zone       zoneKind
	rcode      byte
	zoneOffset int        // where the zone's name starts in the question's
	set        *rrset     // the prepared answer
	addr       netip.Addr // or the one address of a Pod name
	names      []string   // or the targets of a reverse name
	chase      *service   // or an ExternalName to follow
	loopProbe  bool       // a probe of ours came back through an upstream
}

// find looks a plain question up. zoneExternal means that the name is not ours.
func (x *index) find(q *query) result {
	switch x.config.zoneOf(q) {
	case zoneCluster:
		return x.cluster(q)
	case zoneNode:
		cut := q.offset(q.labels - nodeLabels)
		if cut == 0 {
			return pick(result{zone: zoneNode}, x.apex, q)
		}
		return pick(result{zone: zoneNode, zoneOffset: cut}, x.nodes[string(q.name[:cut])], q)
	}
	return x.reversed(q)
}

// pick picks the type asked from what a name has.
func pick(f result, r *rrsets, q *query) result {
	if r == nil {
		f.rcode = rcodeNXDomain
		return f
	}
	f.set = r.get(q.typ)
	return f
}

// cluster resolves a name at or below the domain by its labels from the right.
func (x *index) cluster(q *query) result {
	n := q.labels - x.config.labels // labels left of the domain
	f := result{zone: zoneCluster, zoneOffset: q.offset(n)}
	if n > 0 {
		switch string(q.label(n - 1)) {
		case "\x03svc":
			return x.service(f, q, n-1)
		case "\x03pod":
			return x.pod(f, q, n-1)
		case "\x04node":
			if n > 1 {
				return pick(f, x.nodes[string(q.name[:q.offset(n-1)])], q)
			}
		case "\x04loop":
			f.loopProbe = true
		}
	}
	return pick(f, x.static[string(q.name[:f.zoneOffset])], q)
}

// service resolves the n labels left of "svc".
func (x *index) service(f result, q *query, n int) result {
	switch n {
	case 0:
		return f // empty, and it exists
	case 1:
		if _, ok := x.namespaces[string(q.label(0))]; !ok {
			f.rcode = rcodeNXDomain
		}
		return f
	}
	s := x.services[string(q.name[q.offset(n-2):q.offset(n)])]
	switch {
	case s == nil:
		f.rcode = rcodeNXDomain
		return f
	case n > 2:
		return pick(f, s.subs[string(q.name[:q.offset(n-2)])], q)
	case s.target != "" && q.typ != typeCNAME:
		f.chase = s
		return f
	}
	return pick(f, s.self, q)
}

// pod resolves the n labels left of "pod": the address is in the name.
func (x *index) pod(f result, q *query, n int) result {
	if n < 2 {
		return f
	}
	addr, ok := parseDashed(q.label(0)[1:])
	if n > 2 || !ok || x.config.pods == PodsOff {
		f.rcode = rcodeNXDomain
		return f
	}
	if x.config.pods == PodsVerified {
		if _, ok := x.pods[podKey{addr, string(q.label(1)[1:])}]; !ok {
			f.rcode = rcodeNXDomain
			return f
		}
	}
	if addr.Is4() == (q.typ == typeA) && (q.typ == typeA || q.typ == typeAAAA) {
		f.addr = addr
	}
	return f
}

// parseDashed reads 10-42-0-7 or fd42--7.
func parseDashed(b []byte) (netip.Addr, bool) {
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
func (x *index) reversed(q *query) result {
	p, whole, ok := q.reversePrefix()
	if !ok {
		return result{}
	}
	f := result{zone: zoneReverse}
	in := false
	for _, s := range x.reverseZones {
		if s.prefix.Contains(p.Addr()) && p.Bits() >= s.prefix.Bits() {
			in, f.zoneOffset = true, q.offset(q.labels-s.labels)
			break
		}
	}
	if in && f.zoneOffset == 0 {
		return pick(f, x.apex, q) // apex: SOA and NS
	}
	full := whole && p.IsSingleIP()
	if full {
		if names := x.reverse.get(p.Addr()); names != nil {
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
		return result{}
	case !whole || full:
		f.rcode = rcodeNXDomain
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
