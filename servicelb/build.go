package servicelb

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// Build compiles Services and endpoints into a table for one node. It is pure: the same input gives the same table.
func Build(self Self, snap *model.Snapshot) *Table { return new(Builder).Build(self, snap) }

// Builder makes one table after another and compiles only what has changed between two snapshots. The tables do not
// depend on it: what they share is never written again. The zero value is ready; it is used by one goroutine.
type Builder struct {
	last  *Table
	snap  *model.Snapshot
	units map[unitName]*unit
	// rivals are the frontends that claim the same address and port, where there are several.
	rivals map[frontKey][]*frontend
	steer  steer
}

// unitName names a Service, or a Pod.
type unitName struct {
	model.ObjectName
	pod bool
}

// Build compiles a snapshot. The result is the same as that of Build.
func (b *Builder) Build(self Self, snap *model.Snapshot) *Table {
	if b.last == nil || !reflect.DeepEqual(self, b.last.self) || !slices.Equal(snap.ServiceCIDRs, b.last.ranges) {
		b.begin(self, snap.ServiceCIDRs)
	}
	e := b.edit()
	changed := changedUnits(b.snap, snap, self.Node)
	parts := slicesOf(snap, changed)
	for name := range changed {
		if old := b.units[name]; old != nil {
			e.withdraw(old)
		}
	}
	for i := range snap.Services {
		svc := &snap.Services[i]
		if n := (unitName{ObjectName: svc.ObjectName}); len(changed) > 0 && changed[n] {
			e.enter(n, e.table.compile(svc, parts[svc.ObjectName], b.successor(n)))
			delete(changed, n)
		}
	}
	for i := range snap.Pods {
		pod := &snap.Pods[i]
		if n := (unitName{pod.ObjectName, true}); len(changed) > 0 && changed[n] && onNode(pod, self.Node) {
			e.enter(n, e.table.compilePod(pod, b.successor(n)))
			delete(changed, n)
		}
	}
	for n := range changed {
		delete(b.units, n) // it is gone
	}
	b.last, b.snap = e.done(), snap
	return b.last
}

// begin forgets everything but what packets have written.
func (b *Builder) begin(self Self, ranges []netip.Prefix) {
	t := &Table{self: self, ranges: ranges, local: map[netip.Addr]bool{}, peers: map[netip.Addr]bool{}}
	for _, a := range slices.Concat(self.Addrs, []netip.Addr{self.PodNet4, self.PodNet6}) {
		if a.IsValid() {
			t.local[a] = true
		}
	}
	for _, a := range self.Peers {
		t.peers[a] = true
	}
	b.last, b.snap, b.rivals, b.steer = t, &model.Snapshot{}, map[frontKey][]*frontend{}, newSteer()
	if b.units == nil {
		b.units = map[unitName]*unit{}
	}
	for n, u := range b.units {
		b.units[n] = &unit{meter: u.meter, before: u.records}
	}
}

// successor is an empty unit that goes on with the counters and records of the one before.
func (b *Builder) successor(n unitName) *unit {
	if u := b.units[n]; u != nil {
		if u.records == nil {
			return &unit{meter: u.meter, before: u.before}
		}
		return &unit{meter: u.meter, before: u.records}
	}
	if n.pod {
		return &unit{meter: &meter{name: "hostPort:" + n.String()}}
	}
	return &unit{meter: &meter{name: n.String()}}
}

// slicesOf gathers the endpoint slices of the units that are to be compiled.
func slicesOf(snap *model.Snapshot, of map[unitName]bool) map[model.ObjectName][]*model.EndpointSlice {
	out := map[model.ObjectName][]*model.EndpointSlice{}
	if len(of) == 0 {
		return out
	}
	for i := range snap.Slices {
		s := &snap.Slices[i]
		if n := (model.ObjectName{Namespace: s.Namespace, Name: s.Service}); of[unitName{ObjectName: n}] && !s.Foreign {
			out[n] = append(out[n], s)
		}
	}
	return out
}
