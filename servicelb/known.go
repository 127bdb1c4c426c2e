package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// known handles a packet of a flow. The second result is false if there is none, or none any more.
func (b *Balancer) known(v *view, p *packet.Packet, k *key, in from) (packet.Verdict, bool) {
	f := b.flows
	h := k.hash(f.seed)
	s := f.shard(h)
	s.Lock()
	ref := f.find(h, k)
	if ref == 0 {
		s.Unlock()
		return 0, false
	}
	if v.gen == 0 {
		s.Unlock()
		return b.drop(dropNoTable), true // adopted flows wait for the first table
	}
	e, way := f.at(ref)
	slot, _ := unref(ref)
	if p, st := b.offloads.place(slot); p != nil {
		b.catchUp(v, e, st)
	}
	status := e.status.Load()
	if way == orig && reopens(status, p) {
		s.Unlock()
		f.end(slot, status)
		return 0, false
	}
	if e.gen.Load() != v.gen {
		if !v.confirms(e) {
			proto, other := e.proto, v.otherEnd(e, way, p)
			s.Unlock()
			f.end(slot, status)
			b.tell(v, other)
			return b.orphan(p, proto, way)
		}
		e.gen.Store(v.gen)
	}
	if now := b.now(); e.seen.Load() != now {
		e.seen.Store(now)
	}
	if before, after := e.advance(way, p); before != after {
		b.moved(v, e, way, before, after)
	}
	if e.carry(way, p.Length) {
		b.credit(v, e, way)
	}
	to := e.way[1-way]
	take := in == fromHost && b.renew(v, e, slot, way)
	var c candidate
	if take {
		c = e.candidate(slot, e.status.Load())
	}
	s.Unlock()
	if take {
		b.take(v, c)
	}
	return b.send(v, p, to.destination(), to.source(), in), true
}

// reopens reports whether a packet starts a new connection where an old one has ended.
func reopens(status uint32, p *packet.Packet) bool {
	switch status & stateMask {
	case tcpHalfClosed, tcpClosing, tcpReset:
		return p.TCPFlags&(packet.SYN|packet.ACK) == packet.SYN
	case sctpClosing:
		return true
	}
	return false
}

// confirms reports whether the table still has what the flow was opened for.
func (v *view) confirms(e *entry) bool {
	switch {
	case !v.speaksAs(e):
		return false
	case e.created <= v.since:
		return true
	case e.flags&flagMasquerade != 0:
		return v.world(e.way[orig].destination().Addr())
	}
	f := v.front(e.front())
	if f == nil {
		return false
	}
	back := e.way[reply].source()
	if e.proto == packet.ProtoUDP {
		return f.pool(e.flags&flagOutside != 0).has(back)
	}
	return f.knows(back)
}

// orphan handles a packet whose flow has lost its backend: a datagram of the client is balanced anew, a connection
// is told that it is over.
func (b *Balancer) orphan(p *packet.Packet, proto uint8, way int) (packet.Verdict, bool) {
	switch {
	case proto == packet.ProtoTCP:
		b.counters.ended.Add(1)
		if way == orig && p.TCPFlags&(packet.SYN|packet.ACK) == packet.SYN {
			return 0, false
		}
		return b.reset(p, dropStale), true
	case way == orig:
		b.counters.ended.Add(1)
		return 0, false
	}
	return b.drop(dropStale), true
}

// send rewrites a packet and says where it goes.
func (b *Balancer) send(v *view, p *packet.Packet, src, dst netip.AddrPort, in from) packet.Verdict {
	if !p.HasPorts() {
		if id, _, ok := p.Echo(); ok && id != src.Port()|dst.Port() {
			p.SetEcho(src.Port() | dst.Port()) // the other one is zero
		}
		src, dst = netip.AddrPortFrom(src.Addr(), 0), netip.AddrPortFrom(dst.Addr(), 0)
	}
	if src != p.Source() && !p.SetSource(src) || dst != p.Destination() && !p.SetDestination(dst) {
		return b.drop(dropFamily)
	}
	return v.toward(dst.Addr())
}
