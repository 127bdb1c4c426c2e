package servicelb

import (
	"net/netip"
	"sync"

	"github.com/warrennet/warren/internal/packet"
)

// pieces remembers what became of first fragments, so that the later ones, which carry no ports, follow them. It is a
// cache of fixed size: a flood of first fragments costs others at most their own fragmented datagrams.
type pieces struct{ sets [256]pieceSet }

type pieceSet struct {
	mu   sync.Mutex
	list [8]piece
}

type pieceKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

type piece struct {
	key      pieceKey
	src, dst netip.Addr
	verdict  Verdict
	seen     uint32
}

// pieceTime is how many seconds a first fragment is remembered: as long as Linux reassembles.
const pieceTime = 30

func (c *pieces) set(k *pieceKey) *pieceSet {
	h := stable(k.src, uint64(k.id)<<8|uint64(k.proto)) ^ stable(k.dst, 1)
	return &c.sets[h%uint64(len(c.sets))]
}

// remember notes where the first fragment went, in place of the oldest note.
func (c *pieces) remember(n piece) {
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

func (c *pieces) find(k *pieceKey, now uint32) (n piece, ok bool) {
	s := c.set(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if s.list[i].key == *k && now-s.list[i].seen <= pieceTime {
			return s.list[i], true
		}
	}
	return n, false
}

// fragment handles a packet that is a part of a larger one.
func (b *Balancer) fragment(v *view, p *packet.Packet, in from) Verdict {
	k := pieceKey{p.Src, p.Dst, p.FragID, p.Proto}
	if p.FragOff == 0 {
		ports := portsOf(p)
		verdict := b.whole(v, p, in)
		if verdict != Peer && verdict != Reflect {
			return verdict
		}
		b.pieces.remember(piece{k, p.Src, p.Dst, verdict, b.now()})
		if ports ^= portsOf(p); ports != 0 {
			return b.holdHead(&k, p, ports, verdict)
		}
		return verdict
	}
	n, ok := b.pieces.find(&k, b.now())
	if ok {
		if n.src != p.Src && !p.SetSource(netip.AddrPortFrom(n.src, 0)) || n.dst != p.Dst && !p.SetDestination(netip.AddrPortFrom(n.dst, 0)) {
			return b.drop(dropFamily)
		}
		if p.Proto == packet.ProtoSCTP && !p.MoreFrags {
			b.sendHead(&k, p)
		}
		return n.verdict
	}
	if v.serviceAddr(p.Dst) || in == fromHost && v.local[p.Dst] || v.leaves(p) || p.Dst == v.self.snat(p.Version == 4) {
		return b.drop(dropFragment)
	}
	return in.pass(v, p)
}
