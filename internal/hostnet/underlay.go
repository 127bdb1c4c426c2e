package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/warrennet/warren/internal/model"
	"golang.org/x/sys/unix"
)

// Underlay describes the host's links that can carry the tunnel, and the routes of another CNI plugin.
type Underlay struct {
	Addrs    []netip.Addr // node addresses, preferred first
	Links    []string     // names of all links that are up, without those of container software
	Gateways []netip.Addr // of the default routes in table main
	// Sources are the source addresses that the routing table selects, the longest prefix first. Empty where the node has
	// at most one address of each family.
	Sources []Source
	// AddressLinks are the links with a node address. Outside are the links that are up and on which packets of other machines or
	// programs arrive: all but loopback, warren's own, dummies, and links that pass their packets to another one (bridge ports).
	AddressLinks, Outside []string
	// UnmanagedPods are destinations inside the Pod ranges with a route of the host over a link: unmanaged Pods of this
	// node.
	UnmanagedPods []netip.Prefix
	// UnmanagedPodLinks are the links of the IPv4 routes to UnmanagedPods.
	UnmanagedPodLinks []string
	// UnmanagedRemote are destinations inside the Pod ranges with a route of the host over a gateway: the Pod CIDRs that
	// another CNI plugin uses on other nodes.
	UnmanagedRemote []netip.Prefix
	UnmanagedVia    []Via // of each of them
	// IgnoredRoutes are the host's routes inside the Pod ranges that do not belong to another CNI plugin, as text.
	IgnoredRoutes []string
	MTU           int // bytes, the smallest of the links with an address; 0 without any address
}

// Source is the node's source address for packets to a destination.
type Source struct {
	To   netip.Prefix
	From netip.Addr
}

// Via is how the host reaches a Pod CIDR of another CNI plugin.
type Via struct {
	To      netip.Prefix
	Gateway netip.Addr
	Link    string
}

// cniLinks are the name prefixes of links that CNI plugins create, for Pods and for their tunnels.
var cniLinks = []string{"cni", "flannel", "cali", "vxlan.calico", "wireguard.cali", "tunl", "cilium", "lxc", "kube-bridge", "weave",
	"antrea", "ovn", "eni", "azv", "kilo"}

// IsCNILink reports whether a link has a name that a CNI plugin gives.
func IsCNILink(name string) bool {
	return slices.ContainsFunc(cniLinks, func(p string) bool { return strings.HasPrefix(name, p) })
}

// virtual are the name prefixes of links that container software creates. Their addresses are not node addresses.
var virtual = []string{"warren", "wrn", "docker", "br-", "cni", "flannel", "cali", "vxlan.calico", "cilium", "lxc", "veth",
	"virbr", "kube-", "nodelocaldns", "podman", "kilo"}

// Observe reads the global addresses of the links that are up. It skips links of container software and addresses inside
// podRanges. Addresses of the link of the default route come first; within a link IPv4 comes before IPv6.
func Observe(podRanges []netip.Prefix) (Underlay, error) {
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
	gateways := defaultGateways(routes)
	type found struct {
		addr netip.Addr
		mtu  int
		rank int
	}
	byLink := map[int][]netip.Prefix{}
	var all []found
	u := Underlay{Gateways: gateways}
	for _, l := range links {
		a := l.Attrs()
		if isOutside(l) {
			u.Outside = append(u.Outside, a.Name)
		}
		if a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 || isVirtual(a.Name) {
			continue
		}
		u.Links = append(u.Links, a.Name)
		addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return Underlay{}, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, x := range addrs {
			ip, ok := isNodeAddress(x, podRanges)
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
			if !slices.Contains(u.AddressLinks, a.Name) {
				u.AddressLinks = append(u.AddressLinks, a.Name)
			}
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
	u.addUnmanaged(routes, links, podRanges)
	return u, nil
}

// isOutside reports whether packets that warren has not verified may arrive on a link.
func isOutside(l netlink.Link) bool {
	a := l.Attrs()
	return a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && a.MasterIndex == 0 && l.Type() != "dummy" &&
		!strings.HasPrefix(a.Name, "warren") && !strings.HasPrefix(a.Name, "wrn")
}

// addUnmanaged collects the host's own routes into the Pod ranges: over a link, or over a gateway to another node.
func (u *Underlay) addUnmanaged(routes []netlink.Route, links []netlink.Link, podRanges []netip.Prefix) {
	name := map[int]string{}
	for _, l := range links {
		name[l.Attrs().Index] = l.Attrs().Name
	}
	for _, r := range routes {
		to := prefixOf(r.Dst)
		if r.Protocol == Protocol || !to.IsValid() || r.Type != unix.RTN_UNICAST ||
			!slices.ContainsFunc(podRanges, func(p netip.Prefix) bool { return p.Contains(to.Addr()) && to.Bits() > p.Bits() }) {
			continue
		}
		link := name[r.LinkIndex]
		gateway, _ := netip.AddrFromSlice(r.Gw)
		gateway = gateway.Unmap()
		if !u.ofCNI(r, link) {
			u.IgnoredRoutes = append(u.IgnoredRoutes, routeText(to, gateway, link, r.Protocol))
			continue
		}
		if gateway.IsValid() {
			u.UnmanagedRemote = append(u.UnmanagedRemote, to)
			u.UnmanagedVia = append(u.UnmanagedVia, Via{to, gateway, link})
			continue
		}
		u.UnmanagedPods = append(u.UnmanagedPods, to)
		if link != "" && to.Addr().Is4() && !slices.Contains(u.UnmanagedPodLinks, link) {
			u.UnmanagedPodLinks = append(u.UnmanagedPodLinks, link)
		}
	}
}

// cniProtocols are the protocols of routes that CNI plugins and routing daemons install on a node's own links: boot is the
// default of ip-route(8) and of the netlink libraries (flannel host-gw, kindnet), bird is Calico, the others are BGP daemons.
var cniProtocols = map[netlink.RouteProtocol]bool{unix.RTPROT_BOOT: true, unix.RTPROT_STATIC: true, unix.RTPROT_BIRD: true,
	unix.RTPROT_ZEBRA: true, unix.RTPROT_BGP: true, protocolKubeRouter: true, protocolCalico: true}

const (
	protocolKubeRouter = 17 // kube-router's own routes
	protocolCalico     = 80 // Calico's own routes (Felix)
)

// ofCNI reports whether a route inside the Pod ranges may be another CNI plugin's: it is over a link of container software, or
// has a protocol of CNI plugins. Routes of router advertisements, DHCP and ICMP redirects come from the network, and are none.
// The kernel's own routes are those of the link's addresses. On a link with a node address, a router advertisement may cause one.
func (u *Underlay) ofCNI(r netlink.Route, link string) bool {
	switch r.Protocol {
	case unix.RTPROT_RA, unix.RTPROT_DHCP, unix.RTPROT_REDIRECT:
		return false
	case unix.RTPROT_KERNEL:
		return !slices.Contains(u.AddressLinks, link)
	}
	return IsCNILink(link) || isVirtual(link) || cniProtocols[r.Protocol]
}

func routeText(to netip.Prefix, gateway netip.Addr, link string, protocol netlink.RouteProtocol) string {
	s := to.String()
	if gateway.IsValid() {
		s += " via " + gateway.String()
	}
	return fmt.Sprintf("%s dev %s proto %s", s, link, protocol)
}

// maxSources bounds the list on a host with a routing daemon.
const maxSources = 256

// sources returns the source address of each route, selected as the kernel does: the route's preferred source, else the
// address of the link in the gateway's subnet, else the first address of the link.
func sources(routes []netlink.Route, byLink map[int][]netip.Prefix, own []netip.Addr) (out []Source) {
	var count [len(model.Families)]int
	for _, a := range own {
		count[model.FamilyOf(a)]++
	}
	for _, r := range routes {
		to := prefixOf(r.Dst)
		if !to.IsValid() {
			to = model.IPv4.Default()
			if r.Family == unix.AF_INET6 {
				to = model.IPv6.Default()
			}
		}
		f := model.FamilyOf(to.Addr())
		if r.Type != unix.RTN_UNICAST || count[f] < 2 {
			continue
		}
		from, _ := netip.AddrFromSlice(r.Src)
		if from = from.Unmap(); !slices.Contains(own, from) {
			from = linkSource(byLink[r.LinkIndex], r.Gw, f)
		}
		if from.IsValid() && len(out) < maxSources {
			out = append(out, Source{to, from})
		}
	}
	slices.SortStableFunc(out, func(a, b Source) int { return b.To.Bits() - a.To.Bits() })
	return out
}

// linkSource returns the link's address in the gateway's subnet, else its first address of the family.
func linkSource(addrs []netip.Prefix, gateway net.IP, f model.Family) (from netip.Addr) {
	gw, _ := netip.AddrFromSlice(gateway)
	for _, p := range addrs {
		if model.FamilyOf(p.Addr()) != f {
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

// isNodeAddress accepts global addresses outside of the Pod ranges that are neither tentative, deprecated nor temporary.
func isNodeAddress(a netlink.Addr, podRanges []netip.Prefix) (netip.Addr, bool) {
	ip := prefixOf(a.IPNet).Addr()
	if !ip.IsGlobalUnicast() || ip.IsLinkLocalUnicast() || a.Scope == unix.RT_SCOPE_HOST || a.Scope == unix.RT_SCOPE_LINK {
		return ip, false
	}
	if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) != 0 || ip.Is6() && a.Flags&unix.IFA_F_TEMPORARY != 0 {
		return ip, false
	}
	for _, p := range podRanges {
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

// defaultGateways are the gateways of the default routes that have a global address.
func defaultGateways(routes []netlink.Route) (out []netip.Addr) {
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() || r.Protocol == Protocol {
			continue
		}
		for _, hop := range append([]*netlink.NexthopInfo{{Gw: r.Gw}}, r.MultiPath...) {
			if a, ok := netip.AddrFromSlice(hop.Gw); ok && a.Unmap().IsGlobalUnicast() && !slices.Contains(out, a.Unmap()) {
				out = append(out, a.Unmap())
			}
		}
	}
	return out
}

// Overlaps returns the host's own routes that overlap any of the ranges, without warren's and without the default route.
// An overlap would make the other network unreachable from this node. Routes of another CNI plugin for parts of a range
// are returned separately as unmanaged.
func Overlaps(ranges []netip.Prefix) (overlaps, unmanaged []string, err error) {
	for _, f := range model.Families {
		routes, err := dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(f.AF(), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
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
					unmanaged = append(unmanaged, fmt.Sprintf("%s dev %s", p, dev))
				default:
					overlaps = append(overlaps, fmt.Sprintf("%s overlaps the host's route %s dev %s", c, p, dev))
				}
			}
		}
	}
	return overlaps, unmanaged, nil
}
