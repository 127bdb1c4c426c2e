package servicelb

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/packet"
)

// client is what sort of sender a packet to a Service has.
type client uint8

const (
	clientPod      client = iota // of this node
	clientFar                    // a Pod of another node
	clientNode                   // this node itself
	clientLoopback               // this node itself, by 127.0.0.0/8
	clientOutside
)

func (t *Table) client(a netip.Addr) client {
	switch {
	case a.IsLoopback():
		return clientLoopback
	case t.local[a]:
		return clientNode
	case t.here(a):
		return clientPod
	case t.inPods(a):
		return clientFar
	}
	return clientOutside
}

// open starts a flow to a frontend, or says why not.
func (b *Balancer) open(v *view, p *packet.Packet, k *key, f *frontend, in from) packet.Verdict {
	c := v.client(p.Src)
	if c == clientOutside && (!f.admits(p.Src) || f.kind == kindCluster && v.self.ClusterOnly) {
		return b.drop(dropSourceRange)
	}
	if p.Proto == packet.ProtoTCP && p.TCPFlags&(packet.SYN|packet.ACK|packet.RST|packet.FIN) != packet.SYN {
		return b.reset(p, dropNoFlow)
	}
	// Kubernetes counts a Pod as inside at its own node's ports only: at another node's it stands outside.
	outside := c == clientOutside || c == clientFar && f.kind == kindNodePort
	pool := f.pool(outside)
	if len(pool.backends) == 0 {
		if pool.drop {
			return b.drop(dropPolicy)
		}
		return b.reject(p, dropNoEndpoint)
	}
	back := b.choose(f, pool, p)
	n := birth{proto: p.Proto, gen: v.gen}
	if outside {
		n.flags = flagOutside
	}
	src, how, ok := v.sourceFor(c, p.Src, back.addr)
	if !ok {
		return b.drop(dropNoSource)
	}
	n.flags |= how
	n.way[orig] = k.tuple
	verdict := b.bind(v, p, k, &n, back.addrPort(), src, in)
	if verdict != packet.VerdictDrop {
		f.meter.open()
	}
	return verdict
}

// admits applies loadBalancerSourceRanges.
func (f *frontend) admits(a netip.Addr) bool {
	return f.kind != kindExternal || len(f.sources) == 0 || within(f.sources, a)
}

// sourceFor decides whose address a backend sees (DESIGN.md, section 2), and how that is remembered.
func (t *Table) sourceFor(c client, from, back netip.Addr) (src netip.Addr, how uint8, ok bool) {
	keep := false
	switch own := t.local[back]; {
	case !own && !t.inPods(back) && !t.peers[back]:
		src = t.nodeAddr(back)
		return src, flagNodeSource, src.IsValid()
	case c == clientPod:
		keep = from != back
	case c == clientNode:
		keep = t.remote(back)
	case c == clientFar || c == clientOutside:
		keep = t.here(back) && !own
	}
	if keep {
		return from, 0, true
	}
	src = t.self.snat(back.Is4())
	return src, flagSNAT, src.IsValid()
}

// nodeAddr is the address that stands for this node towards a destination outside of the cluster.
func (t *Table) nodeAddr(to netip.Addr) netip.Addr {
	for i := range t.self.Sources {
		if s := &t.self.Sources[i]; s.To.Contains(to) {
			return s.From
		}
	}
	v4 := to.Is4()
	for _, a := range t.self.Addrs {
		if a.Is4() == v4 && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return a
		}
	}
	return netip.Addr{}
}

// Tries bounds the search for a port that makes the answers' tuple unique.
const tries = 128

// bind finds a source port, enters the flow and sends its first packet. The client's own port is kept if the answers
// can be told apart; what leaves by a node address takes its port from the masquerade range.
func (b *Balancer) bind(v *view, p *packet.Packet, k *key, n *birth, back netip.AddrPort, src netip.Addr, in from) packet.Verdict {
	slot, why := b.admit(v, p.Src, n)
	if why != 0 {
		return b.drop(why)
	}
	ports, spare := &portRange{1024, 65535}, []uint16(nil)
	port := k.sport
	if n.flags&flagNodeSource != 0 {
		ports, spare = (*portRange)(&v.self.MasqueradePorts), v.self.Spared
		port = ports.random()
	}
	if ports[0] == 0 || ports[1] < ports[0] {
		b.flows.give(slot)
		return b.drop(dropNoSource)
	}
	n.size = p.Length
	for range tries {
		if slices.Contains(spare, port) {
			port = ports.random()
			continue
		}
		n.way[reply] = b.answers(p, back, netip.AddrPortFrom(src, port))
		switch b.flows.insert(slot, n) {
		case inserted:
			b.counters.opened.Add(1)
			to := &n.way[reply]
			if in == fromHost && p.Proto == packet.ProtoTCP {
				b.take(v, candidate{slot, b.flows.slots[slot].status.Load(), n.way, n.proto, n.flags})
			}
			return b.send(v, p, to.destination(), to.source(), in)
		case flowKnown:
			b.flows.give(slot)
			if verdict, known := b.known(v, p, k, in); known {
				return verdict
			}
			return b.drop(dropRace)
		}
		port = ports.random()
	}
	b.flows.give(slot)
	return b.drop(dropNoPort)
}

// answers is the tuple that replies will have. An echo reply has the identifier as its destination port alone.
func (b *Balancer) answers(p *packet.Packet, back, src netip.AddrPort) tuple {
	if !p.HasPorts() {
		back = netip.AddrPortFrom(back.Addr(), 0)
	}
	return tupleOf(back, src)
}

// portRange is a range of ports, both ends included.
type portRange [2]uint16

func (r *portRange) random() uint16 {
	if r[0] == 0 || r[1] < r[0] {
		return 0
	}
	return r[0] + uint16(rand.Uint32N(uint32(r[1]-r[0])+1))
}
