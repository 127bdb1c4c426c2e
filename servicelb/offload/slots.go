package offload

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Slots assigns the program's slots to flows of the flow table. One slot serves one flow, in both directions.
//
// The life of a slot:
//
//	Reserve  one goroutine gets the right to assign a slot to the flow
//	Assign   a free slot is filled and both translations are written into the program's map; the State is not armed
//	Publish  the flow has the slot; the load balancer arms the State
//	Leave    the flow has ended or must not be offloaded: the State is disarmed
//	Reap     the slot is free again. This is two calls of Reap later, when no packet can be in the program with it
//
// mu is locked after a shard of the flow table, never before one. Only the packets of flows that get a slot wait for it.
type Slots struct {
	program *Program // nil: no flow is offloaded
	log     *slog.Logger
	pods    atomic.Pointer[map[netip.Addr]Pod]
	byFlow  []atomic.Uint32 // by slot of the flow table: the number of the offload slot plus one, or a mark; 0: none
	full    atomic.Bool     // no slot is free: packets need not lock mu to find that out

	mu      sync.Mutex
	slots   []Slot
	free    []uint32
	fresh   uint32 // slots from here on were never used
	used    int
	held    map[netip.Addr]int // slots of each client
	wanted  bool               // a client with fewer slots than others got none
	id      uint32             // of the last assignment
	owners  map[mapKey]uint32  // the slot that has last written a key of the program's map
	leaving []uint32           // slots disarmed since the last Reap
	left    []uint32           // slots disarmed before it
	refused bool               // the kernel has refused a flow, and that was logged
}

// Marks in byFlow, above every slot number.
const (
	firstMark = excluded
	excluded  = 1<<32 - 2 // see NotOffloadable
	reserved  = 1<<32 - 1 // a goroutine is about to assign a slot
)

// Slot is one offloaded flow. It does not change from Publish until Reap has freed it.
type Slot struct {
	Flow         uint32 // slot of the flow table
	Incarnation  uint32 // of that slot
	ID           uint32 // of the assignment; the State is armed with it
	Hash         uint64 // of the flow's original tuple
	Age          uint32 // ticks; for the caller's use
	client       netip.Addr
	proto        uint8
	translations [2]Translation
}

// mapKey is what the program's map finds one direction of a flow by.
type mapKey struct {
	in    Tuple
	link  int32
	proto uint8
}

func (s *Slot) key(direction int) mapKey {
	return mapKey{s.translations[direction].In, s.translations[direction].From.Link, s.proto}
}

// NewSlots returns the slots of a program, for a flow table with so many slots. Without a program no flow gets one.
func NewSlots(p *Program, flows int, log *slog.Logger) *Slots {
	s := &Slots{program: p, log: log}
	if p != nil {
		s.byFlow = make([]atomic.Uint32, flows)
		s.slots = make([]Slot, p.Size())
		s.owners, s.held = map[mapKey]uint32{}, map[netip.Addr]int{}
		s.pods.Store(&map[netip.Addr]Pod{})
	}
	return s
}

// Enabled reports whether there is a program.
func (s *Slots) Enabled() bool { return s.program != nil }

// Size returns how many flows there are slots for.
func (s *Slots) Size() int { return len(s.slots) }

// Pods returns the Pods that SetPods has set. The pointer is another one after each call of SetPods.
func (s *Slots) Pods() *map[netip.Addr]Pod { return s.pods.Load() }

// SetPods sets the interfaces of this node's Pods, by address. Flows that were excluded because a Pod was missing may get
// a slot again. flows bounds the slots of the flow table that were ever used.
func (s *Slots) SetPods(pods map[netip.Addr]Pod, flows uint32) {
	s.pods.Store(&pods)
	for flow := range flows {
		s.byFlow[flow].CompareAndSwap(excluded, 0)
	}
}

// DisarmAll stops the offload of all flows: their next packets go through the load balancer.
func (s *Slots) DisarmAll() {
	if s.program == nil {
		return
	}
	for i := range s.EverUsed() {
		if armed := &s.program.State(i).Armed; armed.Load() != 0 {
			armed.Store(0)
		}
	}
}

// EverUsed returns how many slots have ever been used: the part that a walk must visit.
func (s *Slots) EverUsed() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fresh
}

// Count returns the number of flows that have a slot.
func (s *Slots) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used - len(s.leaving) - len(s.left)
}

// Of returns the slot of a flow and the State that it shares with the program, or nil.
func (s *Slots) Of(flow uint32) (*Slot, *State) {
	if s.program == nil {
		return nil, nil
	}
	n := s.byFlow[flow].Load()
	if n == 0 || n >= firstMark {
		return nil, nil
	}
	return &s.slots[n-1], s.program.State(n - 1)
}

// IsArmed reports whether the program forwards a flow's packets now.
func (s *Slots) IsArmed(flow uint32) bool {
	_, st := s.Of(flow)
	return st != nil && st.Armed.Load() != 0
}

// Owner returns the flow of slot n and the hash of its tuple. The slot may be reassigned at any moment: Has confirms it
// once the flow is locked.
func (s *Slots) Owner(n uint32) (flow uint32, hash uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots[n].Flow, s.slots[n].Hash
}

// Has reports whether a flow has slot n.
func (s *Slots) Has(flow, n uint32) bool { return s.byFlow[flow].Load() == n+1 }

// Get returns slot n, of a flow that is locked and has it, and its State.
func (s *Slots) Get(n uint32) (*Slot, *State) { return &s.slots[n], s.program.State(n) }

// MayAssign reports whether a flow has neither a slot nor a mark and a slot may be free.
func (s *Slots) MayAssign(flow uint32) bool { return !s.full.Load() && s.byFlow[flow].Load() == 0 }

// Reserve gives the caller the right to assign a slot to a flow. It reports false if the flow has one, or a mark.
func (s *Slots) Reserve(flow uint32) bool { return s.byFlow[flow].CompareAndSwap(0, reserved) }

// Unreserve withdraws a reservation: another packet may try.
func (s *Slots) Unreserve(flow uint32) { s.byFlow[flow].CompareAndSwap(reserved, 0) }

// Exclude ends a reservation: the flow gets no slot until the next SetPods.
func (s *Slots) Exclude(flow uint32) { s.byFlow[flow].CompareAndSwap(reserved, excluded) }

// Publish ends a reservation: the flow has slot n. It reports false if the flow has ended meanwhile.
func (s *Slots) Publish(flow, n uint32) bool { return s.byFlow[flow].CompareAndSwap(reserved, n+1) }

// Candidate is a flow that may get a slot.
type Candidate struct {
	Flow, Incarnation uint32
	Proto             uint8
	Hash              uint64 // of the original tuple
	Original, Reply   Tuple  // as received
	Unanswered        bool   // the backend has not answered
}

// AssignResult is the result of Assign.
type AssignResult uint8

// The results.
const (
	Assigned       AssignResult = iota
	NoSlot                      // none is free for this flow now
	NotOffloadable              // an end is not a Pod of SetPods, the client has its share, or the kernel has refused the flow
)

// Assign fills a free slot for a reserved flow and writes both translations into the program's map.
func (s *Slots) Assign(c *Candidate) (n uint32, result AssignResult) {
	pods := *s.pods.Load()
	client, ok := pods[c.Original.source()]
	backend, too := pods[c.Reply.source()]
	if !ok || !too {
		return 0, NotOffloadable
	}
	slot := Slot{Flow: c.Flow, Incarnation: c.Incarnation, Hash: c.Hash, client: c.Original.source(), proto: c.Proto}
	slot.translations = [2]Translation{
		{In: c.Original, Out: c.Reply.swapped(), From: client, To: backend},
		{In: c.Reply, Out: c.Original.swapped(), From: backend, To: client},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hasShare(slot.client) {
		return 0, NotOffloadable
	}
	if n, ok = s.allocate(c.Unanswered); !ok {
		s.noSlot(slot.client)
		return 0, NoSlot
	}
	s.held[slot.client]++
	if s.id++; s.id == 0 { // zero means disarmed
		s.id++
	}
	slot.ID = s.id
	s.slots[n] = slot
	s.program.State(n).Reset()
	for direction := range slot.translations {
		s.owners[slot.key(direction)] = n
	}
	if err := s.program.Put(n, slot.ID, slot.proto, &slot.translations); err != nil {
		s.drop(slot.client)
		s.release(n)
		if !s.refused {
			s.refused = true
			s.log.Warn("kernel refused an offloaded flow; the agent forwards this flow and all that are refused later", "err", err)
		}
		return 0, NotOffloadable
	}
	return n, Assigned
}

// InPlace reports whether both Pods of a slot are still at the interfaces that the translations were made for.
func (s *Slot) InPlace(pods map[netip.Addr]Pod) bool {
	for i := range s.translations {
		if now, ok := pods[s.translations[i].In.source()]; !ok || now != s.translations[i].From {
			return false
		}
	}
	return true
}

// hasShare reports whether a client has its share of the slots, while they are scarce: as many as are free. A flow that gets
// none because of it is forwarded by the load balancer. mu is locked.
func (s *Slots) hasShare(client netip.Addr) bool {
	free := len(s.slots) - s.used
	return s.scarce() && free > 0 && s.held[client] >= free
}

// fair is the number of slots that each client has if all have the same. mu is locked.
func (s *Slots) fair() int { return len(s.slots) / (len(s.held) + 1) }

// noSlot notes that a client got none although it has less than the others. mu is locked.
func (s *Slots) noSlot(client netip.Addr) {
	if s.held[client] < s.fair() {
		s.wanted = true
	}
}

// Excess returns how many slots a client may keep because another one needs some, or false if none does. It resets that need.
func (s *Slots) Excess() (keep int, wanted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted, s.wanted = s.wanted, false
	return s.fair(), wanted
}

// HeldWith returns how many slots the client of slot n has.
func (s *Slots) HeldWith(n uint32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[s.slots[n].client]
}

// drop counts a slot that a client no longer has. mu is locked.
func (s *Slots) drop(client netip.Addr) {
	if s.held[client]--; s.held[client] <= 0 {
		delete(s.held, client)
	}
}

// allocate returns a free slot. The last quarter is for flows that have been answered. mu is locked.
func (s *Slots) allocate(unanswered bool) (n uint32, ok bool) {
	if unanswered && s.scarce() {
		return 0, false
	}
	if last := len(s.free) - 1; last >= 0 {
		n, s.free = s.free[last], s.free[:last]
	} else if s.fresh < uint32(len(s.slots)) {
		n = s.fresh
		s.fresh++
	} else {
		s.full.Store(true)
		return 0, false
	}
	s.used++
	return n, true
}

// scarce reports whether less than a quarter of the slots is free. mu is locked.
func (s *Slots) scarce() bool { return s.used*4 >= len(s.slots)*3 }

// Scarce reports whether less than a quarter of the slots is free.
func (s *Slots) Scarce() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scarce()
}

// Leave takes the slot from a flow. The flow's shard is locked, or the flow is no longer linked.
func (s *Slots) Leave(flow uint32) {
	if s.program == nil {
		return
	}
	if n := s.byFlow[flow].Swap(0); n != 0 && n < firstMark {
		s.Retire(n - 1)
	}
}

// Retire disarms a slot that no flow has.
func (s *Slots) Retire(n uint32) {
	s.program.State(n).Armed.Store(0)
	s.mu.Lock()
	s.drop(s.slots[n].client)
	s.leaving = append(s.leaving, n)
	s.mu.Unlock()
}

// Reap frees the slots that were disarmed before the last call, one by one so that packets of new flows wait only
// briefly for mu. Calls are so far apart that no packet is in the program with a slot that the last call has seen.
func (s *Slots) Reap() {
	for s.reapOne() {
	}
	s.mu.Lock()
	s.left, s.leaving = s.leaving, s.left
	s.mu.Unlock()
}

func (s *Slots) reapOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.left) - 1
	if last < 0 {
		return false
	}
	s.release(s.left[last])
	s.left = s.left[:last]
	return true
}

// release deletes the keys that a slot has written into the program's map, unless another slot has overwritten them, and
// frees the slot. mu is locked.
func (s *Slots) release(n uint32) {
	slot := &s.slots[n]
	for direction := range slot.translations {
		if k := slot.key(direction); s.owners[k] == n {
			delete(s.owners, k)
			s.program.Delete(slot.proto, &slot.translations[direction])
		}
	}
	s.free = append(s.free, n)
	s.used--
	s.full.Store(false)
}

// Empty reports whether no slot and no key of the program's map is in use. It is for tests.
func (s *Slots) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used == 0 && len(s.owners) == 0
}

// Full reports whether no slot is free, so that packets do not attempt to reserve one. It is for tests.
func (s *Slots) Full() bool { return s.full.Load() }

// Used returns the number of slots that are not free: those of flows, and those that wait for Reap. It is for tests.
func (s *Slots) Used() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}
