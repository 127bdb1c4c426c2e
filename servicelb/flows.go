package servicelb

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// flows is the flow table: slots in (mapped) memory and an index over both tuples of each. Whoever looks at a linked
// entry holds the lock of the shard it came through; whoever wants to end a flow first makes its status dying by
// compare-and-swap, which gives it the slot alone, then unlinks it under both shards' locks. A packet takes one
// lock of shards, which are many more than cores.
type flows struct {
	slots   []entry
	seed    maphash.Seed
	heads   []uint32 // first reference of each bucket's chain
	mask    uint64
	shards  [shards]shard
	room    slotPool
	sources sourceCounts
	loads   [loadSlots]atomic.Int32   // flows per backend, by hash
	ended   func(slot, status uint32) // gets each flow that has ended and its last status, or nil
}

const shards = 512

// shard guards the buckets whose number ends in its own.
type shard struct {
	sync.Mutex
	_ [64 - unsafe.Sizeof(sync.Mutex{})]byte
}

// A reference names one way of a slot, plus one: zero ends a chain.
func refOf(slot uint32, way int) uint32            { return slot<<1 + uint32(way) + 1 }
func unref(ref uint32) (slot uint32, way int)      { return (ref - 1) >> 1, int(ref-1) & 1 }
func (f *flows) at(ref uint32) (e *entry, way int) { s, w := unref(ref); return &f.slots[s], w }

func newFlows(slots []entry) *flows {
	buckets := max(1<<bits.Len(uint(len(slots)+len(slots)/4)), shards)
	f := &flows{slots: slots, seed: maphash.MakeSeed(), heads: make([]uint32, buckets), mask: uint64(buckets - 1)}
	f.room.limit = uint32(len(slots))
	return f
}

func (f *flows) shard(h uint64) *shard { return &f.shards[h&f.mask&(shards-1)] }

// find walks a chain. The shard's lock is held.
func (f *flows) find(h uint64, k *key) (ref uint32) {
	for ref = f.heads[h&f.mask]; ref != 0; {
		e, way := f.at(ref)
		if e.way[way] == k.tuple && e.proto == k.proto && e.status.Load()&stateMask > dying {
			return ref
		}
		ref = e.next[way]
	}
	return 0
}

// lockBoth locks two shards in the one order that cannot deadlock.
func (f *flows) lockBoth(a, b uint64) {
	x, y := a&f.mask&(shards-1), b&f.mask&(shards-1)
	f.shards[min(x, y)].Lock()
	if x != y {
		f.shards[max(x, y)].Lock()
	}
}

func (f *flows) unlockBoth(a, b uint64) {
	f.shard(a).Unlock()
	if f.shard(a) != f.shard(b) {
		f.shard(b).Unlock()
	}
}

// outcome is what came of an insertion.
type outcome uint8

const (
	inserted  outcome = iota
	flowKnown         // somebody else was faster
	takenBack         // another flow has these answers
)

// birth is what a new flow starts from.
type birth struct {
	way      [2]tuple
	proto    uint8
	flags    uint8
	now, gen uint32
	source   uint32
	size     int // of its first packet, in bytes
}

// insert fills the slot, which the caller has from room, and links it, unless one of the tuples is taken.
func (f *flows) insert(slot uint32, n *birth) outcome {
	ko, kr := key{tuple: n.way[orig], proto: n.proto}, key{tuple: n.way[reply], proto: n.proto}
	ho, hr := ko.hash(f.seed), kr.hash(f.seed)
	f.lockBoth(ho, hr)
	defer f.unlockBoth(ho, hr)
	switch {
	case f.find(ho, &ko) != 0:
		return flowKnown
	case ko == kr || f.find(hr, &kr) != 0:
		return takenBack
	}
	e := &f.slots[slot]
	e.way, e.proto, e.flags, e.created = n.way, n.proto, n.flags, n.now
	e.check = e.sum()
	e.seen.Store(n.now)
	e.gen.Store(n.gen)
	e.source.Store(n.source)
	e.acks[orig].Store(0)
	e.acks[reply].Store(0)
	e.packets, e.bytes = [2]uint16{orig: 1}, [2]uint32{orig: uint32(n.size)}
	status := e.status.Load()&^(stateMask|stateBits) + life | e.firstState()
	f.link(slot, ho, hr)
	f.count(e, status, 1)
	e.status.Store(status)
	return inserted
}

func (f *flows) link(slot uint32, ho, hr uint64) {
	e := &f.slots[slot]
	for way, h := range [2]uint64{ho, hr} {
		head := &f.heads[h&f.mask]
		e.next[way], *head = *head, refOf(slot, way)
	}
}

// count keeps the sums that depend on the set of flows.
func (f *flows) count(e *entry, status uint32, by int32) {
	f.loads[loadSlot(e.proto, e.way[reply].source())].Add(by)
	f.sources.add(e.source.Load(), status, by)
}

// end removes the flow that has this slot and status, if it still is so.
func (f *flows) end(slot, status uint32) bool {
	e := &f.slots[slot]
	if status&stateMask <= dying || !e.status.CompareAndSwap(status, status&^stateMask|dying) {
		return false
	}
	ko, kr := e.key(orig), e.key(reply)
	ho, hr := ko.hash(f.seed), kr.hash(f.seed)
	f.lockBoth(ho, hr)
	f.unlink(ho, refOf(slot, orig))
	f.unlink(hr, refOf(slot, reply))
	f.unlockBoth(ho, hr)
	if f.ended != nil {
		f.ended(slot, status)
	}
	f.count(e, status, -1)
	e.status.Store(status &^ (stateMask | stateBits))
	f.give(slot)
	return true
}

func (f *flows) unlink(h uint64, ref uint32) {
	for link := &f.heads[h&f.mask]; *link != 0; {
		e, way := f.at(*link)
		if *link == ref {
			*link = e.next[way]
			return
		}
		link = &e.next[way]
	}
}
