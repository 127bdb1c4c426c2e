package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// adopt enters the flows of an earlier process. inPlace says that old is the table's own memory; otherwise the flows
// are copied. The process before may have died at any instruction: nothing is believed unchecked.
func (b *Balancer) adopt(old []entry, inPlace bool) {
	var kept, damaged int
	now := b.now()
	last := -1
	for i := range old {
		e := &old[i]
		status := e.status.Load()
		switch {
		case status&stateMask <= dying:
		case !e.valid(now):
			damaged++
		case b.flows.adopt(e, uint32(i), inPlace):
			kept++
			last = i
			continue
		}
		if inPlace && status != 0 {
			e.status.Store(0)
		}
	}
	if inPlace {
		b.flows.recount(uint32(last+1), kept)
	}
	if kept+damaged > 0 {
		b.log.Info("flows adopted", "flows", kept, "damaged", damaged)
	}
}

// adopt links one valid entry, unless an earlier one has its tuples.
func (f *flows) adopt(e *entry, slot uint32, inPlace bool) bool {
	ko, kr := e.key(orig), e.key(reply)
	ho, hr := ko.hash(f.seed), kr.hash(f.seed)
	if ko == kr || f.find(ho, &ko) != 0 || f.find(hr, &kr) != 0 {
		return false
	}
	to := e
	if !inPlace {
		free, ok := f.take()
		if !ok {
			return false
		}
		slot, to = free, &f.slots[free]
		to.copy(e)
	}
	to.packets, to.bytes = [2]uint16{}, [2]uint32{} // the process before has told what it knew
	to.acks[orig].Store(0)                          // a shortcut may have left them far behind
	to.acks[reply].Store(0)
	to.gen.Store(0)
	to.source.Store(f.sources.bucket(f.seed, ko.source().Addr()))
	f.link(slot, ho, hr)
	f.count(to, to.status.Load(), 1)
	return true
}

func (e *entry) copy(from *entry) {
	e.way, e.proto, e.flags, e.check, e.created = from.way, from.proto, from.flags, from.check, from.created
	e.seen.Store(from.seen.Load())
	e.acks[orig].Store(from.acks[orig].Load())
	e.acks[reply].Store(from.acks[reply].Load())
	e.status.Store(from.status.Load())
}

// recount rebuilds the pool of free slots: those below fresh that hold no flow.
func (f *flows) recount(fresh uint32, kept int) {
	f.room.fresh = fresh
	for slot := fresh; slot > 0; slot-- {
		if e := &f.slots[slot-1]; e.status.Load()&stateMask == free {
			e.next[0], f.room.list = f.room.list, slot
		}
	}
	f.room.used.Store(int64(kept))
}

// valid reports whether an entry can be a flow of this boot.
func (e *entry) valid(now uint32) bool {
	state := e.status.Load() & stateMask
	if state <= dying || state >= states || e.check != e.sum() || e.flags&^flagsKnown != 0 {
		return false
	}
	if seen := e.seen.Load(); seen > now+1 || e.created > seen {
		return false
	}
	if first := e.firstState(); state < first || state > lastState(first) {
		return false
	}
	v4 := e.way[orig].source().Addr().Is4()
	for _, a := range []netip.Addr{e.way[orig].destination().Addr(), e.way[reply].source().Addr(), e.way[reply].destination().Addr()} {
		if a.Is4() != v4 {
			return false
		}
	}
	switch e.proto {
	case packet.ProtoICMP:
		return v4
	case packet.ProtoICMPv6:
		return !v4
	}
	return true
}

// lastState is the end of the block of states that begins with first.
func lastState(first uint32) uint32 {
	switch first {
	case tcpSyn:
		return tcpReset
	case sctpNew:
		return sctpClosing
	}
	return first + 1
}
