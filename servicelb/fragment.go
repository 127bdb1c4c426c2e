package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// pieces remembers what became of first fragments, so that the later ones, which carry no ports, follow them.
type pieces = recent[pieceKey, piece]

type pieceKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

type piece struct {
	src, dst netip.Addr
	verdict  packet.Verdict
}

// pieceTime is how many seconds a first fragment is remembered: as long as Linux reassembles.
const pieceTime = 30

func (k *pieceKey) hash() uint64 {
	return stable(k.src, uint64(k.id)<<8|uint64(k.proto)) ^ stable(k.dst, 1)
}

// fragment handles a packet that is a part of a larger one.
func (b *Balancer) fragment(v *view, p *packet.Packet, in from) packet.Verdict {
	k := pieceKey{p.Src, p.Dst, p.FragID, p.Proto}
	if p.FragOff == 0 {
		ports := portsOf(p)
		verdict := b.whole(v, p, in)
		if verdict != packet.VerdictPeer && verdict != packet.VerdictReflect {
			return verdict
		}
		b.pieces.put(k.hash(), k, piece{p.Src, p.Dst, verdict}, b.now())
		if ports ^= portsOf(p); ports != 0 {
			return b.holdHead(&k, p, ports, verdict)
		}
		return verdict
	}
	n, ok := b.pieces.get(k.hash(), k, b.now(), pieceTime)
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
