package conntrack

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Table is the flow table: slots in (mapped) memory and an index over both tuples of each flow. It may be used by any
// number of goroutines.
//
// A goroutine that reads a linked entry holds the lock of the shard through which it was found. To end a flow, a
// goroutine first sets the status to stateEnding by compare-and-swap; this makes it the only owner of the slot. Then it
// unlinks the entry under the locks of both shards. A packet takes one of many shard locks.
type Table struct {
	slots   []Entry
	seed    maphash.Seed
	heads   []uint32 // first reference of each bucket's chain
	mask    uint64
	shards  [Shards]shard
	free    freeList
	clients clientCounts
	owners  []atomic.Uint32 // the Client of each slot, for reclaim, which locks no flow
	ports   portCounts
	loads   [loadSlots]atomic.Int32 // flows per backend, by hash
	ended   func(slot uint32, last Status)
	file    *flowFile
}

// Shards is the number of locks: many more than there are CPUs.
const Shards = 512

// shard guards the buckets whose number ends in its own.
type shard struct {
	sync.Mutex
	_ [64 - unsafe.Sizeof(sync.Mutex{})]byte // one cache line
}

// A reference names one direction of a slot, plus one: zero ends a chain.
func refOf(slot uint32, d Direction) uint32 { return slot<<1 + uint32(d) + 1 }

func splitRef(ref uint32) (slot uint32, d Direction) { return (ref - 1) >> 1, Direction((ref - 1) & 1) }

func newTable(slots []Entry, ended func(slot uint32, last Status)) *Table {
	buckets := max(1<<bits.Len(uint(len(slots)+len(slots)/4)), Shards)
	t := &Table{slots: slots, seed: maphash.MakeSeed(), heads: make([]uint32, buckets), mask: uint64(buckets - 1), ended: ended,
		owners: make([]atomic.Uint32, len(slots))}
	t.free.limit = uint32(len(slots))
	return t
}

// Capacity returns the number of slots.
func (t *Table) Capacity() int { return len(t.slots) }

// Len returns the number of flows, those that are being inserted or ended included.
func (t *Table) Len() int { return int(t.free.used.Load()) }

func (t *Table) shard(h uint64) *shard { return &t.shards[h&t.mask&(Shards-1)] }

// At returns the entry of a slot without a lock: only its atomic fields may be read, unless the caller owns the slot.
func (t *Table) At(slot uint32) *Entry { return &t.slots[slot] }

// Hash returns the hash of a key in this process.
func (t *Table) Hash(k *Key) uint64 { return k.hash(t.seed) }

// Locked is an entry with the lock of the shard through which it was found.
type Locked struct {
	*Entry
	Slot  uint32
	Dir   Direction // of the key that was looked up
	shard *shard
}

// Unlock releases the shard. The entry must not be used after it.
func (l *Locked) Unlock() { l.shard.Unlock() }

// Lookup finds the flow of a key and locks its shard. Without a flow nothing is locked.
func (t *Table) Lookup(k *Key) (l Locked, ok bool) {
	h := k.hash(t.seed)
	s := t.shard(h)
	s.Lock()
	ref := t.find(h, k)
	if ref == 0 {
		s.Unlock()
		return l, false
	}
	slot, d := splitRef(ref)
	return Locked{&t.slots[slot], slot, d, s}, true
}

// LockSlot locks the shard of one of the entry's tuples, by its hash. The entry may have ended, or belong to another
// flow: the caller compares its status.
func (t *Table) LockSlot(slot uint32, hash uint64) Locked {
	s := t.shard(hash)
	s.Lock()
	return Locked{&t.slots[slot], slot, Original, s}
}

// Peek copies the tuples of the flow that a key belongs to.
func (t *Table) Peek(k *Key) (tuples [2]Tuple, d Direction, ok bool) {
	l, ok := t.Lookup(k)
	if !ok {
		return tuples, 0, false
	}
	tuples, d = l.tuples, l.Dir
	l.Unlock()
	return tuples, d, true
}

// find walks a chain. The shard is locked.
func (t *Table) find(h uint64, k *Key) (ref uint32) {
	for ref = t.heads[h&t.mask]; ref != 0; {
		slot, d := splitRef(ref)
		e := &t.slots[slot]
		if e.tuples[d] == k.Tuple && e.proto == k.Proto && e.Status().Live() {
			return ref
		}
		ref = e.next[d]
	}
	return 0
}

// lockBoth locks two shards in ascending order, so that no two goroutines wait for each other.
func (t *Table) lockBoth(a, b uint64) {
	x, y := a&t.mask&(Shards-1), b&t.mask&(Shards-1)
	t.shards[min(x, y)].Lock()
	if x != y {
		t.shards[max(x, y)].Lock()
	}
}

func (t *Table) unlockBoth(a, b uint64) {
	t.shard(a).Unlock()
	if t.shard(a) != t.shard(b) {
		t.shard(b).Unlock()
	}
}

// InsertResult is the result of Insert.
type InsertResult uint8

// The results.
const (
	Inserted        InsertResult = iota
	FlowExists                   // another goroutine has inserted a flow with the original tuple
	ReplyTupleTaken              // another flow has the reply tuple
)

// NewFlow is what a flow starts from.
type NewFlow struct {
	Tuples     [2]Tuple
	Proto      uint8
	Flags      Flags
	Now        uint32 // seconds of CLOCK_BOOTTIME
	Generation uint32 // of the table of Services
	Client     Client
	Size       int // of the first packet, in bytes
}

// Insert fills a slot that Admit has returned and links it, unless one of the tuples belongs to another flow.
func (t *Table) Insert(slot uint32, n *NewFlow) InsertResult {
	original, reply := Key{Tuple: n.Tuples[Original], Proto: n.Proto}, Key{Tuple: n.Tuples[Reply], Proto: n.Proto}
	ho, hr := original.hash(t.seed), reply.hash(t.seed)
	t.lockBoth(ho, hr)
	defer t.unlockBoth(ho, hr)
	switch {
	case t.find(ho, &original) != 0:
		return FlowExists
	case original == reply || t.find(hr, &reply) != 0:
		return ReplyTupleTaken
	}
	e := &t.slots[slot]
	e.tuples, e.proto, e.flags, e.created = n.Tuples, n.Proto, n.Flags, n.Now
	e.check = e.checksum()
	e.seen.Store(n.Now)
	e.gen.Store(n.Generation)
	e.client = n.Client
	t.owners[slot].Store(uint32(n.Client))
	e.forgetSequence()
	e.traffic = [2]traffic{Original: onePacket + traffic(n.Size)}
	status := e.Status()&^(stateMask|bitsMask|bitOffloaded) + incarnation | Status(e.firstState())
	t.link(slot, ho, hr)
	t.addCounts(e, status, 1)
	e.status.Store(uint32(status))
	return Inserted
}

func (t *Table) link(slot uint32, ho, hr uint64) {
	e := &t.slots[slot]
	for d, h := range [2]uint64{ho, hr} {
		head := &t.heads[h&t.mask]
		e.next[d], *head = *head, refOf(slot, Direction(d))
	}
}

// addCounts updates the counters per client, per backend and of masquerade ports.
func (t *Table) addCounts(e *Entry, status Status, by int32) {
	t.loads[loadSlot(e.proto, e.tuples[Reply].Source())].Add(by)
	t.clients.add(e.Client(), status, by)
	if e.Has(FlagNodeSource) {
		t.addPort(e, by)
	}
}

// leaveHalfOpen updates the counters per client when a flow is answered.
func (t *Table) leaveHalfOpen(e *Entry, before, after Status) {
	if before.HalfOpen() && !after.HalfOpen() {
		t.clients.leaveHalfOpen(e.Client())
	}
}

// End removes the flow in a slot if it still has this status. No shard is locked.
func (t *Table) End(slot uint32, status Status) bool {
	e := &t.slots[slot]
	if !status.Live() || !e.status.CompareAndSwap(uint32(status), uint32(status.with(stateEnding))) {
		return false
	}
	original, reply := e.key(Original), e.key(Reply)
	ho, hr := original.hash(t.seed), reply.hash(t.seed)
	t.lockBoth(ho, hr)
	t.unlink(ho, refOf(slot, Original))
	t.unlink(hr, refOf(slot, Reply))
	t.unlockBoth(ho, hr)
	if t.ended != nil {
		t.ended(slot, status)
	}
	t.addCounts(e, status, -1)
	e.status.Store(uint32(status &^ (stateMask | bitsMask)))
	t.Release(slot)
	return true
}

func (t *Table) unlink(h uint64, ref uint32) {
	for link := &t.heads[h&t.mask]; *link != 0; {
		slot, d := splitRef(*link)
		e := &t.slots[slot]
		if *link == ref {
			*link = e.next[d]
			return
		}
		link = &e.next[d]
	}
}

// Load returns how many flows a backend has, or a little more.
func (t *Table) Load(proto uint8, backend netip.AddrPort) int32 {
	return t.loads[loadSlot(proto, backend)].Load()
}
