package table

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/internal/traffic"
)

// Build compiles a snapshot into the table of one node. It is pure: the same input gives the same table.
func Build(self Self, snap *model.Snapshot) *Table { return new(Builder).Build(self, snap) }

// Builder makes one table after another and compiles only what has changed between two snapshots. The tables do not
// depend on it: what they share is never written again. The zero value is ready. One goroutine may use it.
type Builder struct {
	last      *Table
	snap      *model.Snapshot
	units     map[unitName]*unit
	claims    claims
	redirects redirectCounts
	balanced  *balanced // by the Services of snap
	problems  map[unitName]string
}

// unitName names the object that a unit was compiled from: a Service, or a Pod with host ports.
type unitName struct {
	model.ObjectName
	pod bool
}

// Build compiles a snapshot. The result is the same as that of the function Build.
func (b *Builder) Build(self Self, snap *model.Snapshot) *Table {
	if b.last == nil || !reflect.DeepEqual(self, b.last.self) || !slices.Equal(snap.ServiceCIDRs, b.last.ranges) {
		b.reset(self, snap.ServiceCIDRs)
	}
	changed := changedUnits(b.snap, snap, self.Node)
	b.balancedNow(snap, changed)
	p := b.newPatch()
	parts := slicesOf(snap, changed)
	for name := range changed {
		if old := b.units[name]; old != nil {
			p.remove(name, old)
		}
	}
	for i := range snap.Services {
		svc := &snap.Services[i]
		if n := (unitName{ObjectName: svc.ObjectName}); len(changed) > 0 && changed[n] {
			p.add(n, p.table.compile(svc, parts[svc.ObjectName], b.successor(n)))
			delete(changed, n)
		}
	}
	for i := range snap.Pods {
		pod := &snap.Pods[i]
		if n := (unitName{pod.ObjectName, true}); len(changed) > 0 && changed[n] && hasHostPorts(pod, self.Node) {
			p.add(n, p.table.compilePod(pod, b.successor(n)))
			delete(changed, n)
		}
	}
	for n := range changed {
		delete(b.units, n) // the object was deleted
		delete(b.problems, n)
	}
	b.last, b.snap = p.finish(), snap
	return b.last
}

// reset starts from an empty table. Meters and ejection records are retained.
func (b *Builder) reset(self Self, ranges []netip.Prefix) {
	t := &Table{self: self, ranges: ranges, local: map[netip.Addr]bool{}, peers: map[netip.Addr]bool{},
		peerSNAT: map[netip.Addr]bool{}}
	for _, a := range slices.Concat(self.Addrs, []netip.Addr{self.PodNet4, self.PodNet6}) {
		if a.IsValid() {
			t.local[a] = true
		}
	}
	for _, a := range self.Peers {
		t.peers[a] = true
	}
	for _, a := range self.PeerSNAT {
		t.peerSNAT[a] = true
	}
	b.last, b.snap, b.claims, b.redirects = t, &model.Snapshot{}, newClaims(), newRedirectCounts()
	b.balanced = nil
	b.problems = map[unitName]string{}
	if b.units == nil {
		b.units = map[unitName]*unit{}
	}
	for n, u := range b.units {
		b.units[n] = &unit{meter: u.meter, previous: u.records}
	}
}

// successor returns an empty unit that continues the counters and ejection records of the unit before it.
func (b *Builder) successor(n unitName) *unit {
	if u := b.units[n]; u != nil {
		if u.records == nil {
			return &unit{meter: u.meter, previous: u.previous}
		}
		return &unit{meter: u.meter, previous: u.records}
	}
	if n.pod {
		return &unit{meter: traffic.NewMeter("hostPort:" + n.String())}
	}
	return &unit{meter: traffic.NewMeter(n.String())}
}

// slicesOf collects the EndpointSlices of the Services that are to be compiled.
func slicesOf(snap *model.Snapshot, of map[unitName]bool) map[model.ObjectName][]*model.EndpointSlice {
	out := map[model.ObjectName][]*model.EndpointSlice{}
	if len(of) == 0 {
		return out
	}
	for i := range snap.Slices {
		s := &snap.Slices[i]
		if n := (model.ObjectName{Namespace: s.Namespace, Name: s.Service}); of[unitName{ObjectName: n}] && !s.OtherProxy {
			out[n] = append(out[n], s)
		}
	}
	return out
}
