package cni

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/warrennet/warren/cni/internal/sandbox"
	"golang.org/x/sys/unix"
)

// The kernel's state as text, read with a netlink library that is not the code under test.

// podRoutes lists the routes of the Pods' table on the node.
func (r *rig) podRoutes() (out []string, err error) {
	err = r.Do(func() error {
		for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := netlink.RouteListFiltered(fam, &netlink.Route{Table: sandbox.Table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, rt := range routes {
				l, err := netlink.LinkByIndex(rt.LinkIndex)
				if err != nil {
					return err
				}
				out = append(out, fmt.Sprintf("%s dev %s proto %d", rt.Dst, l.Attrs().Name, rt.Protocol))
			}
		}
		return nil
	})
	return out, err
}

// describe writes what a Pod has: addresses, routes and neighbours of its interface.
func (p *testPod) describe() (text string, err error) {
	var out []string
	err = p.Do(func() error {
		l, err := netlink.LinkByName(p.rt.IfName)
		if err != nil {
			return err
		}
		a := l.Attrs()
		out = append(out, fmt.Sprintf("link mtu %d up %v", a.MTU, a.Flags&unix.IFF_UP != 0))
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			out = append(out, fmt.Sprintf("addr %s tentative %v", a.IPNet, a.Flags&unix.IFA_F_TENTATIVE != 0))
		}
		for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := netlink.RouteList(l, fam)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Gw != nil {
					out = append(out, fmt.Sprintf("route %s via %s", r.Dst, r.Gw))
				}
			}
			neighs, err := netlink.NeighList(a.Index, fam)
			if err != nil {
				return err
			}
			for _, n := range neighs {
				if n.State&netlink.NUD_PERMANENT != 0 {
					out = append(out, fmt.Sprintf("neigh %s permanent", n.IP))
				}
			}
		}
		return nil
	})
	slices.Sort(out)
	return strings.Join(out, "\n"), err
}

// filterCounts reads how many frames the host's end took from the Pod, and how many of them the filter dropped.
func (r *rig) filterCounts(hostIf string) (packets, drops uint32, err error) {
	err = r.Do(func() error {
		l, err := netlink.LinkByName(hostIf)
		if err != nil {
			return err
		}
		qs, err := netlink.QdiscList(l)
		if err != nil {
			return err
		}
		for _, q := range qs {
			if q.Type() == "clsact" && q.Attrs().Statistics != nil {
				s := q.Attrs().Statistics
				packets, drops = s.Basic.Packets, s.Queue.Drops
				return nil
			}
		}
		return fmt.Errorf("%s has no clsact", hostIf)
	})
	return packets, drops, err
}
