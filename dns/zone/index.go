package zone

import (
	"net/netip"

	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/internal/model"
)

// Index is the zone data of one snapshot: answers in wire form, by name. It is immutable; workers read it without a lock.
// Map keys are names in wire form, lower case, without the zone's own labels.
type Index struct {
	Revision     int64
	config       *Config
	services     map[string]*service // "<service>.<ns>"
	unready      map[string]struct{} // "<service>.<ns>" of Services without names: headless, no ready endpoint
	namespaces   map[string]struct{} // label of each namespace with a Service or a Pod
	nodes        map[string]*rrsets  // name of each node
	static       map[string]*rrsets  // fixed names of the domain: the apex, ns.dns, dns-version and the empty names above them
	apex         *rrsets             // SOA and NS of node.warren and of the reverse zones
	reverse      *reverse
	reverseZones []reverseZone
	problems     []string
	pods         map[podKey]struct{} // PodsVerified only
	soa          []byte              // SOA record without its owner name
}

type podKey struct {
	addr netip.Addr
	ns   string
}

// PodMode selects how `<a>-<b>-<c>-<d>.<ns>.pod.<domain>` is answered.
type PodMode uint8

// PodsByForm answers for every address. PodsVerified answers for the addresses of existing Pods, and costs one map entry
// per Pod address at each snapshot. PodsOff answers NXDOMAIN.
const (
	PodsByForm PodMode = iota
	PodsVerified
	PodsOff
)

// Config is what does not change while a server runs.
type Config struct {
	Domain string // wire form
	Labels int    // of Domain
	Pods   PodMode
	TTL    uint32 // of every record, in seconds
}

// LoopLabel is the label below the domain under which this server receives its own loop probes, in wire form.
const LoopLabel = "\x04loop"

const nodeZone, nodeLabels = "\x04node\x06warren\x00", 2

// Kind is the kind of zone that a name belongs to. It is a metric label too.
type Kind uint8

// The kinds of zones.
const (
	External Kind = iota
	Cluster
	Node
	Reverse
)

// Kinds are the names of the kinds.
var Kinds = [...]string{"external", "cluster", "node", "reverse"}

// ZoneOf returns the zone of a name without a snapshot. Reverse names are External here: their ranges come with a snapshot.
func (z *Config) ZoneOf(q *wire.Query) Kind {
	switch {
	case q.InZone(z.Domain, z.Labels):
		return Cluster
	case q.InZone(nodeZone, nodeLabels):
		return Node
	}
	return External
}

// Result is what the index has for one question.
type Result struct {
	Zone       Kind
	Rcode      byte
	zoneOffset int         // where the zone's name starts in the name of the question
	set        *wire.RRSet // a prepared answer, nil for none
	addr       netip.Addr  // the address of a Pod name
	names      []string    // the targets of a reverse name
	Alias      string      // the target of an ExternalName in wire form, "" for none
	LoopProbe  bool        // the name is below LoopLabel
}

// Find looks a simple query up. Result.Zone is External when the name is outside the zones of the index.
func (x *Index) Find(q *wire.Query) Result {
	switch x.config.ZoneOf(q) {
	case Cluster:
		return x.cluster(q)
	case Node:
		cut := q.Offset(q.Labels - nodeLabels)
		if cut == 0 {
			return pick(Result{Zone: Node}, x.apex, q)
		}
		return pick(Result{Zone: Node, zoneOffset: cut}, x.nodes[string(q.Name[:cut])], q)
	}
	return x.reversed(q)
}

// pick selects the record set of the question's type. A nil r is a name that does not exist.
func pick(f Result, r *rrsets, q *wire.Query) Result {
	if r == nil {
		f.Rcode = wire.RcodeNXDomain
		return f
	}
	f.set = r.get(q.Type)
	return f
}

// cluster resolves a name at or below the domain by its labels from the right.
func (x *Index) cluster(q *wire.Query) Result {
	n := q.Labels - x.config.Labels // labels left of the domain
	f := Result{Zone: Cluster, zoneOffset: q.Offset(n)}
	if n > 0 {
		switch string(q.Label(n - 1)) {
		case "\x03svc":
			return x.service(f, q, n-1)
		case "\x03pod":
			return x.pod(f, q, n-1)
		case "\x04node":
			if n > 1 {
				return pick(f, x.nodes[string(q.Name[:q.Offset(n-1)])], q)
			}
		case LoopLabel:
			f.LoopProbe = true
		}
	}
	return pick(f, x.static[string(q.Name[:f.zoneOffset])], q)
}

// service resolves the n labels left of "svc".
func (x *Index) service(f Result, q *wire.Query, n int) Result {
	switch n {
	case 0:
		return f // it exists and is empty
	case 1:
		if _, ok := x.namespaces[string(q.Label(0))]; !ok {
			f.Rcode = wire.RcodeNXDomain
		}
		return f
	}
	s := x.services[string(q.Name[q.Offset(n-2):q.Offset(n)])]
	switch {
	case s == nil:
		f.Rcode = wire.RcodeNXDomain
		return f
	case n > 2:
		return pick(f, s.subs[string(q.Name[:q.Offset(n-2)])], q)
	case s.target != "" && q.Type != wire.TypeCNAME:
		f.Alias = s.target
		return f
	}
	return pick(f, s.self, q)
}

// pod resolves the n labels left of "pod". The name contains the address.
func (x *Index) pod(f Result, q *wire.Query, n int) Result {
	if n < 2 {
		return f
	}
	addr, ok := parseDashed(q.Label(0)[1:])
	if n > 2 || !ok || x.config.Pods == PodsOff {
		f.Rcode = wire.RcodeNXDomain
		return f
	}
	if x.config.Pods == PodsVerified {
		if _, ok := x.pods[podKey{addr, string(q.Label(1)[1:])}]; !ok {
			f.Rcode = wire.RcodeNXDomain
			return f
		}
	}
	if addr.Is4() == (q.Type == wire.TypeA) && (q.Type == wire.TypeA || q.Type == wire.TypeAAAA) {
		f.addr = addr
	}
	return f
}

// parseDashed parses an address whose separators are dashes: 10-42-0-7 or fd42--7.
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
		if a, ok := wire.ParseIPv4(text[:n]); ok {
			return a, true
		}
	}
	return wire.ParseDashedIPv6(b)
}

// Problems returns what the zone has no records for because an object exceeds a bound.
func (x *Index) Problems() []string { return x.problems }

// reversed resolves a reverse name in the Pod and Service ranges, and of ClusterIPs outside of them. Endpoints outside of
// the Pod ranges get no name here: their addresses belong to other networks.
func (x *Index) reversed(q *wire.Query) Result {
	p, whole, ok := q.ReversePrefix()
	if !ok {
		return Result{}
	}
	f := Result{Zone: Reverse}
	in, pods := false, false
	for _, s := range x.reverseZones {
		if s.prefix.Contains(p.Addr()) && p.Bits() >= s.prefix.Bits() {
			in, pods, f.zoneOffset = true, !s.service, q.Offset(q.Labels-s.labels)
			break
		}
	}
	if in && f.zoneOffset == 0 {
		return pick(f, x.apex, q) // apex: SOA and NS
	}
	full := whole && p.IsSingleIP()
	if full {
		if r := x.reverse.get(p.Addr()); r.names != nil && (pods || r.clusterIP) {
			if q.Type == wire.TypePTR {
				f.names = r.names
			}
			if in || f.names != nil {
				return f
			}
		}
	}
	switch {
	case !in:
		return Result{}
	case !whole || full:
		f.Rcode = wire.RcodeNXDomain
	}
	return f
}

// namespaces returns the label of each namespace that has a Service or a Pod. `<ns>.svc` exists for these.
func namespaces(snap *model.Snapshot) map[string]struct{} {
	out := map[string]struct{}{}
	last := ""
	note := func(ns string) {
		if ns == last {
			return // the lists are sorted
		}
		last = ns
		if l, err := wire.AppendLabel(nil, ns); err == nil {
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

// Answer writes the answer to q from the result of Find. rotation selects the first record of a set. It allocates nothing
// when dst is large enough.
func (x *Index) Answer(dst []byte, q *wire.Query, f Result, rotation uint32, limit int) []byte {
	switch {
	case f.set != nil:
		return q.AnswerSet(dst, f.set, rotation, limit)
	case f.addr.IsValid():
		return q.AnswerAddress(dst, f.addr, x.config.TTL)
	case f.names != nil:
		return q.AnswerPointers(dst, f.names, x.config.TTL, limit)
	}
	return q.AnswerNegative(dst, f.Rcode, x.soa, f.zoneOffset, limit)
}

// UnderService reports whether a name is that of an existing Service or below it. Unlike the name in DNS, a headless Service
// without ready endpoints exists here.
func (x *Index) UnderService(q *wire.Query) bool {
	if !q.InZone(x.config.Domain, x.config.Labels) {
		return false
	}
	n := q.Labels - x.config.Labels - 1 // labels left of "svc"
	if n < 2 || string(q.Label(n)) != "\x03svc" {
		return false
	}
	key := q.Name[q.Offset(n-2):q.Offset(n)]
	_, idle := x.unready[string(key)]
	return idle || x.services[string(key)] != nil
}

// TTL is the TTL of cluster names, in seconds.
func (x *Index) TTL() uint32 { return x.config.TTL }
