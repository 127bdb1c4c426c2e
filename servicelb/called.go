package servicelb

import (
	"net/netip"
	"sync"

	"github.com/warrennet/warren/internal/packet"
)

// calls remembers which address of this node a Pod of another node has called by UDP. A server that is bound to no address
// answers from the one that the route to the Pods prefers, which is the node's among them; the Pod waits for an answer from
// where it has called. It is a cache of fixed size: who floods it costs others at most that their answers come from the
// preferred address.
type calls struct{ sets [256]callSet }

type callSet struct {
	mu   sync.Mutex
	list [8]call
}

type callKey struct {
	pod       netip.Addr
	port, own uint16 // the Pod's port and this node's
}

type call struct {
	key  callKey
	to   netip.Addr
	seen uint32
}

func (c *calls) set(k *callKey) *callSet {
	return &c.sets[stable(k.pod, uint64(k.port)<<16|uint64(k.own))%uint64(len(c.sets))]
}

// remember notes a call in place of an older one of the same ports, else of the oldest.
func (c *calls) remember(n call) {
	s := c.set(&n.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := 0
	for i := range s.list {
		if s.list[i].key == n.key {
			at = i
			break
		}
		if s.list[i].seen < s.list[at].seen {
			at = i
		}
	}
	s.list[at] = n
}

// find returns the address that was called, and keeps it for as long as answers go on.
func (c *calls) find(k *callKey, now uint32) (to netip.Addr, ok bool) {
	s := c.set(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if n := &s.list[i]; n.key == *k && now-n.seen <= timeouts[udpOpen] {
			n.seen = now
			return n.to, true
		}
	}
	return to, false
}

// isCalled notes what a Pod of another node sends to a socket of this one.
func (b *Balancer) isCalled(v *view, p *packet.Packet) {
	if p.Proto == packet.ProtoUDP && p.HasL4 && v.local[p.Dst] && v.inPods(p.Src) {
		b.calls.remember(call{callKey{p.Src, p.SrcPort, p.DstPort}, p.Dst, b.now()})
	}
}

// answersAsCalled gives the host's answer to such a Pod the source that the Pod has called.
func (b *Balancer) answersAsCalled(v *view, p *packet.Packet) {
	if p.Proto != packet.ProtoUDP || !p.HasL4 || p.Src != v.self.podNet(p.Version == 4) {
		return
	}
	if to, ok := b.calls.find(&callKey{p.Dst, p.DstPort, p.SrcPort}, b.now()); ok && to != p.Src {
		p.SetSource(netip.AddrPortFrom(to, p.SrcPort))
	}
}
