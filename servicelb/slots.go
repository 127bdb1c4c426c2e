package servicelb

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
)

// slotPool hands out free slots: those given back first, then those never used. The list runs through the entries.
type slotPool struct {
	mu    sync.Mutex
	list  uint32 // first free slot plus one
	fresh uint32 // slots from here on were never used
	limit uint32
	used  atomic.Int64
	hand  atomic.Uint32 // where reclaim looks next
}

func (f *flows) take() (slot uint32, ok bool) {
	r := &f.room
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.list != 0:
		slot = r.list - 1
		r.list = f.slots[slot].next[0]
	case r.fresh < r.limit:
		slot = r.fresh
		r.fresh++
	default:
		return 0, false
	}
	r.used.Add(1)
	return slot, true
}

func (f *flows) give(slot uint32) {
	r := &f.room
	r.mu.Lock()
	f.slots[slot].next[0], r.list = r.list, slot+1
	r.used.Add(-1)
	r.mu.Unlock()
}

// ever returns how many slots have ever been used: the part worth walking.
func (f *flows) ever() uint32 {
	f.room.mu.Lock()
	defer f.room.mu.Unlock()
	return f.room.fresh
}

// sourceCounts tells how many flows each client has, by a hash of its address.
type sourceCounts [1 << 12]struct{ all, half atomic.Int32 }

func (s *sourceCounts) bucket(seed maphash.Seed, a netip.Addr) uint32 {
	b := a.As16()
	return uint32(maphash.Bytes(seed, b[:])) % uint32(len(s))
}

func (s *sourceCounts) add(bucket, status uint32, by int32) {
	c := &s[bucket%uint32(len(s))]
	c.all.Add(by)
	if halfOpen(status) {
		c.half.Add(by)
	}
}

// loadSlots is the number of counters for flows per backend. Backends that share one look busier than they are,
// which costs a little balance and nothing else; in exchange there is nothing to allocate or to clean up.
const loadSlots = 1 << 15

func loadSlot(proto uint8, b netip.AddrPort) uint32 {
	return uint32(stable(b.Addr(), uint64(b.Port())<<8|uint64(proto))) % loadSlots
}

// settle notes that a flow of that client is no longer half-open.
func (s *sourceCounts) settle(bucket uint32) { s[bucket%uint32(len(s))].half.Add(-1) }
