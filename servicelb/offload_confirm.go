package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/servicelb/offload"
)

// SetPods says by which interfaces the Pods of this node are reached, by address. Without a fast path it does nothing.
func (b *Balancer) SetPods(pods map[netip.Addr]offload.Pod) {
	if b.offloads.path == nil {
		return
	}
	b.set.Lock()
	defer b.set.Unlock()
	b.offloads.pods.Store(&pods)
	b.offloads.forgive(b.flows.ever())
	b.confirmOffloads()
}

// forgive lets flows whose Pods were not known when they began try again.
func (s *offloads) forgive(slots uint32) {
	for slot := range slots {
		s.of[slot].CompareAndSwap(unable, 0)
	}
}

// confirmOffloads compares all flows in the path with the table and the Pods. set is locked.
func (b *Balancer) confirmOffloads() {
	b.offloads.disarm()
	v := b.view.Load()
	for n := range b.offloads.everUsed() {
		b.confirmOffload(v, n)
	}
}

func (b *Balancer) confirmOffload(v *view, n uint32) {
	p, e, shard := b.holdPlace(n)
	if p == nil {
		return
	}
	st := b.offloads.path.State(n)
	b.catchUp(v, e, st)
	status := e.status.Load()
	if v.confirms(e) {
		e.gen.Store(v.gen)
		if e.offloadable(status) {
			b.arm(v, p, st)
		}
		shard.Unlock()
		return
	}
	b.offloads.leave(p.slot)
	ends := e.bothEnds()
	if len(ends) > 0 {
		e.status.CompareAndSwap(status, status&^(stateMask|stateBits)|tcpReset)
	}
	shard.Unlock()
	for _, f := range ends {
		b.tell(v, f)
	}
}

// holdPlace locks a shard of the living flow that has a place. The place is nil if there is none.
func (b *Balancer) holdPlace(n uint32) (p *place, e *entry, locked *shard) {
	s := b.offloads
	s.mu.Lock()
	slot, hash := s.places[n].slot, s.places[n].hash
	s.mu.Unlock()
	if s.of[slot].Load() != n+1 {
		return nil, nil, nil
	}
	shard := b.flows.shard(hash)
	shard.Lock()
	p, e = &s.places[n], &b.flows.slots[slot]
	status := e.status.Load()
	if s.of[slot].Load() != n+1 || status/life != p.life || status&stateMask <= dying { // whoever ends it takes it out
		shard.Unlock()
		return nil, nil, nil
	}
	return p, e, shard
}

// adopted are the flows of the process before that may have a place. No packet passes yet.
func (b *Balancer) adopted() (list []candidate) {
	if b.offloads.path == nil {
		return nil
	}
	pods := *b.offloads.pods.Load()
	for slot := range b.flows.ever() {
		e := &b.flows.slots[slot]
		status := e.status.Load()
		if status&stateMask <= dying || !offloadable(e.flags, status) || len(list) == b.offloads.path.Size() {
			continue
		}
		if _, ok := pods[e.way[orig].source().Addr()]; ok {
			list = append(list, e.candidate(slot, status))
		}
	}
	return list
}

// readmit gives adopted flows that the table confirms a place.
func (b *Balancer) readmit(v *view, list []candidate) {
	for _, c := range list {
		k := key{tuple: c.way[orig], proto: c.proto}
		h := k.hash(b.flows.seed)
		shard := b.flows.shard(h)
		shard.Lock()
		e := &b.flows.slots[c.slot]
		ok := b.flows.find(h, &k) == refOf(c.slot, orig) && v.confirms(e)
		if ok {
			e.gen.Store(v.gen)
		}
		shard.Unlock()
		if ok {
			b.take(v, c)
		}
	}
}
