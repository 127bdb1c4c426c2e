package pmtud

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/warrennet/warren/internal/packet"
)

// Echoes matches ICMP echo replies to outstanding requests. The zero value is ready; a nil Echoes matches nothing.
type Echoes struct {
	id   atomic.Uint32 // identifier of the requests with bit 16 set; 0 before the first
	mu   sync.Mutex
	seq  uint16
	to   [lateReplies]netip.Addr // where the last requests went, by sequence number
	wait map[uint16]chan struct{}
}

// used marks that Echoes has an identifier.
const used = 1 << 16

// lateReplies is the number of requests whose late replies are still recognised.
const lateReplies = 64

// begin returns identifier and sequence number of a request to an address, and the channel that receives its reply.
func (e *Echoes) begin(to netip.Addr) (id, seq uint16, answer chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.wait == nil {
		e.wait = map[uint16]chan struct{}{}
		e.id.Store(used | rand.Uint32N(used))
	}
	e.seq++
	answer = make(chan struct{}, 1)
	e.to[e.seq%lateReplies] = to
	e.wait[e.seq] = answer
	return uint16(e.id.Load()), e.seq, answer
}

func (e *Echoes) end(seq uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.wait, seq)
}

// Answered reports whether a packet from a peer is the reply to a probe or control; such a packet ends here. The reply comes
// from the address that was probed: no other node or Pod answers for it.
func (e *Echoes) Answered(pkt *packet.Packet) bool {
	if e == nil {
		return false
	}
	id, request, ok := pkt.Echo()
	if !ok || request || used|uint32(id) != e.id.Load() {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	seq := pkt.EchoSequence()
	if e.seq-seq >= lateReplies || pkt.Src != e.to[seq%lateReplies] {
		return false
	}
	select {
	case e.wait[seq] <- struct{}{}:
	default: // late, or a duplicate
	}
	return true
}
