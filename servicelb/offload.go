package servicelb

import (
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/offload"
)

// A flow between two Pods of this node may be offloaded: the kernel translates its packets at the Pods' interfaces
// (package offload). The flow stays in the flow table and the load balancer remains in control:
//
//	assign   a connection gets an offload slot at its first packet, a UDP exchange at its third
//	fold     what the program has counted (packets, TCP flags, acknowledgements) is folded into the entry at every tick,
//	         and before the balancer decides about a packet of the flow that the program has passed on
//	confirm  whatever may change a verdict (another table, another Pod) disarms all slots at once. The slots of flows that
//	         the table still confirms are armed again. Both ends of the other connections are reset
//	leave    when the flow ends
//
// A slot is armed under the lock of the flow's shard, and disarmed again if the table has changed meanwhile, so that no
// outdated verdict survives.
//
// An offloaded flow keeps its slot while it lives, and restored flows get slots with the first table, without waiting for
// a packet. The reason is the host's own connection tracking. It does not see offloaded packets, considers a packet in
// the middle of the connection invalid, and the host may have a rule that drops such packets.

// offloadable reports whether flows of this kind can be offloaded: both ends use each other's own addresses, and more
// packets are expected than one answer.
func offloadable(flags conntrack.Flags, status conntrack.Status) bool {
	if flags&(conntrack.FlagMasquerade|conntrack.FlagSNAT|conntrack.FlagNodeSource) != 0 {
		return false
	}
	switch status.State() {
	case conntrack.TCPSyn, conntrack.TCPAnswered, conntrack.TCPOpen, conntrack.TCPHalfClosed, conntrack.UDPOpen:
		return true
	}
	return false
}

// renewOffload arms the slot of a flow that the table has just confirmed, or gives it a slot, and unlocks the flow.
func (b *Balancer) renewOffload(v *view, e *conntrack.Locked) {
	ok := offloadable(e.Flags(), e.Status())
	slot, shared := b.offloads.Of(e.Slot)
	switch {
	case slot == nil:
		if ok && b.offloads.MayAssign(e.Slot) && (e.Dir == conntrack.Original || e.Proto() != packet.ProtoUDP) {
			c := newCandidate(e.Slot, e.Status(), e.Tuples(), e.Proto())
			e.Unlock()
			b.assignSlot(v, &c)
			return
		}
	case !ok:
		b.offloads.Leave(e.Slot) // the flow is closing: the balancer must see every packet
	case shared.Armed.Load() == 0:
		b.arm(v, slot, shared)
	}
	e.Unlock()
}

// arm lets the program forward a flow, unless the table or the Pods have changed since the flow was confirmed. The flow
// is locked.
func (b *Balancer) arm(v *view, slot *offload.Slot, shared *offload.State) {
	pods := b.offloads.Pods()
	if !slot.InPlace(*pods) {
		b.offloads.Leave(slot.Flow)
		return
	}
	b.flows.At(slot.Flow).MarkOffloaded()
	shared.Armed.Store(slot.ID)
	if b.view.Load() != v || b.offloads.Pods() != pods {
		shared.Armed.Store(0)
	}
}

// newCandidate describes a flow to assign a slot to.
func newCandidate(flow uint32, status conntrack.Status, tuples [2]conntrack.Tuple, proto uint8) offload.Candidate {
	return offload.Candidate{Flow: flow, Incarnation: status.Incarnation(), Proto: proto, Unanswered: status.HalfOpen(),
		Original: offload.Tuple(tuples[conntrack.Original]), Reply: offload.Tuple(tuples[conntrack.Reply])}
}

// offloadNew assigns a slot to a flow that was just inserted.
func (b *Balancer) offloadNew(v *view, slot uint32, n *conntrack.NewFlow) {
	if status := b.flows.At(slot).Status(); b.offloads.Enabled() && offloadable(n.Flags, status) {
		c := newCandidate(slot, status, n.Tuples, n.Proto)
		b.assignSlot(v, &c)
	}
}

// assignSlot gives an offloadable flow a slot and arms it. No lock is held: the flow may end at any moment.
func (b *Balancer) assignSlot(v *view, c *offload.Candidate) {
	s := b.offloads
	if !s.Reserve(c.Flow) {
		return
	}
	k := conntrack.Key{Tuple: conntrack.Tuple(c.Original), Proto: c.Proto}
	c.Hash = b.flows.Hash(&k)
	n, result := s.Assign(c)
	switch result {
	case offload.NoSlot:
		s.Unreserve(c.Flow)
		return
	case offload.NotOffloadable:
		s.Exclude(c.Flow)
		return
	}
	e := b.flows.LockSlot(c.Flow, c.Hash)
	defer e.Unlock()
	if status := e.Status(); status.Incarnation() != c.Incarnation || !status.Live() {
		s.Unreserve(c.Flow)
		s.Retire(n)
		return
	}
	if !s.Publish(c.Flow, n) {
		s.Retire(n)
		return
	}
	if e.Generation() == v.gen {
		slot, shared := s.Get(n)
		b.arm(v, slot, shared)
	}
}

// foldOffload folds what the program has counted into the entry. The flow is locked, or has ended.
func (b *Balancer) foldOffload(v *view, e *conntrack.Entry, shared *offload.State) {
	seen := false
	for _, d := range [...]conntrack.Direction{conntrack.Original, conntrack.Reply} {
		if shared.Packets[d].Load() == 0 {
			continue
		}
		seen = true
		b.meterOf(v, frontendKey(e)).Add(int(d), shared.Packets[d].Swap(0), shared.Bytes[d].Swap(0))
		if ack := shared.Acks[d].Load(); ack != 0 {
			e.SetAck(d, ack)
		}
	}
	if !seen {
		return
	}
	e.Touch(b.now())
	flags := [2]uint32{shared.Flags[conntrack.Original].Swap(0), shared.Flags[conntrack.Reply].Swap(0)}
	for {
		d, before, after, moved := b.flows.AdvanceByFlags(e, flags)
		if !moved {
			return
		}
		b.recordOutcome(v, e, d, before, after)
	}
}
