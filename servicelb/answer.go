package servicelb

import (
	"sync"

	"github.com/warrennet/warren/internal/packet"
)

// rooms are where answers are built before they replace the packet that they quote.
var rooms = sync.Pool{New: func() any { return new([packet.MaxAnswer]byte) }}

// reset answers a TCP segment by RST; other packets, and RSTs, are dropped.
func (b *Balancer) reset(p *packet.Packet, why reason) packet.Verdict {
	b.counters.dropped[why].Add(1)
	room := rooms.Get().(*[packet.MaxAnswer]byte)
	defer rooms.Put(room)
	if p.Super() && len(p.Buf) < p.Length || !p.Become(p.AppendReset(room[:0])) {
		return packet.VerdictDrop
	}
	return packet.VerdictReply
}

// reject answers as a host without such a listener would: RST, or port unreachable from the address itself.
func (b *Balancer) reject(p *packet.Packet, why reason) packet.Verdict {
	if p.Proto == packet.ProtoTCP {
		return b.reset(p, why)
	}
	return b.unreachable(p, packet.NoPort, why)
}

func (b *Balancer) unreachable(p *packet.Packet, what packet.Unreachable, why reason) packet.Verdict {
	b.counters.dropped[why].Add(1)
	room := rooms.Get().(*[packet.MaxAnswer]byte)
	defer rooms.Put(room)
	if len(p.Buf) < p.Length || !p.Become(p.AppendUnreachable(room[:0], p.Dst, what)) {
		return packet.VerdictDrop
	}
	return packet.VerdictReply
}

// noService handles what is sent to a Service address but to no port of it.
func (b *Balancer) noService(v *view, p *packet.Packet) packet.Verdict {
	_, request, echo := p.Echo()
	switch {
	case !p.HasL4:
		return b.drop(dropNoPortOfService)
	case echo && request && v.vip(p.Dst):
		return b.pong(p)
	case echo:
		return b.unreachable(p, packet.NoHost, dropNoAddress)
	case p.Proto == packet.ProtoICMP || p.Proto == packet.ProtoICMPv6:
		return b.drop(dropNoPortOfService)
	}
	return b.reject(p, dropNoPortOfService)
}
