package servicelb

import (
	"sync"

	"github.com/warrennet/warren/internal/packet"
)

// answerBuffers are where answers are built, before they replace the packet that they quote.
var answerBuffers = sync.Pool{New: func() any { return new([packet.MaxAnswer]byte) }}

// reset answers a TCP segment by a RST. Other packets, and RSTs, are dropped.
func (b *Balancer) reset(p *packet.Packet, reason dropReason) packet.Verdict {
	if !b.mayAnswer(p) {
		return b.drop(dropAnswerRate)
	}
	b.counters.countDrop(reason)
	buf := answerBuffers.Get().(*[packet.MaxAnswer]byte)
	defer answerBuffers.Put(buf)
	if p.Super() && len(p.Buf) < p.Length || !p.Become(p.AppendReset(buf[:0])) {
		return packet.VerdictDrop
	}
	return packet.VerdictReply
}

// reject answers as a host without a listener does: by a RST, or by port unreachable from the destination address.
func (b *Balancer) reject(p *packet.Packet, reason dropReason) packet.Verdict {
	if p.Proto == packet.ProtoTCP {
		return b.reset(p, reason)
	}
	return b.unreachable(p, packet.NoPort, reason)
}

func (b *Balancer) unreachable(p *packet.Packet, what packet.Unreachable, reason dropReason) packet.Verdict {
	if !b.mayAnswer(p) {
		return b.drop(dropAnswerRate)
	}
	b.counters.countDrop(reason)
	buf := answerBuffers.Get().(*[packet.MaxAnswer]byte)
	defer answerBuffers.Put(buf)
	if len(p.Buf) < p.Length || !p.Become(p.AppendUnreachable(buf[:0], p.Dst, what)) {
		return packet.VerdictDrop
	}
	return packet.VerdictReply
}

// noServicePort handles a packet to a Service address at which no frontend has its port.
func (b *Balancer) noServicePort(v *view, p *packet.Packet) packet.Verdict {
	_, request, echo := p.Echo()
	switch {
	case !p.HasL4:
		return b.drop(dropNoServicePort)
	case echo && request && v.HasService(p.Dst):
		return b.echoReply(p)
	case echo:
		return b.unreachable(p, packet.NoHost, dropNoService)
	case p.Proto == packet.ProtoICMP || p.Proto == packet.ProtoICMPv6:
		return b.drop(dropNoServicePort)
	}
	return b.reject(p, dropNoServicePort)
}
