package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/recent"
	"github.com/warrennet/warren/servicelb/internal/stable"
)

// fragmentCache stores the translation of first fragments. Later fragments have no ports and get the same translation.
type fragmentCache = recent.Cache[fragmentKey, fragmentTranslation]

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

type fragmentTranslation struct {
	src, dst netip.Addr
	verdict  packet.Verdict
}

// fragmentTimeout is how many seconds a first fragment is stored: Linux' net.ipv4.ipfrag_time.
const fragmentTimeout = 30

func (k *fragmentKey) hash() uint64 {
	return stable.Hash(k.src, uint64(k.id)<<8|uint64(k.proto)) ^ stable.Hash(k.dst, 1)
}

// fragment handles a fragment. A later fragment that arrives before the first one is dropped if it needs a translation.
func (b *Balancer) fragment(v *view, p *packet.Packet, in ingress) packet.Verdict {
	k := fragmentKey{p.Src, p.Dst, p.FragID, p.Proto}
	if p.FragOff == 0 {
		return b.firstFragment(v, p, &k, in)
	}
	t, ok := b.fragments.Get(k.hash(), k, b.now(), fragmentTimeout)
	if ok {
		if t.src != p.Src && !p.SetSource(netip.AddrPortFrom(t.src, 0)) ||
			t.dst != p.Dst && !p.SetDestination(netip.AddrPortFrom(t.dst, 0)) {
			return b.drop(dropFamily)
		}
		if p.Proto == packet.ProtoSCTP && !p.MoreFrags {
			b.sendHeldFragment(&k, p)
		}
		return t.verdict
	}
	if v.IsServiceAddr(p.Dst) || in == fromHost && v.IsNodeAddr(p.Dst) || v.leavesCluster(p) || p.Dst == v.Self().SNAT(familyOf(p)) {
		return b.drop(dropFragment)
	}
	return v.passThrough(p, in)
}

// firstFragment handles the fragment that has the ports. One of SCTP whose ports have changed is held.
func (b *Balancer) firstFragment(v *view, p *packet.Packet, k *fragmentKey, in ingress) packet.Verdict {
	before := sctpPorts(p)
	verdict := b.parsed(v, p, in)
	if verdict != packet.VerdictPeer && verdict != packet.VerdictReflect {
		return verdict
	}
	b.fragments.Put(k.hash(), *k, fragmentTranslation{p.Src, p.Dst, verdict}, b.now())
	if changed := before ^ sctpPorts(p); changed != 0 {
		if in == fromPeer && verdict == packet.VerdictPeer && !p.DecrementTTL() { // handle does not see the held fragment again
			return b.drop(dropTTL)
		}
		return b.holdFragment(k, p, changed, verdict)
	}
	return verdict
}
