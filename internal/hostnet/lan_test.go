package hostnet

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

// Routes inside the Pod ranges that the network has sent, or that the kernel has derived from it, are none of another CNI plugin.
func TestObserve_RoutesFromTheNetwork_AreIgnored(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		sh(t, `ip link add eth0 type veth peer name x0; ip link add mybridge type bridge
for l in eth0 x0 mybridge; do ip link set $l up; done; ip addr add 192.0.2.5/24 dev eth0; ip addr add 10.42.3.1/24 dev eth0
ip addr add 10.42.4.1/24 dev mybridge
ip route add 10.42.200.0/24 dev eth0 proto ra; ip route add 10.42.201.0/24 via 192.0.2.1 proto dhcp
ip route add 10.42.202.0/24 via 192.0.2.1 proto redirect; ip route add 10.42.203.0/24 via 192.0.2.1 proto bird
ip route add 10.42.204.0/24 via 192.0.2.1`)
		u, err := Observe([]netip.Prefix{p("10.42.0.0/16")})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(u.UnmanagedPods, u.UnmanagedRemote); got != "[10.42.4.0/24] [10.42.203.0/24 10.42.204.0/24]" {
			t.Errorf("routes of another CNI plugin: %s", got)
		}
		ignored := strings.Join(u.IgnoredRoutes, "\n")
		for _, want := range []string{"10.42.200.0/24 dev eth0 proto ra", "10.42.201.0/24 via 192.0.2.1 dev eth0 proto dhcp",
			"10.42.202.0/24 via 192.0.2.1 dev eth0 proto redirect", "10.42.3.0/24 dev eth0 proto kernel"} {
			if !strings.Contains(ignored, want) {
				t.Errorf("not reported: %s, only\n%s", want, ignored)
			}
		}
	})
}

// Packets of all links that are up are verified, except for those of warren and of links that pass them on to a bridge.
func TestObserve_Links_OutsideAreThoseThatReceivePackets(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		sh(t, `ip link set lo up; ip link add eth0 type veth peer name wrn1; ip link add br0 type bridge; ip link add p0 type veth peer name x0
ip link set p0 master br0; for l in eth0 wrn1 br0 p0; do ip link set $l up; done; ip tuntap add warren0 mode tun; ip link set warren0 up`)
		u, err := Observe(nil)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, l := range u.Outside {
			seen[l] = true
		}
		if len(seen) != 2 || !seen["eth0"] || !seen["br0"] {
			t.Errorf("links %v, expected eth0 and br0", u.Outside)
		}
	})
}

// A rule that drops packets is read back as it was added, and removed.
func TestSet_BlackholeRule_AddedOnceAndRemoved(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		sh(t, "ip tuntap add warren0 mode tun")
		h := testHost(t)
		s := State{Link: "warren0", Rules: []Rule{
			{Pref: 40, IIF: "eth0", Goto: 43},
			{Pref: 43, From: p("10.42.0.0/16"), Type: Blackhole},
			{Pref: 45, Family: model.IPv6, To: p("fd42::/48"), Type: Blackhole}}}
		if _, refused, err := h.Set(s); err != nil || len(refused) > 0 {
			t.Fatal(err, refused)
		}
		// 6 is FR_ACT_BLACKHOLE.
		if got := state(t); !strings.Contains(got, "from 10.42.0.0/16 6 proto") || !strings.Contains(got, "to fd42::/48 6 proto") {
			t.Errorf("rules:\n%s", got)
		}
		if n, refused, err := h.Set(s); n != 0 || err != nil || len(refused) > 0 {
			t.Errorf("the second time: %d changes, %v %v", n, err, refused)
		}
		if _, refused, err := h.Set(State{Link: "warren0"}); err != nil || len(refused) > 0 {
			t.Error(err, refused)
		}
		if got := state(t); strings.Contains(got, "proto 119") {
			t.Errorf("left:\n%s", got)
		}
	})
}
