package servicelb

import (
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/offload"
)

// catchUp brings into the table what the path has seen of a flow. The way's shard is locked, or the flow is the caller's.
func (b *Balancer) catchUp(v *view, e *entry, st *offload.State) {
	moved := false
	for way := range 2 {
		if st.Packets[way].Load() == 0 {
			continue
		}
		moved = true
		b.meterOf(v, e.front()).carry(way, st.Packets[way].Swap(0), st.Bytes[way].Swap(0))
		if ack := st.Acks[way].Load(); ack != 0 {
			e.acks[way].Store(ack)
		}
	}
	if moved {
		e.seen.Store(b.now())
		b.fold(v, e, [2]uint32{st.Flags[orig].Swap(0), st.Flags[reply].Swap(0)})
	}
}

// fold moves a connection's state by the flags that each way has sent, step by step, as single packets would.
func (b *Balancer) fold(v *view, e *entry, flags [2]uint32) {
	for {
		before := e.status.Load()
		s := before & (stateMask | stateBits)
		way, next := nextState(s, flags)
		if next == s {
			return
		}
		if after := before&^(stateMask|stateBits) | next; e.status.CompareAndSwap(before, after) {
			b.moved(v, e, way, before, after)
		}
	}
}

// nextState is one step of a connection that has sent these flags, or none.
func nextState(s uint32, flags [2]uint32) (way int, next uint32) {
	const synAck = uint32(packet.SYN | packet.ACK)
	state := s & stateMask
	for way := range flags {
		if flags[way]&packet.RST != 0 && state >= tcpSyn && state < tcpClosing {
			return way, tcpReset | s&(bitFIN|bitFIN<<1)
		}
	}
	switch state {
	case tcpSyn:
		if flags[reply]&synAck == synAck {
			return reply, tcpAnswered
		}
		if flags[reply]&packet.ACK != 0 {
			return reply, tcpOpen
		}
	case tcpAnswered:
		if flags[orig]&packet.ACK != 0 {
			return orig, tcpOpen
		}
	case tcpOpen, tcpHalfClosed:
		for way := range flags {
			if flags[way]&packet.FIN != 0 && s&(bitFIN<<way) == 0 {
				return way, closing(s, way)
			}
		}
	}
	return orig, s
}

// watchOffloads is done at every tick.
func (b *Balancer) watchOffloads() {
	s := b.offloads
	if s.path == nil {
		return
	}
	s.mu.Lock()
	high, crowded := s.high, s.short()
	s.mu.Unlock()
	for n := range high {
		b.watchOffload(n, crowded)
	}
	s.reap()
}

func (b *Balancer) watchOffload(n uint32, crowded bool) {
	p, e, shard := b.holdPlace(n)
	if p == nil {
		return
	}
	defer shard.Unlock()
	b.catchUp(b.view.Load(), e, b.offloads.path.State(n))
	p.age++
	status := e.status.Load()
	unanswered := status&stateMask == tcpSyn && p.age > patientTicks
	idle := crowded && b.now()-e.seen.Load() > restless
	if unanswered || idle || !e.offloadable(status) {
		b.offloads.leave(p.slot)
	}
}
