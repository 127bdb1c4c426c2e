package hostnet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/testutil"
	"golang.org/x/sys/unix"
)

// inNetns runs fn in a network namespace of its own.
func inNetns(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	testutil.InNetns(t, func() { fn(t) })
}

// sh runs a command in the namespace of the calling thread.
func sh(t *testing.T, command string) string {
	t.Helper()
	return testutil.Shell(t, command)
}

// The text of a rule is a line of `ip rule`, up to the protocol at its end.
func TestRuleString_EachRule_IsALineOfIPRule(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		s := desired()
		s.Rules = append(s.Rules, Rule{Pref: 120, To: p("192.0.2.7/32"), IIF: "lo", Proto: 132, Dport: Ports{80, 80}, Table: 254})
		set(t, testHost(t), s, -1)
		lines := strings.Split(sh(t, "ip rule; ip -6 rule | sed 's/^/-6 /'"), "\n")
		for _, r := range s.Rules {
			t.Run(r.String(), func(t *testing.T) {
				if !slices.ContainsFunc(lines, func(l string) bool {
					return strings.HasPrefix(strings.Join(strings.Fields(l), " ")+" ", r.String()+" ")
				}) {
					t.Errorf("%q is none of %q", r, lines)
				}
			})
		}
	})
}

// The node's own addresses must be reachable after every move, and after another program removed all other rules.
func TestSet_LocalRuleMoves_NodeStaysReachable(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		sh(t, "ip link set lo up; ip addr add 192.0.2.7/32 dev lo")
		h := testHost(t)
		for range 3 {
			set(t, h, desired(), -1)
			sh(t, "ping -c1 -W1 192.0.2.7; ping -c1 -W1 127.0.0.1; ping -c1 -W1 ::1")
			without := desired()
			without.LocalPref = 0
			set(t, h, without, -1)
			sh(t, "ping -c1 -W1 192.0.2.7; ping -c1 -W1 ::1")
		}
		set(t, h, desired(), -1)
		// As systemd-networkd does: every rule but those of protocol kernel goes (iproute2 shows no protocol for those).
		sh(t, "for f in -4 -6; do ip $f -N rule | grep -v 'from all lookup 255$' | awk -F: '$1>0{print $1}' | while read p; do ip $f "+
			"rule del pref $p || true; done; done")
		sh(t, "ping -c1 -W1 192.0.2.7; ping -c1 -W1 ::1")
		if err := h.Uninstall("warren0"); err != nil {
			t.Error(err)
		}
		if got := sh(t, "ip rule; ip -6 rule"); strings.Count(got, "0:\tfrom all lookup local") != 2 || strings.Contains(got, "100:") {
			t.Errorf("after uninstall:\n%s", got)
		}
	})
}

func testHost(t *testing.T) *Host {
	// /proc/thread-self/net is the thread's; /proc/sys/net follows the reader's namespace by itself.
	return New("/proc/sys/net", filepath.Join(t.TempDir(), "sysctls.json"), slog.New(slog.NewTextHandler(io.Discard, nil)))
}

func p(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func desired() State {
	return State{
		Link:  "warren0",
		Addrs: []netip.Prefix{p("10.42.0.1/32"), p("fd42::1/128")},
		Routes: []Route{
			{Table: 101, Type: Unicast, Dst: p("10.42.0.0/16"), Dev: "warren0", Src: netip.MustParseAddr("10.42.0.1")},
			{Table: 101, Type: Blackhole, Dst: p("10.42.0.0/16"), Metric: 4096},
			{Table: 101, Type: Unicast, Dst: p("fd42::/48"), Dev: "warren0", Src: netip.MustParseAddr("fd42::1")},
			{Table: 101, Type: Blackhole, Dst: p("fd42::/48"), Metric: 4096},
			{Table: 101, Type: Unreachable, Dst: p("10.42.0.0/24")},
			{Table: 101, Type: Unreachable, Dst: p("fd42::/64")},
			{Table: 103, Type: Throw, Dst: p("10.0.0.0/8")},
			{Table: 105, Type: Unicast, Dst: p("192.0.2.7/32"), Dev: "warren0", MTU: 1280},
			{Table: 105, Type: Unicast, Dst: p("2001:db8::7/128"), Dev: "warren0", MTU: 1280},
			{Table: 103, Type: Unicast, Dst: p("0.0.0.0/0"), Dev: "warren0"},
			{Table: 103, Type: Unicast, Dst: p("::/0"), Dev: "warren0"},
		},
		PodRoutes: []Route{
			{Table: 101, Type: Unicast, Dst: p("10.42.0.9/32"), Dev: "pod1"},
			{Table: 101, Type: Unicast, Dst: p("fd42::9/128"), Dev: "pod1"},
			{Table: 101, Type: Unicast, Dst: p("10.42.0.8/32"), Dev: "vanished"},
		},
		Rules: []Rule{
			{Pref: 115, Table: 101}, {Pref: 116, From: p("10.42.0.0/16"), Table: 103},
			{Pref: 115, Family: model.IPv6, Table: 101}, {Pref: 116, Family: model.IPv6, From: p("fd42::/48"), Table: 103},
			{Pref: 30, IIF: "warren0", Table: 255},
			{Pref: 31, IIF: "warren0", Goto: 115},
			{Pref: 60, Proto: 6, Dport: Ports{30000, 32767}, Table: 102},
			{Pref: 60, Family: model.IPv6, Proto: 17, Dport: Ports{30000, 32767}, Table: 102},
			{Pref: 110, From: p("10.42.0.0/16"), Proto: 6, Sport: Ports{8080, 8080}, Table: 100},
		},
		LocalPref: 100,
		Sysctls: []Sysctl{
			{Path: "ipv4/ip_forward", Value: "1"},
			{Path: "ipv4/conf/warren0/rp_filter", Value: "2"},
			{Path: "ipv6/conf/warren0/accept_ra", Value: "2", If: "1"},
			{Path: "ipv4/ip_local_reserved_ports", Value: "30000-32767,49152-65534", Append: true},
			{Path: "ipv6/conf/nosuch/accept_ra", Value: "2", Optional: true},
		},
	}
}

// links makes a TUN and the host's end of a Pod's interface.
func links(t *testing.T) {
	t.Helper()
	sh(t, "ip tuntap add warren0 mode tun; ip link add pod1 type veth peer name pod1p; ip link set pod1 up; ip link set pod1p up")
}

// state returns the kernel's rules, warren's routes and the addresses of warren0.
func state(t *testing.T) string {
	return sh(t, "ip -N rule; ip -6 -N rule; ip -N route show table all proto 119; ip -6 -N route show table all proto 119; ip -br addr "+
		"show dev warren0 | tr -s ' '")
}

func set(t *testing.T, h *Host, s State, want int) {
	t.Helper()
	changed, refused, err := h.Set(s)
	if err != nil || len(refused) > 0 {
		t.Errorf("Set: %v, refused: %v", err, refused)
	}
	if want >= 0 && changed != want {
		t.Errorf("Set changed %d things, expected %d", changed, want)
	}
}

func TestSet_StateChangedByOthers_IsRestored(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		h := testHost(t)
		set(t, h, desired(), 1+2+13+9+6+4) // link up, addresses, routes, rules, the moved rule of table local, sysctls
		first := state(t)
		set(t, h, desired(), 0)
		for _, change := range []string{
			"ip rule del pref 115", "ip -6 rule del pref 116", "ip route del 10.42.0.0/16 dev warren0 table 101",
			"ip route del 10.42.0.9 table 101",
			"ip -6 route flush table 101", "ip addr del 10.42.0.1/32 dev warren0", "sysctl -qw net.ipv4.ip_forward=0",
			"ip rule del pref 100", "ip -6 rule del pref 100; ip -6 rule del pref 32765", "ip rule add pref 0 lookup local",
			"ip rule del pref 60",
			"ip link set warren0 down", "ip route flush table 101", "ip -6 addr flush dev warren0",
		} {
			sh(t, change)
			set(t, h, desired(), -1)
			if got := state(t); got != first {
				t.Errorf("after %q Set did not restore the state:\n%s\nexpected\n%s", change, got, first)
			}
			set(t, h, desired(), 0)
		}
	})
}

// A Set that changes nothing must not cause a notification: the agent calls Set on every notification, so it would never
// stop.
func TestSet_NothingToChange_SendsNoNotification(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		h := testHost(t)
		set(t, h, desired(), -1)
		s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
			unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		set(t, h, desired(), 0)
		sh(t, "ip rule add pref 99 lookup 7")
		msgs, _, err := s.Receive()
		priority99 := []byte{8, 0, unix.FRA_PRIORITY, 0, 99, 0, 0, 0}
		if err != nil || len(msgs) == 0 || !bytes.Contains(msgs[0].Data, priority99) {
			t.Errorf("the second Set caused a notification before that of the sentinel rule: %v %v", msgs, err)
		}
	})
}

func TestSet_ObjectsOfOtherPrograms_AreUnchanged(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		sh(t, "ip rule add pref 115 to 192.0.2.0/24 lookup 101; ip route add 198.51.100.0/24 dev pod1 table 101; ip route add "+
			"10.42.200.0/24 dev pod1 table 101 proto 5")
		others := "ip -N rule | grep 192.0.2; ip -N route show table 101 | grep -v 'proto 119'"
		before := sh(t, others)
		h := testHost(t)
		set(t, h, desired(), -1)
		small := desired()
		small.Routes, small.Rules, small.Addrs = small.Routes[:1], nil, small.Addrs[:1]
		set(t, h, small, -1)
		if err := h.Uninstall("warren0"); err != nil {
			t.Error(err)
		}
		if after := sh(t, others); after != before {
			t.Errorf("others' rules and routes changed:\n%s\nbefore\n%s", after, before)
		}
	})
}

func TestSet_ObjectsNotWanted_AreRemoved(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		h := testHost(t)
		set(t, h, desired(), -1)
		small := desired()
		small.Routes, small.Rules = small.Routes[:2], small.Rules[:1]
		set(t, h, small, -1)
		got := state(t)
		for _, removed := range []string{"throw", "lookup 103", "default dev warren0", "fd42::/48"} {
			if strings.Contains(got, removed) {
				t.Errorf("%q is still there:\n%s", removed, got)
			}
		}
		// The kernel deletes a Pod's route with its interface. Set does not: the Pod's ADD may be in progress.
		if !strings.Contains(got, "10.42.0.9") {
			t.Errorf("the route of a Pod was removed:\n%s", got)
		}
	})
}

func TestUninstall_AfterSet_RestoresSysctls(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		sh(t, "sysctl -qw net.ipv4.conf.warren0.rp_filter=1 net.ipv4.ip_local_reserved_ports=8080,9000-9010")
		read := "sysctl -n net.ipv4.ip_local_reserved_ports net.ipv4.ip_forward net.ipv4.conf.warren0.rp_filter " +
			"net.ipv6.conf.warren0.accept_ra"
		before := sh(t, read)
		h := testHost(t)
		set(t, h, desired(), -1)
		if now := sh(t, read); now == before || !strings.Contains(now, "8080,9000-9010,30000-32767,49152-65534") {
			t.Errorf("sysctls are %q, expected changed values and the reserved ports of others kept", now)
		}
		// A new process reads the former values from the file.
		h = New("/proc/sys/net", h.sysctls.file, h.log)
		for range 2 {
			if err := h.Uninstall("warren0"); err != nil {
				t.Error(err)
			}
		}
		if after := sh(t, read); after != before {
			t.Errorf("sysctls after uninstall %q, before %q", after, before)
		}
		if got := sh(t, "ip -N rule; ip -6 -N rule; "+
			"ip -N route show table all proto 119; ip -6 -N route show table all proto 119"); strings.Contains(got, "lookup 101") ||
			strings.Contains(got, "warren0") || strings.Contains(got, "metric 4096") {
			t.Errorf("left after uninstall:\n%s", got)
		}
	})
}

func TestSet_OneRouteFails_OthersAreApplied(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		s := desired()
		s.Routes = append([]Route{{Table: 101, Type: Unicast, Dst: p("10.42.0.10/32"), Dev: "nosuch"}}, s.Routes...)
		_, _, err := testHost(t).Set(s)
		if err == nil || !strings.Contains(err.Error(), "10.42.0.10/32") {
			t.Errorf("error %v, expected one that names the route", err)
		}
		if got := state(t); !strings.Contains(got, "10.42.0.9") || !strings.Contains(got, "lookup 103") {
			t.Errorf("one bad route stopped the others:\n%s", got)
		}
	})
}

func TestObserve_LinksAndRoutes_AreClassified(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		sh(t, `ip link add eth1 mtu 1400 type veth peer name x1; ip link add eth0 type veth peer name x0; ip link add docker0 type bridge
ip addr add 192.0.2.5/24 dev eth0
ip addr add 198.51.100.5/24 dev eth1
ip addr add 2001:db8::5/64 dev eth1 nodad
ip addr add 172.17.0.1/16 dev docker0
ip addr add 10.42.0.1/24 dev eth0
for l in eth0 eth1 x0 x1 docker0; do ip link set $l up; done
ip route add default via 198.51.100.1 dev eth1`)
		u, err := Observe([]netip.Prefix{p("10.42.0.0/16")})
		if err != nil {
			t.Fatal(err)
		}
		want := "[198.51.100.5 2001:db8::5 192.0.2.5]"
		if got := strings.Join(strings.Fields(strings.Join(addrStrings(u.Addrs), " ")), " "); "["+got+"]" != want || u.MTU != 1400 {
			t.Errorf("addresses [%s] MTU %d, expected %s (the default route's link first) and 1400", got, u.MTU, want)
		}
		sh(t, "ip route add 203.0.113.0/24 via 192.0.2.1; ip route add 203.0.113.128/25 via 192.0.2.1 src 198.51.100.5")
		if u, err = Observe([]netip.Prefix{p("10.42.0.0/16")}); err != nil {
			t.Fatal(err)
		}
		for to, from := range map[string]string{"203.0.113.9": "192.0.2.5", "203.0.113.200": "198.51.100.5", "192.0.2.77": "192.0.2.5",
			"8.8.8.8": "198.51.100.5"} {
			for _, s := range u.Sources {
				if s.To.Contains(netip.MustParseAddr(to)) {
					if s.From.String() != from {
						t.Errorf("towards %s from %s by %s, expected %s", to, s.From, s.To, from)
					}
					break
				}
			}
		}
		if len(u.Sources) == 0 || slices.ContainsFunc(u.Sources, func(s Source) bool { return s.To.Addr().Is6() }) {
			t.Errorf("sources %v: expected those of IPv4, which has two addresses, and none of IPv6", u.Sources)
		}
		sh(t, "ip route add 10.42.5.0/24 dev docker0; ip route add 10.42.6.0/24 via 192.0.2.1")
		if u, err = Observe([]netip.Prefix{p("10.42.0.0/16")}); err != nil ||
			fmt.Sprint(u.UnmanagedPods, u.UnmanagedPodLinks) != "[10.42.5.0/24] [docker0]" {
			t.Errorf("unmanaged Pods %v on links %v, err %v: expected the routes over links of this host", u.UnmanagedPods,
				u.UnmanagedPodLinks, err)
		}
		if fmt.Sprint(u.UnmanagedRemote, u.UnmanagedVia) != "[10.42.6.0/24] [{10.42.6.0/24 192.0.2.1 eth0}]" {
			t.Errorf("unmanaged remote Pods %v via %v: expected the route over a gateway", u.UnmanagedRemote, u.UnmanagedVia)
		}
		over, unmanaged, err := Overlaps([]netip.Prefix{p("192.0.0.0/8"), p("233.252.0.0/24"), p("10.42.4.0/22")})
		if err != nil || len(over) != 2 || !strings.Contains(over[0], "10.42.6.0/24 dev eth0") ||
			!strings.Contains(over[1], "192.0.2.0/24 dev eth0") {
			t.Errorf("overlaps %v err %v, expected the routes of eth0", over, err)
		}
		if fmt.Sprint(unmanaged) != "[10.42.5.0/24 dev docker0]" {
			t.Errorf("unmanaged %v, expected the route of the bridge", unmanaged)
		}
	})
}

func addrStrings(list []netip.Addr) (out []string) {
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func TestWatch_ChangeByOtherProgram_IsReported(t *testing.T) {
	for _, c := range []struct {
		name      string
		watch     func(context.Context, func()) error
		make, end string
	}{
		{"rule", Watch, "ip rule add pref 99 lookup 7", "ip rule del pref 99 lookup 7"},
		{"table of nf_tables", WatchChains, "nft add table ip kube-proxy", "nft delete table ip kube-proxy"},
	} {
		t.Run(c.name, func(t *testing.T) { watchReports(t, c.watch, c.make, c.end) })
	}
}

// watchReports makes and reverts a change until watch reports it.
func watchReports(t *testing.T, watch func(context.Context, func()) error, change, back string) {
	inNetns(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		changes, done, started := make(chan struct{}, 100), make(chan error, 1), make(chan struct{})
		go func() {
			runtime.LockOSThread()
			if err := unix.Setns(threadNetns(t, cancel), unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
			close(started)
			done <- watch(ctx, func() { changes <- struct{}{} })
		}()
		ns := make(chan int, 1)
		nsFD <- ns
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		ns <- fd
		<-started
		for i := range 200 { // a change before the subscription is not reported, so it is repeated
			sh(t, []string{change, back}[i%2])
			select {
			case <-changes:
				i = 200
			default:
				continue
			}
			break
		}
		for range len(changes) {
			<-changes
		}
		sh(t, "ip link set lo up; nft add table ip another")
		<-changes
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// nsFD hands the watcher's goroutine the namespace of the test's thread.
var nsFD = make(chan chan int)

func threadNetns(t *testing.T, fail func()) int {
	t.Helper()
	c := <-nsFD
	return <-c
}

// A sysctl that was empty before Set is empty after the restoration.
func TestSysctls_EmptyValue_IsRestored(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		const ports = "ipv4/ip_local_reserved_ports"
		c := &sysctls{root: "/proc/sys/net", file: filepath.Join(t.TempDir(), "sysctls.json")}
		if _, err := c.set(Sysctl{Path: ports, Value: "13000-32767", Append: true}); err != nil {
			t.Fatal(err)
		}
		if have, err := c.read(ports); err != nil || have != "13000-32767" {
			t.Errorf("set: %q %v", have, err)
		}
		if err := c.restore(); err != nil {
			t.Error(err)
		}
		if have, err := c.read(ports); err != nil || have != "" {
			t.Errorf("restored: %q %v", have, err)
		}
	})
}
