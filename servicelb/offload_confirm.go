package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/offload"
)

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
