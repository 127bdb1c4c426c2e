package servicelb

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/stable"
	"github.com/warrennet/warren/servicelb/internal/table"
)

// newFlow handles the first packet of a flow to a frontend.
func (b *Balancer) newFlow(v *view, p *packet.Packet, k *conntrack.Key, f *table.Frontend, in ingress) packet.Verdict {
	c := v.clientKind(p.Src)
	// This node is admitted by any of its addresses: which one its packets have depends on routes.
	if !f.Admits(p.Src) && (c != clientNode && c != clientLoopback || !slices.ContainsFunc(v.Self().Addrs, f.Admits)) {
		return b.drop(dropSourceRange)
	}
	if p.Proto == packet.ProtoTCP && p.TCPFlags&(packet.SYN|packet.ACK|packet.RST|packet.FIN) != packet.SYN {
		return b.reset(p, dropNoFlow)
	}
	// Kubernetes treats a Pod as an internal client at node ports of its own node only.
	outside := c == clientExternal || c == clientRemotePod && f.Kind == table.KindNodePort
	pool := f.Pool(outside)
	if len(pool.Backends) == 0 {
		if pool.PolicyDrops {
			return b.drop(dropPolicy)
		}
		return b.reject(p, dropNoEndpoint)
	}
	backend := b.selectBackend(f, pool, p)
	if in == fromPeer && !v.isLocalBackend(backend.Addr) && v.balancedBefore(p.Src) {
		return b.drop(dropBalanced)
	}
	o := opening{in: in, kind: c, backend: backend.AddrPort()}
	o.Proto, o.Generation, o.Tuples[conntrack.Original] = p.Proto, v.gen, k.Tuple
	var ok bool
	if o.source, o.Flags, ok = v.sourceFor(c, p.Src, backend.Addr); !ok {
		return b.drop(dropNoSource)
	}
	if outside {
		o.Flags |= conntrack.FlagOutside
	}
	verdict := b.insert(v, p, &o)
	if verdict != packet.VerdictDrop {
		f.Meter.AddConnection()
	}
	return verdict
}

// balancedBefore reports whether the source of a packet from a peer shows that the sending node has selected this node as a
// backend: it is the SNAT address or an own address of that node. Pods reach node ports of other nodes with their own address,
// and the nodes' own packets to each other pass outside of the tunnel.
func (v *view) balancedBefore(src netip.Addr) bool { return v.IsPeerAddr(src) || v.IsPeerSNAT(src) }

func (v *view) isLocalBackend(a netip.Addr) bool { return v.IsNodeAddr(a) || v.IsLocalPod(a) }

// selectBackend selects the backend of a new flow. The pool is not empty.
func (b *Balancer) selectBackend(f *table.Frontend, pool *table.Pool, p *packet.Packet) table.Backend {
	if f.Affinity > 0 {
		return b.sessions.Choose(f, pool, p.Src, b.now())
	}
	n := uint32(len(pool.Backends))
	i, random := 0, rand.Uint64()
	switch f.Algorithm {
	case table.RoundRobin:
		i = int((pool.Turn.Add(1) - 1) % n)
	case table.LeastConnections:
		i = int(uint32(random) % n)
		j := int(uint32(random>>32) % n)
		if b.flows.Load(p.Proto, pool.Backends[j].AddrPort()) < b.flows.Load(p.Proto, pool.Backends[i].AddrPort()) {
			i = j
		}
	case table.Maglev:
		random = stable.Hash(p.Src, uint64(p.SrcPort))
		i = int(pool.Maglev[random%uint64(len(pool.Maglev))])
	default:
		i = int(uint32(random) % n)
	}
	return pool.Backends[pool.Select(i, random, b.now())]
}

// maxPortTries bounds the search for a source port that makes the reply tuple unique. In the second half of the tries a
// flow of a client that has more ports at the same destination is ended for it.
const maxPortTries = 128

// opening is a flow that is being opened: all but its slot and its source port are decided.
type opening struct {
	conntrack.NewFlow
	in      ingress
	kind    clientKind
	backend netip.AddrPort
	source  netip.Addr // that the backend sees
}

// insert finds a source port, inserts the flow and translates its first packet. The client's own port is preserved if the
// reply tuple is unique with it. A flow from a node address always has a masquerade port.
func (b *Balancer) insert(v *view, p *packet.Packet, o *opening) packet.Verdict {
	slot, reason := b.admit(v, p.Src, o)
	if reason != notDropped {
		return b.drop(reason)
	}
	ports, reason := b.portsFor(v, p, o)
	if reason != notDropped {
		b.flows.Release(slot)
		return b.drop(reason)
	}
	o.Size = p.Length
	port := ports.first
	for i := range maxPortTries {
		if slices.Contains(ports.reserved, port) {
			port = ports.random()
			continue
		}
		o.Tuples[conntrack.Reply] = replyTuple(p, o.backend, netip.AddrPortFrom(o.source, port))
		result := b.flows.Insert(slot, &o.NewFlow)
		if result == conntrack.ReplyTupleTaken && o.Flags&conntrack.FlagNodeSource != 0 && i >= maxPortTries/2 &&
			b.flows.SeizePort(&o.Tuples[conntrack.Reply], o.Proto, o.Client) {
			result = b.flows.Insert(slot, &o.NewFlow)
		}
		switch result {
		case conntrack.Inserted:
			return b.inserted(v, p, slot, o)
		case conntrack.FlowExists: // another packet of the flow was faster
			b.flows.Release(slot)
			k := conntrack.Key{Tuple: o.Tuples[conntrack.Original], Proto: o.Proto}
			if verdict, ok := b.established(v, p, &k, o.in); ok {
				return verdict
			}
			return b.drop(dropRace)
		}
		port = ports.random()
	}
	b.flows.Release(slot)
	return b.drop(dropNoPort)
}

// inserted translates the first packet of a flow.
func (b *Balancer) inserted(v *view, p *packet.Packet, slot uint32, o *opening) packet.Verdict {
	b.counters.opened.Add(1)
	if o.in == fromHost && p.Proto == packet.ProtoTCP {
		b.offloadNew(v, slot, &o.NewFlow)
	}
	to := &o.Tuples[conntrack.Reply]
	return b.translate(v, p, to.Destination(), to.Source())
}

// admit allocates a slot for a new flow.
func (b *Balancer) admit(v *view, client netip.Addr, o *opening) (slot uint32, reason dropReason) {
	o.Now, o.Client = b.now(), b.clientOf(v, client, o.kind)
	slot, result := b.flows.Admit(o.Client, o.Now)
	switch result {
	case conntrack.OverQuota:
		return 0, dropFlood
	case conntrack.TableFull:
		return 0, dropTableFull
	}
	return slot, notDropped
}

// clientOf returns who a flow of a client's address is accounted to. A Pod of this node and a node have an account each.
// The Pods of another node share one for each block, because that node could use any address of it. External IPv6 clients
// share one for each /64: a site has at least that prefix, so its addresses cost nothing.
func (b *Balancer) clientOf(v *view, a netip.Addr, kind clientKind) conntrack.Client {
	bits, verified := a.BitLen(), conntrack.Verified
	switch {
	case kind == clientRemotePod:
		bits = v.blockBits(a)
	case kind == clientExternal && !v.IsPeerAddr(a):
		verified = conntrack.Unverified
		if !a.Is4() {
			bits = 64
		}
	}
	if bits < a.BitLen() {
		if p, err := a.Prefix(bits); err == nil {
			a = p.Addr()
		}
	}
	return b.flows.Client(a, verified)
}

// blockBits returns the prefix length of the blocks of an address's family. It is the same at all nodes.
func (v *view) blockBits(a netip.Addr) int {
	for _, p := range v.Self().PodCIDRs {
		if p.Addr().Is4() == a.Is4() {
			return p.Bits()
		}
	}
	return a.BitLen()
}

// replyTuple is the tuple of the backend's replies. An echo reply has the identifier as its destination port only.
func replyTuple(p *packet.Packet, backend, src netip.AddrPort) conntrack.Tuple {
	if !p.HasPorts() {
		backend = netip.AddrPortFrom(backend.Addr(), 0)
	}
	return conntrack.TupleOf(backend, src)
}
