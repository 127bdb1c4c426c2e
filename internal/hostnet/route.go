package hostnet

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/warrennet/warren/internal/model"
	"golang.org/x/sys/unix"
)

// RouteType is the kind of a route.
type RouteType string

// The kinds of routes that warren uses; names as in ip-route(8).
const (
	Unicast     RouteType = "unicast"
	Blackhole   RouteType = "blackhole"
	Unreachable RouteType = "unreachable"
	Throw       RouteType = "throw"
)

// Route is one route.
type Route struct {
	Table  int
	Type   RouteType
	Dst    netip.Prefix // 0.0.0.0/0 or ::/0 for the default
	Dev    string       // Unicast only
	Src    netip.Addr   // preferred source address, optional
	Metric int
	MTU    int // bytes; 0 for the MTU of Dev
}

// String returns the route as `ip route show table all` lists it.
func (r Route) String() string {
	s := ""
	if r.Type != Unicast {
		s = string(r.Type) + " "
	}
	s += r.Dst.String()
	if r.Dev != "" {
		s += " dev " + r.Dev
	}
	s += fmt.Sprintf(" table %d", r.Table)
	if r.Src.IsValid() {
		s += " src " + r.Src.String()
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.MTU != 0 {
		s += fmt.Sprintf(" mtu %d", r.MTU)
	}
	return s
}

// addRoutes adds the missing routes and returns the routes with warren's protocol number that are not wanted. Routes over a
// Pod's interface are never among them: the kernel deletes them with the interface, and the route of a Pod whose ADD is in
// progress is not wanted yet.
func (s *setter) addRoutes() (left []removal) {
	missing, wanted := map[Route]bool{}, map[routeKey]Route{}
	var all []Route
	for _, r := range slices.Concat(s.want.Routes, s.want.PodRoutes, s.want.ObjectRoutes) {
		if other, taken := wanted[r.key()]; taken && other != r {
			s.refused = append(s.refused, fmt.Errorf("add route %s: the node needs route %s", r, other))
			continue
		}
		missing[r], wanted[r.key()], all = true, r, append(all, r)
	}
	for _, f := range model.Families {
		have, err := dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(f.AF(), &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_UNSPEC},
				netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			s.fail("list routes: %w", err)
			return nil
		}
		for _, k := range have {
			r := s.routeFromKernel(k, f)
			if missing[r] {
				delete(missing, r)
				continue
			}
			if _, replaced := wanted[r.key()]; replaced {
				continue // addRoute replaces it; a removal afterwards would delete the new route
			}
			if r.Type != Unicast || k.LinkIndex == s.link.Attrs().Index || k.LinkIndex <= 1 {
				left = append(left, removal{r.String(), func() error { return ignoreMissing(netlink.RouteDel(&k)) }})
			}
		}
	}
	for _, r := range all {
		if missing[r] {
			s.addRoute(r)
		}
	}
	return left
}

// routeKey identifies a route in the kernel. NLM_F_REPLACE replaces the route with the same key.
type routeKey struct {
	table, metric int
	dst           netip.Prefix
}

func (r Route) key() routeKey { return routeKey{r.Table, r.Metric, r.Dst} }

// addRoute adds or replaces one route. The interface of a Pod may be deleted at any time; its route is then skipped.
func (s *setter) addRoute(r Route) {
	ofPod := slices.Contains(s.want.PodRoutes, r)
	did := s.didOther
	if !ofPod && slices.Contains(s.want.Routes, r) {
		did = s.did
	}
	k := &netlink.Route{Table: r.Table, Dst: ipNet(r.Dst), Priority: r.Metric, MTU: r.MTU,
		Protocol: Protocol, Family: model.FamilyOf(r.Dst.Addr()).AF()}
	switch r.Type {
	case Blackhole:
		k.Type = unix.RTN_BLACKHOLE
	case Unreachable:
		k.Type = unix.RTN_UNREACHABLE
	case Throw:
		k.Type = unix.RTN_THROW
	default:
		link, err := netlink.LinkByName(r.Dev)
		if ofPod && isLinkMissing(err) {
			return
		}
		if err != nil {
			did("add", "route "+r.String(), fmt.Errorf("link %s: %w", r.Dev, err))
			return
		}
		k.LinkIndex, k.Scope = link.Attrs().Index, unix.RT_SCOPE_LINK
	}
	if r.Src.IsValid() {
		k.Src = r.Src.AsSlice()
	}
	err := netlink.RouteReplace(k)
	if ofPod {
		err = ignoreMissing(err)
	}
	did("add", "route "+r.String(), err)
}

func (s *setter) routeFromKernel(k netlink.Route, f model.Family) Route {
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
		r.Dst = f.Default()
	}
	if a, ok := netip.AddrFromSlice(k.Src); ok {
		r.Src = a.Unmap()
	}
	if f == model.IPv6 && r.Metric == ipv6DefaultMetric {
		r.Metric = 0
	}
	return r
}

// ipv6DefaultMetric is the metric that the kernel stores for an IPv6 route without a metric (IP6_RT_PRIO_USER).
const ipv6DefaultMetric = 1024

// linkName returns the name of the link with that index; it looks up only other links than known.
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
