package servicelb

import (
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/offload"
)

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
	keep, wanted := s.Excess()
	for n := range s.EverUsed() {
		b.watchOffload(n, scarce)
		if wanted && s.HeldWith(n) > keep {
			b.yieldOffload(n)
		}
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

// yieldOffload takes the slot from a flow whose client has more than its share. The agent forwards the flow from then on.
func (b *Balancer) yieldOffload(n uint32) {
	slot, shared, e := b.lockOffloaded(n)
	if slot == nil {
		return
	}
	defer e.Unlock()
	b.foldOffload(b.view.Load(), e.Entry, shared)
	b.offloads.Leave(slot.Flow)
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
