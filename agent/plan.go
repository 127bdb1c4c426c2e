package agent

import (
	"fmt"
	"net/netip"
	"sort"
	"time"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// Rule preferences and routing tables (DESIGN.md section 2). Gaps are for what Services add.
const (
	prefPods  = 115 // lookup tablePods
	prefWorld = 116 // from the Pod ranges lookup tableWorld

	tablePods  = 101 // local Pods, the whole Pod ranges
	tableWorld = 103 // what leaves the cluster, and other nodes' own addresses
)

// lastMetric is that of the blackholes that stand behind the routes over the TUN: if the device is gone, the packet is
// dropped and never finds the default route.
const lastMetric = 4096

// tunnelOverhead is the outer IPv6, UDP and WireGuard headers and the tag: 40 + 8 + 16 + 16 bytes.
const tunnelOverhead = 80

// minMTU is the smallest packet that IPv6 must carry (RFC 8200 section 5).
const minMTU = 1280

// self is what a plan knows of this node.
type self struct {
	Name, Identity string
	PublicKey      model.Key
	Blocks         []netip.Prefix
	Underlay       hostnet.Underlay
	Endpoints      []netip.AddrPort // configured; empty: underlay addresses
	Port           uint16
	MTU            int // configured; 0: derived
	Interface      string
	Zone, Version  string
	Keepalive      time.Duration
	Cluster        model.Cluster
	Foreign        []tunnel.Peer
	Health         map[uint16]uint16           // health check node ports and where they are served
	DNS            []netip.Addr                // cluster DNS addresses, which every node has itself
	NodePortRanges []netip.Prefix              // of own addresses that serve node ports; empty: all
	NonMasquerade  []netip.Prefix              // destinations that Pods reach with their own address
	Spared         []uint16                    // masqueraded ports that host programs listen on
	SNAT           map[netip.Prefix]netip.Addr // by block, where the usual one is somebody else's
}

// pod is a local Pod's interface and addresses.
type pod struct {
	Link  string
	Addrs []netip.Addr
	// HostPorts are the node's ports that lead to the Pod.
	HostPorts []model.HostPort
}

// plan is what one node should look like for one snapshot.
type plan struct {
	MTU      int
	Peers    []tunnel.Peer
	Host     hostnet.State
	Node     model.Node // how this node should be registered
	Table    *servicelb.Table
	Problems []string // records and settings that could not be used, each with the reason
}

// makePlan is pure: the same input gives the same plan. build is servicelb.Build, or a cache of it.
func makePlan(me self, snap *model.Snapshot, pods []pod, build func(servicelb.Self, *model.Snapshot) *servicelb.Table) plan {
	var p plan
	p.MTU = deriveMTU(me)
	p.Node = registration(me, p.MTU)
	p.peers(me, snap)
	p.host(me, pods)
	p.Table = build(me.balancer(p.nodeAddrs(me)), snap)
	p.services(me, snap.ServiceCIDRs, p.Table.Steering(), pods)
	p.Problems = append(p.Problems, snap.Problems...)
	sort.Strings(p.Problems)
	return p
}

// deriveMTU leaves room for the outer headers. With IPv6 Pods the device must carry 1,280 bytes even where the underlay
// does not: the tunnel lets the kernel fragment the outer datagram then.
func deriveMTU(me self) int {
	mtu := me.MTU
	if mtu == 0 {
		mtu = 1500 - tunnelOverhead
		if me.Underlay.MTU > 0 {
			mtu = me.Underlay.MTU - tunnelOverhead
		}
	}
	floor := 576
	for _, r := range me.Cluster.PodCIDRs {
		if r.Addr().Is6() {
			floor = minMTU
		}
	}
	return min(max(mtu, floor), 65535-tunnelOverhead)
}

func registration(me self, mtu int) model.Node {
	n := model.Node{Name: me.Name, Identity: me.Identity, PublicKey: me.PublicKey, Endpoints: me.Endpoints,
		Addresses: me.Underlay.Addrs, PodCIDRs: me.Blocks, MTU: mtu, Zone: me.Zone, Version: me.Version}
	if len(n.Endpoints) == 0 {
		for _, a := range me.Underlay.Addrs {
			n.Endpoints = append(n.Endpoints, netip.AddrPortFrom(a, me.Port))
		}
	}
	return n
}

// peers turns the other nodes into WireGuard peers. What a node claims is checked against the blocks it owns, so that
// a stolen node cannot take another one's Pods by writing its own record.
func (p *plan) peers(me self, snap *model.Snapshot) {
	taken := newClaims(me)
	for _, n := range snap.Nodes {
		if n.Name == me.Name {
			if n.Identity != me.Identity {
				p.problem("node %s: its record belongs to another machine (identity %s)", n.Name, n.Identity)
			}
			continue
		}
		if who, dup := taken.keys[n.PublicKey]; dup {
			p.problem("node %s: has the public key of %s; no tunnel to it", n.Name, who)
			continue
		}
		taken.keys[n.PublicKey] = n.Name
		peer := tunnel.Peer{Name: n.Name, PublicKey: n.PublicKey, Endpoints: n.Endpoints, Keepalive: me.Keepalive, MTU: n.MTU}
		for _, c := range n.PodCIDRs {
			if err := taken.block(n, c, snap); err != nil {
				p.problem("node %s: %v", n.Name, err)
				continue
			}
			peer.AllowedIPs = append(peer.AllowedIPs, c)
			if !peer.Probe.IsValid() {
				peer.Probe = PodNetAddr(c)
			}
		}
		for _, a := range n.Addresses {
			if err := taken.address(n, a, me); err != nil {
				p.problem("node %s: %v", n.Name, err)
				continue
			}
			peer.AllowedIPs = append(peer.AllowedIPs, netip.PrefixFrom(a, a.BitLen()))
		}
		if len(n.Endpoints) == 0 {
			p.problem("node %s: has no endpoint; it can only reach us", n.Name)
		}
		p.Peers = append(p.Peers, peer)
	}
	p.Peers = append(p.Peers, me.Foreign...)
}

func (p *plan) problem(format string, args ...any) {
	p.Problems = append(p.Problems, fmt.Sprintf(format, args...))
}

// claims is what peers hold already while a plan is made: first come, by name.
type claims struct {
	keys  map[model.Key]string
	addrs map[netip.Addr]string
}

func newClaims(me self) *claims {
	c := &claims{keys: map[model.Key]string{me.PublicKey: me.Name}, addrs: map[netip.Addr]string{}}
	for _, a := range me.Underlay.Addrs {
		c.addrs[a] = me.Name
	}
	return c
}

func (c *claims) block(n model.Node, cidr netip.Prefix, snap *model.Snapshot) error {
	for _, b := range snap.Blocks {
		if b.CIDR != cidr {
			continue
		}
		if b.Node != n.Name || b.Identity != n.Identity {
			return fmt.Errorf("claims %s, which belongs to %s", cidr, b.Node)
		}
		for _, r := range snap.Cluster.PodCIDRs {
			if r.Contains(cidr.Addr()) && cidr.Bits() >= r.Bits() {
				return nil
			}
		}
		return fmt.Errorf("claims %s, which is outside the Pod ranges %v", cidr, snap.Cluster.PodCIDRs)
	}
	return fmt.Errorf("claims %s, which nobody owns", cidr)
}

func (c *claims) address(n model.Node, a netip.Addr, me self) error {
	if !a.IsGlobalUnicast() || a.IsLinkLocalUnicast() {
		return fmt.Errorf("address %s is not a unicast address", a)
	}
	for _, r := range me.Cluster.PodCIDRs {
		if r.Contains(a) {
			return fmt.Errorf("address %s lies in the Pod range %s", a, r)
		}
	}
	if who, dup := c.addrs[a]; dup {
		return fmt.Errorf("address %s is also %s's", a, who)
	}
	c.addrs[a] = n.Name
	return nil
}

// host is the node's own configuration: addresses of the TUN, the tables and the rules that lead to them.
func (p *plan) host(me self, pods []pod) {
	h := &p.Host
	h.Link = me.Interface
	h.Sysctls = sysctlsFor(me)
	src := me.sources()
	for _, b := range me.Blocks {
		h.Addrs = append(h.Addrs, netip.PrefixFrom(PodNetAddr(b), b.Addr().BitLen()))
	}
	for _, d := range me.DNS {
		h.Addrs = append(h.Addrs, netip.PrefixFrom(d, d.BitLen()))
	}
	for _, r := range me.Cluster.PodCIDRs {
		h.Routes = append(h.Routes, overTUN(me, tablePods, r, src[r.Addr().Is4()])...)
		v6 := r.Addr().Is6()
		h.Rules = append(h.Rules,
			hostnet.Rule{Pref: prefPods, V6: v6, Table: tablePods},
			hostnet.Rule{Pref: prefWorld, V6: v6, From: r, Table: tableWorld})
	}
	for _, x := range pods {
		for _, a := range x.Addrs {
			r := hostnet.Route{Table: tablePods, Type: hostnet.Unicast, Dst: netip.PrefixFrom(a, a.BitLen()), Dev: x.Link}
			if a.Is6() {
				// A UDP server that is bound to no address must answer a Pod from the node's address. IPv4 takes that one anyway,
				// and there a route goes with its source address.
				r.Src = me.primary(true)
			}
			h.PodRoutes = append(h.PodRoutes, r)
		}
	}
	p.nodeRoutes(me, src)
}

// nodeRoutes send what Pods say to other nodes' own addresses through the tunnel, so that it is encrypted too.
func (p *plan) nodeRoutes(me self, src map[bool]netip.Addr) {
	for _, peer := range p.Peers {
		for _, a := range peer.AllowedIPs {
			if !a.IsSingleIP() || inRanges(me.Cluster.PodCIDRs, a.Addr()) || !src[a.Addr().Is4()].IsValid() {
				continue
			}
			p.Host.Routes = append(p.Host.Routes, overTUN(me, tableWorld, a, netip.Addr{})...)
		}
	}
}

// nodeAddrs are the other nodes' own addresses that the tunnel leads to.
func (p *plan) nodeAddrs(me self) (out []netip.Addr) {
	for _, peer := range p.Peers {
		for _, a := range peer.AllowedIPs {
			if a.IsSingleIP() && !peer.Foreign && !inRanges(me.Cluster.PodCIDRs, a.Addr()) {
				out = append(out, a.Addr())
			}
		}
	}
	return out
}

func inRanges(ranges []netip.Prefix, a netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// PodNetAddr is the node's own address inside the Pod network: the first of its block.
func PodNetAddr(block netip.Prefix) netip.Addr { return block.Addr().Next() }

// sysctlsFor lists what forwarding between Pods, TUN and underlay needs. accept_ra comes before IPv6 forwarding: a
// forwarding host drops the default routes it learned from router advertisements unless accept_ra is 2.
func sysctlsFor(me self) []hostnet.Sysctl {
	var out []hostnet.Sysctl
	dev := me.Interface
	for _, r := range me.Cluster.PodCIDRs {
		if r.Addr().Is4() {
			out = append(out,
				hostnet.Sysctl{Path: "ipv4/ip_forward", Value: "1"},
				hostnet.Sysctl{Path: "ipv4/conf/" + dev + "/rp_filter", Value: "2"},
				hostnet.Sysctl{Path: "ipv4/conf/" + dev + "/accept_local", Value: "1"})
			continue
		}
		for _, l := range me.Underlay.Links {
			out = append(out, hostnet.Sysctl{Path: "ipv6/conf/" + l + "/accept_ra", Value: "2", If: "1", Optional: true})
		}
		out = append(out,
			hostnet.Sysctl{Path: "ipv6/conf/" + dev + "/disable_ipv6", Value: "0"},
			hostnet.Sysctl{Path: "ipv6/conf/" + dev + "/addr_gen_mode", Value: "1", Optional: true},
			hostnet.Sysctl{Path: "ipv6/conf/all/forwarding", Value: "1"})
	}
	return out
}
