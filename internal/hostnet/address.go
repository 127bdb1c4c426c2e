package hostnet

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addAddrs adds the missing addresses of the link and returns the addresses that are not wanted. The link is warren's, so
// all of its addresses are, except for link-local ones of the kernel.
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
			left = append(left, removal{p.String() + " dev " + s.want.Link,
				func() error { return ignoreMissing(netlink.AddrDel(s.link, &a)) }})
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

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf returns n as a netip.Prefix, the zero Prefix for nil. An IPv4-mapped address is unmapped.
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
