package plan

import (
	"net/netip"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
)

// host is the node's own configuration without Services: addresses of the TUN, routes of Pods and nodes, and the rules for them.
func (p *Plan) host(in *Input) {
	h := &p.Host
	h.Link = in.Interface
	h.Sysctls = in.forwardingSysctls()
	src := in.PodNetAddrs()
	for _, b := range in.Blocks {
		h.Addrs = append(h.Addrs, host(PodNetAddr(b)))
	}
	for _, d := range in.DNS {
		h.Addrs = append(h.Addrs, host(d))
	}
	for _, r := range in.Cluster.PodCIDRs {
		f := model.FamilyOf(r.Addr())
		// The source address: other nodes accept only a peer's own addresses.
		h.Routes = append(h.Routes, in.overTUN(tablePods, r, src[f])...)
		h.Rules = append(h.Rules,
			hostnet.Rule{Pref: prefPods, Family: f, Table: tablePods},
			hostnet.Rule{Pref: prefEgress, Family: f, From: r, Table: tableEgress})
	}
	for _, x := range in.Pods {
		for _, a := range x.Addrs {
			r := hostnet.Route{Table: tablePods, Type: hostnet.Unicast, Dst: host(a), Dev: x.Link}
			if a.Is6() {
				// A UDP server that is bound to the unspecified address must answer a Pod from the node's address. The
				// kernel prefers that one for IPv4 anyway, and deletes an IPv4 route together with its source address.
				r.Src = in.nodeAddr(model.IPv6)
			}
			h.PodRoutes = append(h.PodRoutes, r)
		}
	}
	p.nodeRoutes(in, src)
}

// nodeRoutes send packets from Pods to other nodes' own addresses through the tunnel, so that they are encrypted, too.
func (p *Plan) nodeRoutes(in *Input, src [2]netip.Addr) {
	for _, peer := range p.Peers {
		for _, a := range peer.AllowedIPs {
			if !a.IsSingleIP() || netx.Contains(in.Cluster.PodCIDRs, a.Addr()) || !src[model.FamilyOf(a.Addr())].IsValid() {
				continue
			}
			p.Host.ObjectRoutes = append(p.Host.ObjectRoutes, in.overTUN(tableEgress, a, netip.Addr{})...)
		}
	}
}

// blockRoutes are the routes for addresses of the node's own block that no managed Pod has. Those that the host's own routing
// table has routes for, to unmanaged Pods, are looked up there. All others are unreachable: over the Pod range's route their
// packets would return to the node.
func (in *Input) blockRoutes(b netip.Prefix) (out []hostnet.Route) {
	end := []hostnet.Route{{Table: tablePods, Type: hostnet.Unreachable, Dst: b}}
	throw := func(p netip.Prefix) []hostnet.Route { // skip both tables with routes to the TUN
		return []hostnet.Route{{Table: tablePods, Type: hostnet.Throw, Dst: p}, {Table: tableEgress, Type: hostnet.Throw, Dst: p}}
	}
	for _, s := range in.Underlay.UnmanagedPods {
		switch {
		case !s.Overlaps(b):
		case s.Bits() <= b.Bits():
			end = throw(b)
		default:
			out = append(out, throw(s)...)
		}
	}
	return append(out, end...)
}

// serviceRoutes send to the TUN what the load balancer serves: Service ranges and addresses, and the node's own addresses for
// node ports and masquerade ports. Non-masquerade destinations skip the table of egress.
func (p *Plan) serviceRoutes(in *Input, vips []netip.Addr) {
	src := in.PodNetAddrs()
	add := func(table int, dst netip.Prefix, from netip.Addr) {
		if src[model.FamilyOf(dst.Addr())].IsValid() {
			p.Host.Routes = append(p.Host.Routes, in.overTUN(table, dst, from)...)
		}
	}
	addObject := func(dst netip.Prefix) {
		if from := src[model.FamilyOf(dst.Addr())]; from.IsValid() {
			p.Host.ObjectRoutes = append(p.Host.ObjectRoutes, in.overTUN(tablePods, dst, from)...)
		}
	}
	for _, r := range in.Snapshot.ServiceCIDRs {
		addObject(r)
	}
	for _, a := range vips {
		addObject(host(a))
	}
	for _, a := range in.Underlay.Addrs {
		add(tableMasquerade, host(a), netip.Addr{})
	}
	for _, a := range in.nodePortAddrs() {
		from := netip.Addr{}
		if a == localhost { // the kubelet's firewall drops packets to 127/8 from any other source
			from = localhost
		}
		add(tableNodePorts, host(a), from)
		add(tableOwnDatagrams, host(a), from)
	}
	p.narrowOwnDatagrams()
	for _, r := range in.NonMasquerade {
		p.Host.Routes = append(p.Host.Routes, hostnet.Route{Table: tableEgress, Type: hostnet.Throw, Dst: r})
	}
}
