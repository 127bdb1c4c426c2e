package conntrack

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/warrennet/warren/servicelb/internal/stable"
)

// freeList hands out free slots: first those that were released, then those that were never used. The list is linked
// through the entries.
type freeList struct {
	mu    sync.Mutex
	first uint32 // first free slot plus one
	fresh uint32 // slots from here on were never used
	limit uint32
	used  atomic.Int64
	hand  atomic.Uint32 // where reclaim examines next
}

func (t *Table) allocate() (slot uint32, ok bool) {
	f := &t.free
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.first != 0:
		slot = f.first - 1
		f.first = t.slots[slot].next[0]
	case f.fresh < f.limit:
		slot = f.fresh
		f.fresh++
	default:
		return 0, false
	}
	f.used.Add(1)
	return slot, true
}

// Release returns a slot that Admit has returned and that holds no flow.
func (t *Table) Release(slot uint32) {
	f := &t.free
	f.mu.Lock()
	t.slots[slot].next[0], f.first = f.first, slot+1
	f.used.Add(-1)
	f.mu.Unlock()
}

// EverUsed returns how many slots have ever been used: the part of the table that a walk must visit.
func (t *Table) EverUsed() uint32 {
	t.free.mu.Lock()
	defer t.free.mu.Unlock()
	return t.free.fresh
}

// loadSlots is the number of counters for flows per backend. Backends that share a counter seem busier than they are,
// which makes least-connections a little less even and has no other effect. In exchange nothing is allocated or freed.
const loadSlots = 1 << 15

func loadSlot(proto uint8, b netip.AddrPort) uint32 {
	return uint32(stable.Hash(b.Addr(), uint64(b.Port())<<8|uint64(proto))) % loadSlots
}
