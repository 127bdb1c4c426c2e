package servicelb

import (
	"net/netip"
	"sync/atomic"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// answersPerSecond is how many packets the balancer generates for one client in one second: RSTs, ICMP errors and echo
// replies. It is the rate that Linux limits its own ICMP errors to (icmp_msgs_per_sec).
const answersPerSecond = 1000

// answerLimit has the second (in the upper half) and the number of answers in it (in the lower half) of each client.
type answerLimit [conntrack.ClientBuckets]atomic.Uint64

// mayAnswer counts an answer to the sender of a packet, and reports whether it is within the client's rate. A sender
// without a rate would have the balancer work, and the answers compete with the packets of other clients.
func (b *Balancer) mayAnswer(p *packet.Packet) bool { return b.mayAnswerTo(p.Src) }

// mayAnswerTo does the same for an answer to a client.
func (b *Balancer) mayAnswerTo(client netip.Addr) bool {
	v := b.view.Load()
	slot := &b.answers[b.clientOf(v, client, v.clientKind(client)).Bucket()]
	second := uint64(b.now()) << 32
	for {
		was := slot.Load()
		next := was + 1
		switch {
		case was>>32<<32 != second:
			next = second | 1
		case uint32(was) >= answersPerSecond:
			return false
		}
		if slot.CompareAndSwap(was, next) {
			return true
		}
	}
}
