package tunnel

import (
	"fmt"
	"github.com/warrennet/warren/internal/testutil"
	"net/netip"
	"strings"
	"testing"
)

// behindRouter joins two nodes over a router whose link to the second carries less. The router drops ICMP errors about it, and
// fragments, as firewalls do that "block ICMP".
func behindRouter(t *testing.T, six bool, mtu int) *pair {
	t.Helper()
	a, r, b := newNS(t, "a"), newNS(t, "r"), newNS(t, "b")
	sh(t, "ip", "link", "add", "u0", "netns", string(a), "type", "veth", "peer", "name", "ra", "netns", string(r))
	sh(t, "ip", "link", "add", "u0", "netns", string(b), "type", "veth", "peer", "name", "rb", "netns", string(r))
	nets, bits := []string{"192.0.2.", "198.51.100."}, "/24"
	if six {
		nets, bits = []string{"2001:db8:1::", "2001:db8:2::"}, "/64"
	}
	for i, x := range []struct {
		node ns
		port string
	}{{a, "ra"}, {b, "rb"}} {
		for _, y := range []struct {
			n         ns
			dev, host string
		}{{x.node, "u0", "1"}, {r, x.port, "254"}} {
			args := []string{"addr", "add", nets[i] + y.host + bits, "dev", y.dev}
			if six {
				args = append(args, "nodad")
			}
			y.n.ip(t, args...)
			y.n.ip(t, "link", "set", y.dev, "up")
		}
		family := map[bool]string{false: "-4", true: "-6"}[six]
		x.node.ip(t, family, "route", "add", "default", "via", nets[i]+"254")
	}
	for _, f := range []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"} {
		r.run(t, "sysctl", "-qw", f)
	}
	r.ip(t, "link", "set", "rb", "mtu", fmt.Sprint(mtu))
	b.ip(t, "link", "set", "u0", "mtu", "1500") // it has no information about the narrow link
	r.run(t, "nft", "add table inet fw; add chain inet fw out { type filter hook output priority 0; }; "+
		"add rule inet fw out icmp type destination-unreachable drop; add rule inet fw out icmpv6 type packet-too-big drop; "+
		"add chain inet fw post { type filter hook postrouting priority 0; }; add rule inet fw post ip frag-off & 0x3fff != 0 drop; "+
		"add rule inet fw post exthdr frag exists drop")
	p := &pair{a: a, b: b}
	for _, x := range []struct {
		n         ns
		own, peer byte
		to        **proc
	}{{a, 1, 2, &p.na}, {b, 2, 1, &p.nb}} {
		end := netip.AddrPortFrom(netip.MustParseAddr(nets[x.peer-1]+"1"), 51820)
		c := config(t, x.own, 1420)
		c.Source4, c.Source6 = inner(x.own)
		probe, _ := inner(x.peer)
		*x.to = x.n.node(t, nodeConfig{Config: c, Peers: []Peer{{Name: "peer", PublicKey: publicOf(t, nodeKey(x.peer)),
			Endpoints: []netip.AddrPort{end}, AllowedIPs: blocks(int(x.peer)), Probe: probe}}})
		x.n.overlay(t, "warren0", int(x.own))
	}
	p.reach(t)
	return p
}

// inner are the addresses that overlay gives.
func inner(host byte) (v4, v6 netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 42, host, 1}), netip.MustParseAddr(fmt.Sprintf("fd42:0:0:%d::1", host))
}

// A path that drops large packets, fragments and the ICMP errors about them: both ends discover the path MTU, TCP connections
// continue, and senders of larger datagrams receive packet-too-big.
func TestPathMTU_RouterDropsLargeAndICMP_BothEndsAdapt(t *testing.T) {
	needRoot(t)
	for _, six := range []bool{false, true} {
		t.Run(fmt.Sprintf("underlay6=%v", six), func(t *testing.T) {
			p := behindRouter(t, six, 1400)
			want := 1328 // 1400 less 60 (IPv4) or 80 (IPv6), in steps of 16
			if six {
				want = 1312
			}
			testutil.EventuallyTrue(t, "both ends have discovered the path MTU", func() bool {
				back := p.nb.peers(t)[0].PathMTU // the veth takes four bytes more than its MTU
				return p.na.peers(t)[0].PathMTU == want && (back == want || back == (1404-60)&^15)
			})
			for _, to := range []string{"10.42.2.1", "fd42:0:0:2::1"} {
				for _, back := range []string{"", "-R"} {
					if got := p.iperf(t, to, strings.Fields("-n 5M "+back)...); got < 1<<20 {
						t.Errorf("%s %s: %.0f bytes arrived", to, back, got)
					}
				}
			}
			out, err := p.a.try("busybox", "ping", "-c1", "-W1", "-s", fmt.Sprint(want-28), "10.42.2.1")
			if err != nil {
				t.Errorf("an echo of %d bytes: %v %s", want, err, out)
			}
			if s := p.na.stats(t); len(s.SegmentationOffload) == 0 || s.Downgrades != 0 {
				t.Errorf("offloads were switched off: %+v", s)
			}
		})
	}
}
