package agent

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
)

// Rule preferences and tables of Services (DESIGN.md section 2); those of Pods are in plan.go.
const (
	prefInLocal  = 30  // what the hook gives back is looked up in table local first
	prefInSkip   = 31  // and then passes over everything that would steer it again
	prefOwnUDP   = 59  // the host's own datagrams to node ports
	prefPorts    = 60  // node ports and masqueraded ports, before table local
	prefLocal    = 70  // table local, moved from 0
	prefReplies  = 73  // replies of local backends, to 110, their fragments before them: plan_replies.go
	prefICMP     = 111 // ICMP errors to local Pods
	prefHostSend = 113 // replies of host-network backends here
	prefErrors   = 119 // the host's own ICMP errors to what is outside of the cluster

	prefLinkErrors = 118 // those from a link's own address, which pass them over

	tableSteer = 100 // everything to the TUN
	tableNode  = 102 // node addresses that serve node ports, 127.0.0.1 among them
	tableMasq  = 104 // node addresses that masquerade
	tableOwn   = 105 // as tableNode, for the host's own datagrams
	tableMain  = 254
	tableLocal = 255
)

// masqueradePorts is the range of source ports of what leaves the cluster, 17,000 of them. It lies outside the ephemeral
// ports of Linux (32768 to 60999): a connection that the host had made from a port in there would die at once, because
// what is steered never reaches a socket of the host (docs/decisions/0004).
var masqueradePorts = [2]uint16{13000, 29999}

// nodePorts is the range of node ports.
var nodePorts = [2]uint16{30000, 32767}

// localhost serves node ports too. ::1 cannot: the kernel takes no packet from it on another link.
var localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// balancer is what the load balancer knows of this node.
func (me self) balancer(peers []netip.Addr) servicelb.Self {
	s := servicelb.Self{Node: me.Name, Zone: me.Zone, PodRanges: me.Cluster.PodCIDRs, Blocks: me.Blocks, Addrs: me.Underlay.Addrs,
		Own: me.DNS, Peers: peers, NodePortAddrs: me.nodePortAddrs(), MasqueradePorts: masqueradePorts, Spared: me.Spared, Health: me.Health,
		NonMasquerade: slices.Clone(me.NonMasquerade)}
	for _, x := range me.Underlay.Sources {
		s.Sources = append(s.Sources, servicelb.Source(x))
	}
	for _, f := range me.Foreign { // a WireGuard host that was let in sees Pods as they are
		s.NonMasquerade = append(s.NonMasquerade, f.AllowedIPs...)
		s.Foreign = append(s.Foreign, f.AllowedIPs...)
	}
	for _, b := range me.Blocks {
		if b.Addr().Is4() && !s.SNAT4.IsValid() {
			s.PodNet4, s.SNAT4 = PodNetAddr(b), me.snat(b)
		}
		if b.Addr().Is6() && !s.SNAT6.IsValid() {
			s.PodNet6, s.SNAT6 = PodNetAddr(b), me.snat(b)
		}
	}
	return s
}

// nodePortAddrs are the addresses of this node that serve node ports: its own, 127.0.0.1 and that among the Pods, or
// those of them that lie in the configured ranges.
func (me self) nodePortAddrs() (out []netip.Addr) {
	all := slices.Clone(me.Underlay.Addrs)
	if v4, _ := me.families(); v4 {
		all = append(all, localhost)
	}
	for _, b := range me.Blocks {
		all = append(all, PodNetAddr(b))
	}
	for _, a := range all {
		if len(me.NodePortRanges) == 0 || inRanges(me.NodePortRanges, a) {
			out = append(out, a)
		}
	}
	return out
}

// SNATAddr is the address of a block that stands for clients whose own cannot be kept: the second one, which is not
// local to the host.
func SNATAddr(block netip.Prefix) netip.Addr { return PodNetAddr(block).Next() }

// snat is SNATAddr, or what stands in for it while a Pod of another network has that address.
func (me self) snat(block netip.Prefix) netip.Addr {
	if a, ok := me.SNAT[block]; ok {
		return a
	}
	return SNATAddr(block)
}

// standIn chooses another SNAT address from the upper end of a block: the networks before warren count from the lower.
func standIn(block netip.Prefix, taken func(netip.Addr) bool) (netip.Addr, bool) {
	raw := block.Addr().AsSlice()
	for i := block.Bits(); i < len(raw)*8; i++ {
		raw[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(raw)
	for range 64 {
		if a = a.Prev(); !block.Contains(a) {
			break
		}
		if !taken(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// services adds what steers Service traffic and what leaves the cluster to the TUN.
func (p *plan) services(me self, ranges []netip.Prefix, st servicelb.Steering, pods []pod) {
	h := &p.Host
	h.LocalPref = prefLocal
	v4, v6 := me.families()
	for _, six := range []bool{false, true} {
		if six && !v6 || !six && !v4 {
			continue
		}
		h.Rules = append(h.Rules,
			hostnet.Rule{Pref: prefInLocal, V6: six, IIF: me.Interface, Table: tableLocal},
			hostnet.Rule{Pref: prefInSkip, V6: six, IIF: me.Interface, Goto: prefPods},
			hostnet.Rule{Pref: prefOwnUDP, V6: six, IIF: "lo", Proto: packet.ProtoUDP, Dport: hostnet.Ports{Lo: nodePorts[0], Hi: nodePorts[1]}, Table: tableOwn})
		for _, proto := range []uint8{6, 17} {
			h.Rules = append(h.Rules,
				hostnet.Rule{Pref: prefPorts, V6: six, Proto: proto, Dport: hostnet.Ports{Lo: nodePorts[0], Hi: nodePorts[1]}, Table: tableNode})
			for _, ports := range without(masqueradePorts, me.Spared) {
				h.Rules = append(h.Rules, hostnet.Rule{Pref: prefPorts, V6: six, Proto: proto, Dport: ports, Table: tableMasq})
			}
		}
		h.Rules = append(h.Rules, hostErrors(six)...)
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if six {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		// A UDP server of the host that is bound to no address answers from the one the route prefers: it must be the one
		// that other nodes and endpoints know.
		h.Routes = append(h.Routes, overTUN(me, tableSteer, all, me.primary(six))...)
		h.Routes = append(h.Routes, overTUN(me, tableWorld, all, netip.Addr{})...)
	}
	// An address of our own block that no Pod has ends here: over the range's route it would come back and go round.
	for _, b := range me.Blocks {
		h.Routes = append(h.Routes, me.ownBlock(b)...)
		h.Routes = append(h.Routes, overTUN(me, tablePods, netip.PrefixFrom(me.snat(b), b.Addr().BitLen()), netip.Addr{})...)
	}
	p.replies(me, st)
	p.hostPorts(me, pods)
	p.served(me, ranges, st.VIPs)
	p.serviceSysctls(me)
}

// hostErrors steers two sorts of errors that the kernel makes: packet-too-big about a packet that the hook has translated and
// that is too large for a Pod's link, which must speak of the address that the client called; and port unreachable about one
// that the kernel has put together from fragments and the agent has passed on (datagrams.go), which nobody must see. For a
// lookup of its own ICMP the kernel keeps type and code where other protocols have the destination port, type first. The rule
// stands behind those that lead to Pods: such errors pass the TUN anyway, from an address that their nodes let in.
func hostErrors(six bool) []hostnet.Rule {
	r := hostnet.Rule{Pref: prefErrors, V6: six, IIF: "lo", Proto: packet.ProtoICMP, Dport: hostnet.Ports{Lo: 3<<8 | 3, Hi: 3<<8 | 4}, Table: tableSteer}
	if !six {
		return []hostnet.Rule{r}
	}
	r.Proto, r.Dport = packet.ProtoICMPv6, hostnet.Ports{Lo: 1<<8 | 4, Hi: 2 << 8} // and what else unreachable has above port
	link := r                                                                      // an error from a link's own address would not be forwarded when the hook gives it back
	link.Pref, link.From, link.Table = prefLinkErrors, linkLocal, tableMain
	return []hostnet.Rule{link, r}
}

// linkLocal are the addresses that mean something on one link alone (RFC 4291 section 2.5.6).
var linkLocal = netip.MustParsePrefix("fe80::/10")

// served leads what the hook serves to it: Service ranges and addresses, the node's own where they take node ports or
// stand for Pods; and past it what Pods reach with their own address.
func (p *plan) served(me self, ranges []netip.Prefix, vips []netip.Addr) {
	src := me.sources()
	lead := func(table int, dst netip.Prefix, from netip.Addr) {
		if src[dst.Addr().Is4()].IsValid() {
			p.Host.Routes = append(p.Host.Routes, overTUN(me, table, dst, from)...)
		}
	}
	for _, r := range ranges {
		lead(tablePods, r, src[r.Addr().Is4()])
	}
	for _, a := range vips {
		lead(tablePods, netip.PrefixFrom(a, a.BitLen()), src[a.Is4()])
	}
	for _, a := range me.Underlay.Addrs {
		lead(tableMasq, netip.PrefixFrom(a, a.BitLen()), netip.Addr{})
	}
	for _, a := range me.nodePortAddrs() {
		from := netip.Addr{}
		if a == localhost { // the firewall that a kubelet keeps drops what comes to 127/8 from any other address
			from = localhost
		}
		lead(tableNode, netip.PrefixFrom(a, a.BitLen()), from)
		lead(tableOwn, netip.PrefixFrom(a, a.BitLen()), from)
	}
	p.narrowOwn()
	for _, r := range me.NonMasquerade {
		p.Host.Routes = append(p.Host.Routes, hostnet.Route{Table: tableWorld, Type: hostnet.Throw, Dst: r})
	}
}

// narrowOwn keeps what the host sends to its own node ports small enough for the way to any backend. Told that a datagram is
// too large, the kernel looks the way to its own address up without a port and notes the size in table local, where no
// datagram to a node port looks. TCP has a socket to note it, and clients on other machines a route.
func (p *plan) narrowOwn() {
	least := min(minMTU, p.MTU)
	for _, peer := range p.Peers {
		if peer.MTU > 0 {
			least = min(least, peer.MTU)
		}
	}
	for i := range p.Host.Routes {
		if r := &p.Host.Routes[i]; r.Table == tableOwn && r.Type == hostnet.Unicast {
			r.MTU = least
			if r.Dst.Addr().Is6() {
				r.MTU = minMTU
			}
		}
	}
}

func (p *plan) serviceSysctls(me self) {
	h := &p.Host
	if v4, _ := me.families(); v4 {
		// Lets 127.0.0.1 out to warren0 and back; the hook drops every other use of 127/8.
		h.Sysctls = append(h.Sysctls, hostnet.Sysctl{Path: "ipv4/conf/" + me.Interface + "/route_localnet", Value: "1"})
	}
	h.Sysctls = append(h.Sysctls, serviceSysctls(me)...)
	for _, l := range me.Underlay.StrangerLinks {
		// A Pod of a bridge takes the whole block for its neighbours and asks on the bridge for Pods that are warren's.
		h.Sysctls = append(h.Sysctls, hostnet.Sysctl{Path: "ipv4/conf/" + l + "/proxy_arp", Value: "1", Optional: true})
	}
}

// ownBlock is what becomes of addresses of the node's own block that no Pod of warren's has: those that a network before
// warren left its Pods are looked up in the host's own table, the rest ends here.
func (me self) ownBlock(b netip.Prefix) (out []hostnet.Route) {
	end := []hostnet.Route{{Table: tablePods, Type: hostnet.Unreachable, Dst: b}}
	throw := func(p netip.Prefix) []hostnet.Route { // past both tables that lead to the TUN
		return []hostnet.Route{{Table: tablePods, Type: hostnet.Throw, Dst: p}, {Table: tableWorld, Type: hostnet.Throw, Dst: p}}
	}
	for _, s := range me.Underlay.Strangers {
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

// overTUN is a route to the TUN and the blackhole behind it.
func overTUN(me self, table int, dst netip.Prefix, src netip.Addr) []hostnet.Route {
	return []hostnet.Route{
		{Table: table, Type: hostnet.Unicast, Dst: dst, Dev: me.Interface, Src: src},
		{Table: table, Type: hostnet.Blackhole, Dst: dst, Metric: lastMetric},
	}
}

// hostPorts steers the ports of the node that lead to Pods of it, as node ports are.
func (p *plan) hostPorts(me self, pods []pod) {
	v4, v6 := me.families()
	seen := map[hostnet.Rule]bool{}
	for _, x := range pods {
		for _, m := range x.HostPorts {
			for _, six := range []bool{false, true} {
				r := hostnet.Rule{Pref: prefPorts, V6: six, Proto: uint8(m.Protocol), Dport: hostnet.Ports{Lo: m.HostPort, Hi: m.HostPort}, Table: tableNode}
				inRange := m.HostPort >= nodePorts[0] && m.HostPort <= nodePorts[1]
				if six && !v6 || !six && !v4 || seen[r] || inRange {
					continue
				}
				seen[r] = true
				p.Host.Rules = append(p.Host.Rules, r)
				if !six {
					p.Host.LocalPorts = append(p.Host.LocalPorts, hostnet.LocalPort{Proto: uint8(m.Protocol), Port: m.HostPort})
				}
			}
		}
	}
}

// replies steers what local backends answer, which would go past the TUN from veth to veth.
func (p *plan) replies(me self, st servicelb.Steering) {
	h := &p.Host
	for _, r := range me.Cluster.PodCIDRs {
		six := r.Addr().Is6()
		h.Rules = append(h.Rules, steerReplies(r, st.Targets)...)
		h.Rules = append(h.Rules, steerFragments(r, slices.Concat(me.Blocks, me.NonMasquerade), st.Targets)...)
		for _, t := range st.HostTargets {
			h.Rules = append(h.Rules, hostnet.Rule{Pref: prefHostSend, V6: six, IIF: "lo", To: r, Proto: t.Proto,
				Sport: hostnet.Ports{Lo: t.Port, Hi: t.Port}, Table: tableSteer})
		}
	}
	for _, b := range me.Blocks {
		icmp := uint8(1)
		if b.Addr().Is6() {
			icmp = 58
		}
		h.Rules = append(h.Rules, hostnet.Rule{Pref: prefICMP, V6: b.Addr().Is6(), To: b, Proto: icmp, Table: tableSteer})
	}
}

func (me self) families() (v4, v6 bool) {
	for _, r := range me.Cluster.PodCIDRs {
		v4, v6 = v4 || r.Addr().Is4(), v6 || r.Addr().Is6()
	}
	return v4, v6
}

// primary is the node's first own address of a family.
func (me self) primary(six bool) netip.Addr {
	for _, a := range me.Underlay.Addrs {
		if a.Is6() == six {
			return a
		}
	}
	return netip.Addr{}
}

// sources are the node's Pod-net addresses by family (is IPv4).
func (me self) sources() map[bool]netip.Addr {
	src := map[bool]netip.Addr{}
	for _, b := range me.Blocks {
		if a := PodNetAddr(b); !src[a.Is4()].IsValid() {
			src[a.Is4()] = a
		}
	}
	return src
}

// serviceSysctls: a strict reverse path filter looks the way back up with swapped ports, meets the steering rules and
// drops good packets; Pods are kept honest at their veth instead. The steered ranges are taken out of the ephemeral
// ports, because a host socket inside one would be dead.
func serviceSysctls(me self) []hostnet.Sysctl {
	if v4, _ := me.families(); !v4 {
		return []hostnet.Sysctl{{Path: "ipv4/ip_local_reserved_ports", Value: reservedPorts, Append: true}}
	}
	return []hostnet.Sysctl{
		{Path: "ipv4/conf/all/rp_filter", Value: "2"},
		{Path: "ipv4/ip_local_reserved_ports", Value: reservedPorts, Append: true},
	}
}

const reservedPorts = "13000-32767"
