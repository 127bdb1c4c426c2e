package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Underlay is what the host offers to carry the tunnel: its addresses, preferred first, and the smallest MTU among the
// links that have them.
type Underlay struct {
	Addrs []netip.Addr
	Links []string // names of all real links that are up
	// Sources say which of several addresses of a family the routing table prefers towards a destination, the longest
	// prefix first. Empty where each family has one address.
	Sources []Source
	// Strangers are the destinations inside the excluded ranges that the host's own routing table leads elsewhere: Pods of
	// another network that was here before.
	Strangers []netip.Prefix
	// StrangerLinks are where those IPv4 routes lead.
	StrangerLinks []string
	// Elsewhere are the destinations inside the excluded ranges to which the host's own routing table knows a gateway:
	// Pods of other nodes in the network that was here before.
	Elsewhere []netip.Prefix
	MTU       int // bytes; 0 without any address
}

// Source is the address that stands for the node towards a destination.
type Source struct {
	To   netip.Prefix
	From netip.Addr
}

// virtual are the name prefixes of links that other container software makes: their addresses are not the node's.
var virtual = []string{"warren", "wrn", "docker", "br-", "cni", "flannel", "cali", "vxlan.calico", "cilium", "lxc", "veth",
	"virbr", "kube-", "nodelocaldns", "podman", "kilo"}

// Observe reads the global addresses of the links that are up, without container software's own links and without any
// address inside exclude. Addresses of the link of the default route come first; within a link IPv4 before IPv6.
func Observe(exclude []netip.Prefix) (Underlay, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return Underlay{}, fmt.Errorf("list links: %w", err)
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return Underlay{}, fmt.Errorf("list routes: %w", err)
	}
	def := defaultLinks(routes)
	type found struct {
		addr netip.Addr
		mtu  int
		rank int
	}
	byLink := map[int][]netip.Prefix{}
	var all []found
	var u Underlay
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 || isVirtual(a.Name) {
			continue
		}
		u.Links = append(u.Links, a.Name)
		addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return Underlay{}, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, x := range addrs {
			ip, ok := usable(x, exclude)
			if !ok {
				continue
			}
			rank := a.Index << 1
			if !def[a.Index] {
				rank += 1 << 20
			}
			if ip.Is6() {
				rank++
			}
			byLink[a.Index] = append(byLink[a.Index], prefixOf(x.IPNet))
			all = append(all, found{ip, a.MTU, rank})
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].rank < all[j].rank })
	for _, f := range all {
		u.Addrs = append(u.Addrs, f.addr)
		if u.MTU == 0 || f.mtu < u.MTU {
			u.MTU = f.mtu
		}
	}
	u.Sources = sources(routes, byLink, u.Addrs)
	u.strangers(routes, links, exclude)
	return u, nil
}

// strangers notes the routes that lead into the ranges, by links of this host or over a gateway to another node.
func (u *Underlay) strangers(routes []netlink.Route, links []netlink.Link, ranges []netip.Prefix) {
	name := map[int]string{}
	for _, l := range links {
		name[l.Attrs().Index] = l.Attrs().Name
	}
	for _, r := range routes {
		to := prefixOf(r.Dst)
		if r.Protocol == Protocol || !to.IsValid() || r.Type != unix.RTN_UNICAST ||
			!slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(to.Addr()) && to.Bits() > p.Bits() }) {
			continue
		}
		if r.Gw != nil {
			u.Elsewhere = append(u.Elsewhere, to)
			continue
		}
		u.Strangers = append(u.Strangers, to)
		if l := name[r.LinkIndex]; l != "" && to.Addr().Is4() && !slices.Contains(u.StrangerLinks, l) {
			u.StrangerLinks = append(u.StrangerLinks, l)
		}
	}
}

// maxSources bounds what a host with a routing daemon can make of it.
const maxSources = 256

// sources reads the routes as ip-route(8) does: a preferred source, else the address of the link that the gateway
// belongs to, else the link's first.
func sources(routes []netlink.Route, byLink map[int][]netip.Prefix, own []netip.Addr) (out []Source) {
	count := map[bool]int{}
	for _, a := range own {
		count[a.Is4()]++
	}
	for _, r := range routes {
		to := prefixOf(r.Dst)
		if !to.IsValid() {
			to = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if r.Family == unix.AF_INET6 {
				to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
		}
		if r.Type != unix.RTN_UNICAST || count[to.Addr().Is4()] < 2 {
			continue
		}
		from, _ := netip.AddrFromSlice(r.Src)
		if from = from.Unmap(); !slices.Contains(own, from) {
			from = linkSource(byLink[r.LinkIndex], r.Gw, to.Addr().Is4())
		}
		if from.IsValid() && len(out) < maxSources {
			out = append(out, Source{to, from})
		}
	}
	slices.SortStableFunc(out, func(a, b Source) int { return b.To.Bits() - a.To.Bits() })
	return out
}

func linkSource(addrs []netip.Prefix, gateway net.IP, v4 bool) (from netip.Addr) {
	gw, _ := netip.AddrFromSlice(gateway)
	for _, p := range addrs {
		if p.Addr().Is4() != v4 {
			continue
		}
		if p.Masked().Contains(gw.Unmap()) {
			return p.Addr()
		}
		if !from.IsValid() {
			from = p.Addr()
		}
	}
	return from
}

// usable takes global addresses that are neither tentative, deprecated nor temporary.
func usable(a netlink.Addr, exclude []netip.Prefix) (netip.Addr, bool) {
	ip := prefixOf(a.IPNet).Addr()
	if !ip.IsGlobalUnicast() || ip.IsLinkLocalUnicast() || a.Scope == unix.RT_SCOPE_HOST || a.Scope == unix.RT_SCOPE_LINK {
		return ip, false
	}
	if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) != 0 || ip.Is6() && a.Flags&unix.IFA_F_TEMPORARY != 0 {
		return ip, false
	}
	for _, p := range exclude {
		if p.Contains(ip) {
			return ip, false
		}
	}
	return ip, true
}

func isVirtual(name string) bool {
	for _, p := range virtual {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

func defaultLinks(routes []netlink.Route) map[int]bool {
	out := map[int]bool{}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			out[r.LinkIndex] = true
		}
	}
	return out
}

// Overlaps returns the host's own routes (not warren's, not the default) that overlap any of the ranges: a cluster
// range that is also somebody else's network would cut that network off. Those that another Pod network made for its
// parts of a range are others.
func Overlaps(ranges []netip.Prefix) (out, others []string, err error) {
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(fam, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			p := prefixOf(r.Dst)
			if !p.IsValid() || p.Bits() == 0 || r.Protocol == Protocol || p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() {
				continue
			}
			for _, c := range ranges {
				dev := linkName(r.LinkIndex, &netlink.Dummy{})
				switch {
				case !c.Overlaps(p):
				case isVirtual(dev) && p.Bits() > c.Bits():
					others = append(others, fmt.Sprintf("%s dev %s", p, dev))
				default:
					out = append(out, fmt.Sprintf("%s overlaps the host's route %s dev %s", c, p, dev))
				}
			}
		}
	}
	return out, others, nil
}

// DeleteLink removes a link; one that is already gone is removed.
func DeleteLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		if _, ok := err.(netlink.LinkNotFoundError); ok {
			return nil
		}
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := gone(netlink.LinkDel(l)); err != nil {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// Uninstall removes every route and rule with warren's protocol number, the addresses of the link, and puts the
// sysctls back. What is already gone is fine.
func (h *Host) Uninstall(link string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, err := netlink.LinkByName(link)
	if err != nil {
		l = &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: link, Index: -1}}
	}
	s := &setter{want: State{Link: link}, link: l}
	s.moveLocal(0)
	s.remove("rule", s.addRules())
	s.remove("route", s.addRoutes())
	s.did("restore", "sysctls", h.sysctls.restore())
	return errors.Join(s.errs...)
}
