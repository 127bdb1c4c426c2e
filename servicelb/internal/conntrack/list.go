package conntrack

import (
	"net/netip"
	"time"
)

// Flow is a copy of one flow for status output.
type Flow struct {
	Proto uint8
	// Client sent to Service. The balancer sends this on from Source to Backend.
	Client, Service, Source, Backend netip.AddrPort
	State                            string
	// Masquerade means egress of a Pod to an external network: Service is the destination itself.
	Masquerade bool
	// Offloaded means that the eBPF program forwards its packets now.
	Offloaded bool
	Age, Idle time.Duration
}

// AppendFlows appends the flows whose original tuple lies in a shard. offloaded may be nil.
func (t *Table) AppendFlows(out []Flow, shard int, now uint32, offloaded func(slot uint32) bool) []Flow {
	s := &t.shards[shard]
	s.Lock()
	defer s.Unlock()
	for slot, d := range t.linked(shard) {
		e := &t.slots[slot]
		if status := e.Status(); d == Original && status.Live() {
			f := e.flow(status.State(), now)
			f.Offloaded = offloaded != nil && offloaded(slot)
			out = append(out, f)
		}
	}
	return out
}

// linked calls yield for every direction that is linked in the buckets of a shard. The shard is locked, so nothing is
// unlinked meanwhile.
func (t *Table) linked(shard int) func(yield func(uint32, Direction) bool) {
	return func(yield func(uint32, Direction) bool) {
		for bucket := shard; bucket < len(t.heads); bucket += Shards {
			for ref := t.heads[bucket]; ref != 0; {
				slot, d := splitRef(ref)
				if !yield(slot, d) {
					return
				}
				ref = t.slots[slot].next[d]
			}
		}
	}
}

func (e *Entry) flow(state State, now uint32) Flow {
	return Flow{
		Proto: e.proto, State: stateNames[min(state, stateCount-1)], Masquerade: e.Has(FlagMasquerade),
		Client: e.tuples[Original].Source(), Service: e.Service(), Source: e.SourceAtBackend(), Backend: e.Backend(),
		Age: seconds(now - e.created), Idle: seconds(now - e.Seen()),
	}
}

func seconds(n uint32) time.Duration { return time.Duration(max(int32(n), 0)) * time.Second }

// Counters are what one flow has forwarded in one direction since the last TakeCounters.
type Counters struct {
	Service netip.AddrPort
	Proto   uint8
	Dir     Direction
	Packets uint32
	Bytes   uint32
}

// TakeAllCounters takes the counters that a shard guards, of flows that belong to a Service, and appends them.
func (t *Table) TakeAllCounters(out []Counters, shard int) []Counters {
	s := &t.shards[shard]
	s.Lock()
	defer s.Unlock()
	for slot, d := range t.linked(shard) {
		e := &t.slots[slot]
		if packets, bytes := e.TakeCounters(d); packets > 0 && !e.Has(FlagMasquerade) {
			out = append(out, Counters{e.Service(), e.proto, d, packets, bytes})
		}
	}
	return out
}

// CountStates counts the flows by the name of their state.
func (t *Table) CountStates() map[string]uint64 {
	out := map[string]uint64{}
	for slot := range t.EverUsed() {
		if status := t.slots[slot].Status(); status.Live() && status.State() < stateCount {
			out[stateNames[status.State()]]++
		}
	}
	return out
}
