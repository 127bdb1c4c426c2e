package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addAddrs adds the missing addresses of the link and returns those to remove. Every address on the link is warren's:
// the link is.
func (s *setter) addAddrs() (left []removal) {
	have, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(s.link, netlink.FAMILY_ALL) })
	if err != nil {
		s.fail("list addresses of %s: %w", s.want.Link, err)
		return nil
	}
	wanted := map[netip.Prefix]bool{}
	for _, p := range s.want.Addrs {
		wanted[p] = true
	}
	for _, a := range have {
		p := prefixOf(a.IPNet)
		if wanted[p] {
			delete(wanted, p)
		} else if !p.Addr().IsLinkLocalUnicast() {
			a := a
			left = append(left, removal{p.String() + " dev " + s.want.Link, func() error { return gone(netlink.AddrDel(s.link, &a)) }})
		}
	}
	for _, p := range s.want.Addrs {
		if !wanted[p] {
			continue
		}
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
		}
		s.did("add", "address "+p.String()+" dev "+s.want.Link, netlink.AddrReplace(s.link, a))
	}
	return left
}

// addRoutes adds the missing routes and returns warren's own ones on the TUN (or without a device) to remove. Routes
// over a Pod's interface go with the interface, so that a Pod in the middle of its ADD is never touched.
func (s *setter) addRoutes() (left []removal) {
	missing, places := map[Route]bool{}, map[place]bool{}
	all := append(slices.Clone(s.want.Routes), s.want.PodRoutes...)
	for _, r := range all {
		missing[r], places[r.place()] = true, true
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			s.fail("list routes: %w", err)
			return nil
		}
		for _, k := range have {
			r := s.fromKernel(k, family)
			if missing[r] {
				delete(missing, r)
				continue
			}
			if places[r.place()] {
				continue // it is replaced, and a removal would hit the new one
			}
			if k := k; r.Type != Unicast || k.LinkIndex == s.link.Attrs().Index || k.LinkIndex <= 1 {
				left = append(left, removal{r.String(), func() error { return gone(netlink.RouteDel(&k)) }})
			}
		}
	}
	for i, r := range all {
		if missing[r] {
			s.addRoute(r, i >= len(s.want.Routes))
		}
	}
	return left
}

// place is what the kernel takes for the identity of a route: adding another one there replaces it.
type place struct {
	table, metric int
	dst           netip.Prefix
}

func (r Route) place() place { return place{r.Table, r.Metric, r.Dst} }

func (s *setter) addRoute(r Route, ofPod bool) {
	k := &netlink.Route{Table: r.Table, Dst: ipNet(r.Dst), Priority: r.Metric, MTU: r.MTU, Protocol: Protocol, Family: family(r.Dst.Addr())}
	switch r.Type {
	case Blackhole:
		k.Type = unix.RTN_BLACKHOLE
	case Unreachable:
		k.Type = unix.RTN_UNREACHABLE
	case Throw:
		k.Type = unix.RTN_THROW
	default:
		link, err := netlink.LinkByName(r.Dev)
		if errors.As(err, &netlink.LinkNotFoundError{}) && ofPod {
			return
		}
		if err != nil {
			s.fail("add route %s: link: %w", r, err)
			return
		}
		k.LinkIndex, k.Scope = link.Attrs().Index, unix.RT_SCOPE_LINK
	}
	if r.Src.IsValid() {
		k.Src = r.Src.AsSlice()
	}
	err := netlink.RouteReplace(k)
	if ofPod {
		err = gone(err)
	}
	s.did("add", "route "+r.String(), err)
}

func (s *setter) fromKernel(k netlink.Route, family int) Route {
	r := Route{Table: k.Table, Type: Unicast, Metric: k.Priority, MTU: k.MTU}
	switch k.Type {
	case unix.RTN_BLACKHOLE:
		r.Type = Blackhole
	case unix.RTN_UNREACHABLE:
		r.Type = Unreachable
	case unix.RTN_THROW:
		r.Type = Throw
	default:
		r.Dev = linkName(k.LinkIndex, s.link)
	}
	if r.Dst = prefixOf(k.Dst); !r.Dst.IsValid() {
		r.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == netlink.FAMILY_V6 {
			r.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	if a, ok := netip.AddrFromSlice(k.Src); ok {
		r.Src = a.Unmap()
	}
	if family == netlink.FAMILY_V6 && r.Metric == ipv6DefaultMetric {
		r.Metric = 0
	}
	return r
}

// ipv6DefaultMetric is what the kernel stores for an IPv6 route without a metric (IP6_RT_PRIO_USER).
const ipv6DefaultMetric = 1024

func linkName(index int, known netlink.Link) string {
	if index == known.Attrs().Index {
		return known.Attrs().Name
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("if%d", index)
	}
	return l.Attrs().Name
}

// addRules adds the missing rules and returns warren's other ones to remove.
func (s *setter) addRules() (left []removal) {
	missing := map[Rule]bool{}
	for _, r := range s.want.Rules {
		missing[r] = true
	}
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(fam) })
		if err != nil {
			s.fail("list rules: %w", err)
			return nil
		}
		for _, k := range have {
			if k.Protocol != Protocol {
				continue
			}
			r := ruleFromKernel(k, fam)
			if missing[r] {
				delete(missing, r)
				continue
			}
			k := k
			k.Family = fam
			left = append(left, removal{r.String(), func() error { return gone(netlink.RuleDel(&k)) }})
		}
	}
	for _, r := range s.want.Rules {
		if !missing[r] {
			continue
		}
		k := r.kernel()
		err := netlink.RuleAdd(k)
		if errors.Is(err, syscall.EEXIST) {
			err = nil
		}
		s.did("add", "rule "+r.String(), err)
	}
	return left
}

func ruleFromKernel(k netlink.Rule, fam int) Rule {
	r := Rule{Pref: k.Priority, V6: fam == netlink.FAMILY_V6, From: prefixOf(k.Src), To: prefixOf(k.Dst), IIF: k.IifName, Table: k.Table, Proto: uint8(k.IPProto)}
	if k.Sport != nil {
		r.Sport = Ports{k.Sport.Start, k.Sport.End}
	}
	if k.Dport != nil {
		r.Dport = Ports{k.Dport.Start, k.Dport.End}
	}
	if k.Goto > 0 {
		r.Goto, r.Table = k.Goto, 0
	}
	return r
}

func (r Rule) kernel() *netlink.Rule {
	k := netlink.NewRule()
	k.Priority, k.Protocol, k.IifName, k.Family, k.IPProto = r.Pref, Protocol, r.IIF, netlink.FAMILY_V4, int(r.Proto)
	if r.V6 {
		k.Family = netlink.FAMILY_V6
	}
	if r.Goto != 0 {
		k.Goto = r.Goto
	} else {
		k.Table = r.Table
	}
	if r.From.IsValid() {
		k.Src = ipNet(r.From)
	}
	if r.To.IsValid() {
		k.Dst = ipNet(r.To)
	}
	if r.Sport != (Ports{}) {
		k.Sport = netlink.NewRulePortRange(r.Sport.Lo, r.Sport.Hi)
	}
	if r.Dport != (Ports{}) {
		k.Dport = netlink.NewRulePortRange(r.Dport.Lo, r.Dport.Hi)
	}
	return k
}

// gone takes an error of a removal: what is already away is removed.
func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf returns the zero Prefix for nil.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	ones, bits := n.Mask.Size()
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones)
}
