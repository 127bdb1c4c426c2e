package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/table"
)

// established handles a packet of a flow. It reports false if the packet has no flow, or if its flow has just ended and
// the packet may open a new one.
func (b *Balancer) established(v *view, p *packet.Packet, k *conntrack.Key, in ingress) (packet.Verdict, bool) {
	e, ok := b.flows.Lookup(k)
	if !ok {
		return 0, false
	}
	if v.gen == 0 {
		e.Unlock()
		return b.drop(dropNoTable), true // restored flows wait for the first table
	}
	if _, shared := b.offloads.Of(e.Slot); shared != nil {
		b.foldOffload(v, e.Entry, shared)
	}
	status := e.Status()
	if e.Dir == conntrack.Original && status.Reopens(p) {
		e.Unlock()
		b.flows.End(e.Slot, status)
		return 0, false
	}
	if e.Generation() != v.gen {
		if !v.confirms(e.Entry) {
			return b.unconfirmed(v, p, &e, status)
		}
		e.Confirm(v.gen)
	}
	e.Touch(b.now())
	if before, after := b.flows.Advance(e.Entry, e.Dir, p); before != after {
		b.recordOutcome(v, e.Entry, e.Dir, before, after)
	}
	if e.Count(e.Dir, p.Length) {
		b.addToMeter(v, e.Entry, e.Dir)
	}
	to := e.Tuple(e.Dir.Opposite())
	if in == fromHost && b.offloads.Enabled() {
		b.renewOffload(v, &e)
	} else {
		e.Unlock()
	}
	return b.translate(v, p, to.Destination(), to.Source()), true
}

// confirms reports whether the table still has what the flow was opened for.
func (v *view) confirms(e *conntrack.Entry) bool {
	switch {
	case !v.hasSource(e):
		return false
	case e.Created() <= v.keepUntil:
		return true
	case e.Has(conntrack.FlagMasquerade):
		return v.IsExternal(e.Service().Addr())
	}
	f := v.Frontend(frontendKey(e))
	if f == nil {
		return false
	}
	if e.Proto() == packet.ProtoUDP {
		return f.Pool(e.Has(conntrack.FlagOutside)).Has(e.Backend())
	}
	return f.HasEndpoint(e.Backend())
}

// hasSource reports whether this node still has the source address that the backend sees.
func (v *view) hasSource(e *conntrack.Entry) bool {
	source := e.SourceAtBackend().Addr()
	return (!e.Has(conntrack.FlagSNAT) || source == v.Self().SNAT(model.FamilyOf(source))) &&
		(!e.Has(conntrack.FlagNodeSource) || v.IsNodeAddr(source))
}

// frontendKey is the key of the frontend that a flow was opened to.
func frontendKey(e *conntrack.Entry) table.Key {
	service := e.Service()
	return table.Key{Addr: service.Addr(), Port: service.Port(), Proto: e.Proto()}
}

// unconfirmed ends a flow whose backend or source address is no longer in the table, and unlocks it. The client's next
// datagram opens a new flow. Both ends of a connection are reset.
func (b *Balancer) unconfirmed(v *view, p *packet.Packet, e *conntrack.Locked, status conntrack.Status) (packet.Verdict, bool) {
	proto, dir, reset := e.Proto(), e.Dir, v.resetOtherEnd(e, p)
	e.Unlock()
	b.flows.End(e.Slot, status)
	b.sendReset(v, reset)
	switch {
	case proto == packet.ProtoTCP:
		b.counters.ended.Add(1)
		if dir == conntrack.Original && p.TCPFlags&(packet.SYN|packet.ACK) == packet.SYN {
			return 0, false
		}
		return b.reset(p, dropStale), true
	case dir == conntrack.Original:
		b.counters.ended.Add(1)
		return 0, false
	}
	return b.drop(dropStale), true
}

// translate rewrites a packet to its new source and destination. The ports of an ICMP echo are its identifier and zero.
func (b *Balancer) translate(v *view, p *packet.Packet, src, dst netip.AddrPort) packet.Verdict {
	if !p.HasPorts() {
		newID := src.Port() | dst.Port()
		if id, _, ok := p.Echo(); ok && id != newID {
			p.SetEcho(newID)
		}
		src, dst = netip.AddrPortFrom(src.Addr(), 0), netip.AddrPortFrom(dst.Addr(), 0)
	}
	if src != p.Source() && !p.SetSource(src) || dst != p.Destination() && !p.SetDestination(dst) {
		return b.drop(dropFamily)
	}
	return v.verdictFor(dst.Addr())
}
