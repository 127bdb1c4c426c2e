package servicelb

import (
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/table"
	"github.com/warrennet/warren/servicelb/internal/traffic"
)

// Packets and bytes are counted in the flow's entry, under the lock that its packet holds anyway. They are added to the
// meter of the Service when the entry's counters are half full, when the flow ends, and when Stats is called.

// addToMeter adds a flow's counters of one direction to its Service.
func (b *Balancer) addToMeter(v *view, e *conntrack.Entry, d conntrack.Direction) {
	packets, bytes := e.TakeCounters(d)
	if packets > 0 && !e.Has(conntrack.FlagMasquerade) {
		b.meterOf(v, frontendKey(e)).Add(int(d), uint64(packets), uint64(bytes))
	}
}

// meterOf returns the meter of a Service, or that of deleted Services.
func (b *Balancer) meterOf(v *view, k table.Key) *traffic.Meter {
	if f := v.Frontend(k); f != nil {
		return f.Meter
	}
	return &b.ledger.Deleted
}

// flowEnded accounts for a flow that has ended: what it has forwarded, and whether its backend has never answered.
func (b *Balancer) flowEnded(slot uint32, last conntrack.Status) {
	v, e := b.view.Load(), b.flows.At(slot)
	if _, shared := b.offloads.Of(slot); shared != nil {
		b.foldOffload(v, e, shared)
	}
	b.offloads.Leave(slot)
	if v.Ejects() && last.State() == conntrack.TCPSyn && !last.Failed() && b.now()-e.Created() >= conntrack.UnansweredAfter {
		b.recordFailure(v, e)
	}
	b.addToMeter(v, e, conntrack.Original)
	b.addToMeter(v, e, conntrack.Reply)
}

// collectTraffic adds the counters of all flows to their Services.
func (b *Balancer) collectTraffic() {
	v := b.view.Load()
	var part []conntrack.Counters
	for shard := range conntrack.Shards {
		part = b.flows.TakeAllCounters(part[:0], shard)
		for _, c := range part {
			k := table.Key{Addr: c.Service.Addr(), Port: c.Service.Port(), Proto: c.Proto}
			b.meterOf(v, k).Add(int(c.Dir), uint64(c.Packets), uint64(c.Bytes))
		}
	}
}
