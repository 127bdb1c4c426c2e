package conntrack

import (
	"log/slog"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// restore links the flows of a previous process. inPlace means that old is the table's own memory; otherwise the flows
// are copied. The previous process may have died at any instruction, so every entry is validated.
func (t *Table) restore(old []Entry, inPlace bool, now uint32, log *slog.Logger) {
	var restored, damaged int
	last := -1
	for i := range old {
		e := &old[i]
		status := e.Status()
		switch {
		case !status.Live():
		case !e.valid(now):
			damaged++
		case t.restoreEntry(e, uint32(i), inPlace):
			restored++
			last = i
			continue
		}
		if inPlace && status != 0 {
			e.status.Store(0)
		}
	}
	if inPlace {
		t.rebuildFreeList(uint32(last+1), restored)
	}
	if restored+damaged > 0 {
		log.Info("restored the flow table", "flows", restored, "dropped", damaged)
	}
}

// restoreEntry links one valid entry, unless an entry before it has one of its tuples.
func (t *Table) restoreEntry(e *Entry, slot uint32, inPlace bool) bool {
	original, reply := e.key(Original), e.key(Reply)
	ho, hr := original.hash(t.seed), reply.hash(t.seed)
	if original == reply || t.find(ho, &original) != 0 || t.find(hr, &reply) != 0 {
		return false
	}
	to := e
	if !inPlace {
		free, ok := t.allocate()
		if !ok {
			return false
		}
		slot, to = free, &t.slots[free]
		to.copyFrom(e)
	}
	to.traffic = [2]traffic{} // the previous process has counted these
	to.forgetOffload()
	to.gen.Store(0)
	verified := Verified
	if to.Has(FlagOutside) {
		verified = Unverified
	}
	to.client = t.Client(original.Source().Addr(), verified)
	t.owners[slot].Store(uint32(to.client))
	t.link(slot, ho, hr)
	t.addCounts(to, to.Status(), 1)
	return true
}

func (e *Entry) copyFrom(from *Entry) {
	e.tuples, e.proto, e.flags, e.check, e.created = from.tuples, from.proto, from.flags, from.check, from.created
	e.seen.Store(from.seen.Load())
	e.status.Store(from.status.Load())
	for d := range e.sent {
		e.sent[d].Store(from.sent[d].Load())
		e.acks[d].Store(from.acks[d].Load())
	}
}

// forgetOffload makes the sequence numbers of a restored flow unknown if it was offloaded: then they may be outdated. Those of
// other flows are still valid, because no packet passes without the process.
func (e *Entry) forgetOffload() {
	if s := e.Status(); s&bitOffloaded != 0 {
		e.forgetSequence()
		e.status.Store(uint32(s &^ bitOffloaded))
	}
}

// rebuildFreeList lists the free slots below fresh.
func (t *Table) rebuildFreeList(fresh uint32, used int) {
	t.free.fresh = fresh
	for slot := fresh; slot > 0; slot-- {
		if e := &t.slots[slot-1]; e.Status().State() == stateFree {
			e.next[0], t.free.first = t.free.first, slot
		}
	}
	t.free.used.Store(int64(used))
}

// valid reports whether an entry can be a flow of this boot.
func (e *Entry) valid(now uint32) bool {
	status := e.Status()
	state := status.State()
	if !status.Live() || state >= stateCount || e.check != e.checksum() || e.flags&^allFlags != 0 {
		return false
	}
	if seen := e.Seen(); seen > now+1 || e.created > seen {
		return false
	}
	if first := e.firstState(); state < first || state > lastState(first) {
		return false
	}
	v4 := e.tuples[Original].Source().Addr().Is4()
	for _, a := range []netip.Addr{e.Service().Addr(), e.Backend().Addr(), e.SourceAtBackend().Addr()} {
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
