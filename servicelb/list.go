package servicelb

import (
	"net/netip"
	"time"
)

// Flow is a flow as people want to see it.
type Flow struct {
	Proto uint8
	// Client sent to Service, which became Source sending to Backend.
	Client, Service, Source, Backend netip.AddrPort
	State                            string
	// Masquerade: no Service, but a Pod that talks to the world.
	Masquerade bool
	// Shortcut: the kernel carries its packets now.
	Offloaded bool
	Age, Idle time.Duration
}

// Flows returns at most max flows (0: all) for which filter, if any, is true.
func (b *Balancer) Flows(filter func(Flow) bool, max int) []Flow {
	var out, part []Flow
	now := b.now()
	for i := range b.flows.shards {
		part = b.flows.list(part[:0], uint64(i), now, b.offloads)
		for _, f := range part {
			if filter != nil && !filter(f) {
				continue
			}
			if out = append(out, f); len(out) == max {
				return out
			}
		}
	}
	return out
}

// list appends the flows whose first tuple lies in a shard. What is linked there stays while the lock is held.
func (f *flows) list(out []Flow, shard uint64, now uint32, offloads *offloads) []Flow {
	s := &f.shards[shard]
	s.Lock()
	defer s.Unlock()
	for bucket := shard; bucket < uint64(len(f.heads)); bucket += shards {
		for ref := f.heads[bucket]; ref != 0; {
			e, way := f.at(ref)
			if state := e.status.Load() & stateMask; way == orig && state > dying {
				x := e.flow(state, now)
				slot, _ := unref(ref)
				_, st := offloads.place(slot)
				x.Offloaded = st != nil && st.Armed.Load() != 0
				out = append(out, x)
			}
			ref = e.next[way]
		}
	}
	return out
}

func (e *entry) flow(state, now uint32) Flow {
	o, r := &e.way[orig], &e.way[reply]
	return Flow{Proto: e.proto, Client: o.source(), Service: o.destination(), Source: r.destination(), Backend: r.source(),
		State: stateNames[min(state, states-1)], Masquerade: e.flags&flagMasquerade != 0,
		Age: seconds(now - e.created), Idle: seconds(now - e.seen.Load())}
}

func seconds(n uint32) time.Duration { return time.Duration(max(int32(n), 0)) * time.Second }

// Stats counts. It walks all flows: call it every few seconds, not for every packet.
func (b *Balancer) Stats() Stats {
	s := Stats{Flows: map[string]uint64{}, Dropped: map[string]uint64{},
		Opened: b.counters.opened.Load(), Ended: b.counters.ended.Load()}
	for slot := range b.flows.ever() {
		if state := b.flows.slots[slot].status.Load() & stateMask; state > dying && state < states {
			s.Flows[stateNames[state]]++
		}
	}
	for why := reason(1); why < reasons; why++ {
		s.Dropped[reasonNames[why]] = b.counters.dropped[why].Load()
	}
	s.Offloaded = b.offloads.count()
	b.gather()
	s.Services = b.ledger.show(b.view.Load().meters())
	return s
}
