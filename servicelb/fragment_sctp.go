package servicelb

import (
	"encoding/binary"
	"sync"

	"github.com/warrennet/warren/internal/packet"
)

// sctpHeads holds first fragments of SCTP packets whose ports have changed.
//
// The checksum in the first fragment covers the whole packet, ports included (RFC 9260 section 6.8). How new ports change
// it depends only on the length of the packet, and the last fragment has the length. So the first fragment waits for the
// last one. The fragments between them are forwarded at once, because a receiver accepts fragments in any order.
// The number of held fragments is fixed, and their memory is reused.
type sctpHeads struct {
	mu   sync.Mutex
	list [32]sctpHead
}

type sctpHead struct {
	key     fragmentKey
	buf     []byte // translated except for the checksum
	l4      int
	changed uint32 // source and destination port, new XOR old
	to      packet.Verdict
	seen    uint32 // seconds; 0: free
}

// sctpPorts returns both ports of a first fragment of SCTP, or 0.
func sctpPorts(p *packet.Packet) uint32 {
	if p.Proto != packet.ProtoSCTP || !p.HasL4 {
		return 0
	}
	return binary.BigEndian.Uint32(p.Buf[p.L4:])
}

// holdFragment stores a first fragment until the last one arrives. It replaces the oldest one, which is dropped if it
// still waits.
func (b *Balancer) holdFragment(k *fragmentKey, p *packet.Packet, changed uint32, to packet.Verdict) packet.Verdict {
	if b.send.Load() == nil || p.Vnet.Flags&packet.NeedsCsum != 0 {
		return b.drop(dropFragment)
	}
	h := &b.sctpHeads
	h.mu.Lock()
	defer h.mu.Unlock()
	at := &h.list[0]
	for i := range h.list {
		if h.list[i].seen < at.seen {
			at = &h.list[i]
		}
	}
	if at.seen != 0 && b.now()-at.seen <= fragmentTimeout {
		b.counters.countDrop(dropFragment)
	}
	*at = sctpHead{key: *k, buf: append(at.buf[:0], p.Buf...), l4: p.L4, changed: changed, to: to, seen: b.now()}
	return packet.VerdictDrop // of the original; sendHeldFragment sends the copy
}

// sendHeldFragment sends the first fragment that waits for this last one.
func (b *Balancer) sendHeldFragment(k *fragmentKey, last *packet.Packet) {
	size, ok := last.FragmentSize()
	send := b.send.Load()
	if !ok || send == nil {
		return
	}
	h := &b.sctpHeads
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.list {
		x := &h.list[i]
		if x.seen == 0 || x.key != *k {
			continue
		}
		if b.now()-x.seen <= fragmentTimeout {
			packet.SCTPPortsChecksum(x.buf[x.l4:], x.changed, last.FragOff+size)
			(*send)(x.buf, x.to)
		}
		x.seen = 0
	}
}
