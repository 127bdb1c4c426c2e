package table

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
	"github.com/warrennet/warren/internal/ownership"
)

// RefusedEndpoint is an endpoint that is not used because a packet to it would be load-balanced a second time.
type RefusedEndpoint struct {
	Service  model.ObjectName
	Endpoint netip.AddrPort
	Reason   string
}

// The reasons.
const (
	refusedService  = "is an address of a Service"
	refusedNodePort = "is a node port of a Service"
)

// balanced is what the load balancer itself serves: no endpoint may be there.
type balanced struct {
	addrs     map[netip.Addr]bool // addresses of Services outside of the Service CIDRs
	external  map[Key]bool        // ports of external IPs
	nodePorts map[Port]bool
}

// balancedBy leaves out addresses that no Service can own: otherwise a Service could exclude endpoints of others by claiming them.
func (t *Table) balancedBy(services []model.Service) *balanced {
	out := &balanced{addrs: map[netip.Addr]bool{}, external: map[Key]bool{}, nodePorts: map[Port]bool{}}
	for i := range services {
		svc := &services[i]
		if svc.OtherProxy || svc.Type == model.ExternalName {
			continue
		}
		for _, x := range t.addrsOf(svc, new(unit)) {
			switch {
			case x.claim.Class == ownership.ExternalIP:
				for _, p := range svc.Ports {
					out.external[Key{x.addr, p.Port, uint8(p.Protocol)}] = true
				}
			case !netx.Contains(t.ranges, x.addr):
				out.addrs[x.addr] = true
			}
		}
		for _, p := range svc.Ports {
			if p.NodePort != 0 && svc.Type != model.ClusterIP {
				out.nodePorts[Port{uint8(p.Protocol), p.NodePort}] = true
			}
		}
	}
	return out
}

func (x *balanced) equal(o *balanced) bool {
	return maps.Equal(x.addrs, o.addrs) && maps.Equal(x.external, o.external) && maps.Equal(x.nodePorts, o.nodePorts)
}

// balancedNow stores what the Services of a snapshot serve. It marks the units that this may concern if it has changed: those
// with an endpoint that is not in a Pod.
func (b *Builder) balancedNow(snap *model.Snapshot, changed map[unitName]bool) {
	if b.balanced != nil && shared(b.snap.Services, snap.Services) {
		return
	}
	now := b.last.balancedBy(snap.Services)
	if b.balanced != nil && b.balanced.equal(now) {
		return
	}
	b.balanced = now
	for n, u := range b.units {
		if u.direct {
			changed[n] = true
		}
	}
}

// withoutRefused leaves out the endpoints to which a packet would be load-balanced again.
func (t *Table) withoutRefused(u *unit, svc model.ObjectName, proto model.Protocol, eps []endpoint) []endpoint {
	return slices.DeleteFunc(eps, func(e endpoint) bool {
		onNode := t.local[e.Addr] || t.peers[e.Addr] || t.peerSNAT[e.Addr.Next()] // a Pod-net address is the one before
		u.direct = u.direct || onNode || !t.IsPod(e.Addr)
		reason := ""
		switch {
		case netx.Contains(t.ranges, e.Addr), t.balanced.addrs[e.Addr] && !onNode, t.balanced.external[Key{e.Addr, e.port, uint8(proto)}]:
			reason = refusedService
		case onNode && t.balanced.nodePorts[Port{uint8(proto), e.port}]:
			reason = refusedNodePort
		default:
			return false
		}
		r := RefusedEndpoint{svc, netip.AddrPortFrom(e.Addr, e.port), reason}
		if !slices.Contains(u.refused, r) {
			u.refused = append(u.refused, r)
		}
		return true
	})
}

// Refused lists the endpoints that are not used, by Service.
func (t *Table) Refused() []RefusedEndpoint { return t.refused }

// collectRefused lists the refused endpoints of all units, if a unit that has some was added or removed.
func (p *patch) collectRefused() {
	if !p.refusedChanged {
		return
	}
	p.table.refused = nil
	for _, u := range p.units {
		p.table.refused = append(p.table.refused, u.refused...)
	}
	slices.SortFunc(p.table.refused, func(a, b RefusedEndpoint) int {
		if c := a.Service.Compare(b.Service); c != 0 {
			return c
		}
		return a.Endpoint.Compare(b.Endpoint)
	})
}
