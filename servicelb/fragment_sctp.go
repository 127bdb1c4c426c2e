package servicelb

import (
	"encoding/binary"
	"sync"

	"github.com/warrennet/warren/internal/packet"
)

// sctpHeads keeps first fragments of SCTP packets whose ports were changed. The checksum in there covers all of the packet,
// its ports included (RFC 9260 section 6.8). What other ports make of it depends on the packet's length and nothing else, and
// the last fragment tells that. So the first one waits for the last; those between them go on, for a receiver puts fragments
// together in any order. There are few at a time, and the memory of each is kept for the next one.
type sctpHeads struct {
	mu   sync.Mutex
	list [32]sctpHead
}

type sctpHead struct {
	key   pieceKey
	buf   []byte // translated but for the checksum
	l4    int
	ports uint32 // source and destination port, by exclusive or with those before
	to    packet.Verdict
	seen  uint32 // 0: none is here
}

// portsOf are both ports of a first fragment of SCTP.
func portsOf(p *packet.Packet) uint32 {
	if p.Proto != packet.ProtoSCTP || !p.HasL4 {
		return 0
	}
	return binary.BigEndian.Uint32(p.Buf[p.L4:])
}

// holdHead keeps a first fragment until the last one comes, in place of the oldest.
func (b *Balancer) holdHead(k *pieceKey, p *packet.Packet, ports uint32, to packet.Verdict) packet.Verdict {
	if b.sender.Load() == nil || p.Vnet.Flags&packet.NeedsCsum != 0 {
		return b.drop(dropFragment)
	}
	h := &b.heads
	h.mu.Lock()
	defer h.mu.Unlock()
	at := &h.list[0]
	for i := range h.list {
		if h.list[i].seen < at.seen {
			at = &h.list[i]
		}
	}
	if at.seen != 0 && b.now()-at.seen <= pieceTime {
		b.drop(dropFragment)
	}
	*at = sctpHead{key: *k, buf: append(at.buf[:0], p.Buf...), l4: p.L4, ports: ports, to: to, seen: b.now()}
	return packet.VerdictDrop // for now
}

// sendHead sends the first fragment to which this one is the last.
func (b *Balancer) sendHead(k *pieceKey, last *packet.Packet) {
	size, ok := last.FragmentSize()
	send := b.sender.Load()
	if !ok || send == nil {
		return
	}
	h := &b.heads
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.list {
		x := &h.list[i]
		if x.seen == 0 || x.key != *k {
			continue
		}
		if b.now()-x.seen <= pieceTime {
			packet.SCTPPortsChecksum(x.buf[x.l4:], x.ports, last.FragOff+size)
			(*send)(x.buf, x.to)
		}
		x.seen = 0
	}
}
