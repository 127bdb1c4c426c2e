package servicelb

import (
	"net/netip"

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

// A slot is taken from a connection that has no answer after this many ticks. While slots are scarce it is also taken from
// flows that have been idle for this many seconds.
const (
	unansweredTicks = 8
	idleSeconds     = 30
)

// watchOffloads folds all offloaded flows and frees slots. Run calls it at every tick.
func (b *Balancer) watchOffloads() {
	s := b.offloads
	if !s.Enabled() {
		return
	}
	scarce := s.Scarce()
	for n := range s.EverUsed() {
		b.watchOffload(n, scarce)
	}
	s.Reap()
}

func (b *Balancer) watchOffload(n uint32, scarce bool) {
	slot, shared, e := b.lockOffloaded(n)
	if slot == nil {
		return
	}
	defer e.Unlock()
	b.foldOffload(b.view.Load(), e.Entry, shared)
	slot.Age++
	status := e.Status()
	unanswered := status.State() == conntrack.TCPSyn && slot.Age > unansweredTicks
	idle := scarce && b.now()-e.Seen() > idleSeconds
	if unanswered || idle || !offloadable(e.Flags(), status) {
		b.offloads.Leave(slot.Flow)
	}
}

// lockOffloaded locks the flow that has slot n. The slot is nil, and nothing locked, if no live flow has it.
func (b *Balancer) lockOffloaded(n uint32) (slot *offload.Slot, shared *offload.State, e conntrack.Locked) {
	s := b.offloads
	flow, hash := s.Owner(n)
	if !s.Has(flow, n) {
		return nil, nil, e
	}
	e = b.flows.LockSlot(flow, hash)
	slot, shared = s.Get(n)
	status := e.Status()
	if !s.Has(flow, n) || status.Incarnation() != slot.Incarnation || !status.Live() { // who ends the flow takes the slot
		e.Unlock()
		return nil, nil, e
	}
	return slot, shared, e
}

// SetPods sets the interfaces of this node's Pods, by address. Without offload it does nothing.
func (b *Balancer) SetPods(pods map[netip.Addr]offload.Pod) {
	if !b.offloads.Enabled() {
		return
	}
	b.setting.Lock()
	defer b.setting.Unlock()
	b.offloads.SetPods(pods, b.flows.EverUsed())
	b.confirmOffloads()
}

// confirmOffloads compares all offloaded flows with the table and the Pods. setting is locked.
func (b *Balancer) confirmOffloads() {
	b.offloads.DisarmAll()
	v := b.view.Load()
	for n := range b.offloads.EverUsed() {
		b.confirmOffload(v, n)
	}
}

func (b *Balancer) confirmOffload(v *view, n uint32) {
	slot, shared, e := b.lockOffloaded(n)
	if slot == nil {
		return
	}
	b.foldOffload(v, e.Entry, shared)
	status := e.Status()
	if v.confirms(e.Entry) {
		e.Confirm(v.gen)
		if offloadable(e.Flags(), status) {
			b.arm(v, slot, shared)
		}
		e.Unlock()
		return
	}
	b.offloads.Leave(slot.Flow)
	resets := resetBothEnds(e.Entry)
	if len(resets) > 0 {
		e.MarkReset(status)
	}
	e.Unlock()
	for _, r := range resets {
		b.sendReset(v, r)
	}
}

// restoredFlow is a flow of the previous process that may get a slot.
type restoredFlow struct {
	offload.Candidate
	key conntrack.Key
}

// restoredFlows lists the restored flows that may get slots. No packet passes yet.
func (b *Balancer) restoredFlows() (list []restoredFlow) {
	if !b.offloads.Enabled() {
		return nil
	}
	pods := *b.offloads.Pods()
	for slot := range b.flows.EverUsed() {
		e := b.flows.At(slot)
		status := e.Status()
		if !status.Live() || !offloadable(e.Flags(), status) || len(list) == b.offloads.Size() {
			continue
		}
		original := e.Tuple(conntrack.Original)
		if _, ok := pods[original.Source().Addr()]; ok {
			k := conntrack.Key{Tuple: original, Proto: e.Proto()}
			list = append(list, restoredFlow{newCandidate(slot, status, e.Tuples(), e.Proto()), k})
		}
	}
	return list
}

// offloadRestored gives slots to the restored flows that the table confirms.
func (b *Balancer) offloadRestored(v *view, list []restoredFlow) {
	for i := range list {
		r := &list[i]
		e, ok := b.flows.Lookup(&r.key)
		if !ok {
			continue
		}
		ok = e.Slot == r.Flow && e.Dir == conntrack.Original && v.confirms(e.Entry)
		if ok {
			e.Confirm(v.gen)
		}
		e.Unlock()
		if ok {
			b.assignSlot(v, &r.Candidate)
		}
	}
}
