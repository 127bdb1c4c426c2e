package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
)

// Addresses of unmanaged Pods in the node's block are looked up in the host's own table; the others are unreachable.
func TestBlockRoutes_UnmanagedAddresses_SkipTheTUN(t *testing.T) {
	p := netip.MustParsePrefix
	block := p("10.42.3.0/24")
	for _, c := range []struct {
		unmanaged []netip.Prefix
		want      []hostnet.Route
	}{
		{nil, []hostnet.Route{{Table: tablePods, Type: hostnet.Unreachable, Dst: block}}},
		{[]netip.Prefix{p("10.42.9.0/24")}, []hostnet.Route{{Table: tablePods, Type: hostnet.Unreachable, Dst: block}}},
		{[]netip.Prefix{block}, []hostnet.Route{{Table: tablePods, Type: hostnet.Throw, Dst: block},
			{Table: tableEgress, Type: hostnet.Throw, Dst: block}}},
		{[]netip.Prefix{p("10.42.3.64/26")}, []hostnet.Route{{Table: tablePods, Type: hostnet.Throw, Dst: p("10.42.3.64/26")},
			{Table: tableEgress, Type: hostnet.Throw, Dst: p("10.42.3.64/26")}, {Table: tablePods, Type: hostnet.Unreachable, Dst: block}}},
	} {
		t.Run(fmt.Sprint(c.unmanaged), func(t *testing.T) {
			in := Input{Host: Host{Underlay: hostnet.Underlay{UnmanagedPods: c.unmanaged}}}
			if got := in.blockRoutes(block); !slices.Equal(got, c.want) {
				t.Errorf("%v, expected %v", got, c.want)
			}
		})
	}
}

// An unmanaged Pod with the SNAT address makes the plan use another one, which stays when that Pod is deleted. Neither address
// may be allocated.
func TestMake_SNATAddressOfUnmanagedPod_UsesFallback(t *testing.T) {
	in := testInput()
	in.ReportedPods = []model.Pod{{Addrs: []netip.Addr{ip("10.42.0.2")}}, {Addrs: []netip.Addr{ip("10.42.0.254")}, HostNetwork: true},
		{Addrs: []netip.Addr{ip("10.42.1.7")}}, {Addrs: []netip.Addr{ip("10.42.0.9")}}}
	in.Pods = []Pod{{Addrs: []netip.Addr{ip("10.42.0.254"), ip("10.42.0.9")}}}
	block, want := pfx("10.42.0.0/24"), ip("10.42.0.253")
	p := mustMake(t, in)
	if got := p.snatAddr(block); got != want || p.snatAddr(pfx("fd42::/64")) != ip("fd42::2") {
		t.Errorf("SNAT addresses %s and %s", got, p.snatAddr(pfx("fd42::/64")))
	}
	if !slices.Equal(p.Unmanaged, []netip.Addr{ip("10.42.0.2"), want}) {
		t.Errorf("not to be allocated: %v", p.Unmanaged)
	}
	if !slices.ContainsFunc(p.Host.Routes, func(r hostnet.Route) bool { return r.Dst == host(want) && r.Table == tablePods }) {
		t.Error("no route for the fallback SNAT address")
	}
	in.ReportedPods, in.FallbackSNAT = nil, p.FallbackSNAT
	if p := mustMake(t, in); p.snatAddr(block) != want || !slices.Equal(p.Unmanaged, []netip.Addr{want}) {
		t.Errorf("after the Pod is deleted: %s, not to be allocated: %v", p.snatAddr(block), p.Unmanaged)
	}
}

func TestFallbackSNAT_UsedAddresses_TakesTheHighestFreeOne(t *testing.T) {
	used := map[netip.Addr]bool{ip("10.42.3.254"): true, ip("10.42.3.253"): true}
	for block, want := range map[string]string{"10.42.3.0/24": "10.42.3.252", "10.42.4.0/26": "10.42.4.62",
		"fd42:0:0:3::/64": "fd42::3:ffff:ffff:ffff:fffe"} {
		t.Run(block, func(t *testing.T) {
			if got, ok := fallbackSNAT(pfx(block), func(x netip.Addr) bool { return used[x] }); !ok || got != ip(want) {
				t.Errorf("%s %v, expected %s", got, ok, want)
			}
		})
	}
	if got, ok := fallbackSNAT(pfx("10.42.3.0/29"), func(netip.Addr) bool { return true }); ok {
		t.Errorf("a full block gave %s", got)
	}
}
