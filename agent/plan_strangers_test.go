package agent

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
)

// What a network before warren left in the node's block goes by the host's own table; the rest of the block ends here.
func TestOwnBlock(t *testing.T) {
	p := netip.MustParsePrefix
	block := p("10.42.3.0/24")
	for _, c := range []struct {
		strangers []netip.Prefix
		want      []hostnet.Route
	}{
		{nil, []hostnet.Route{{Table: tablePods, Type: hostnet.Unreachable, Dst: block}}},
		{[]netip.Prefix{p("10.42.9.0/24")}, []hostnet.Route{{Table: tablePods, Type: hostnet.Unreachable, Dst: block}}},
		{[]netip.Prefix{block}, []hostnet.Route{{Table: tablePods, Type: hostnet.Throw, Dst: block}, {Table: tableWorld, Type: hostnet.Throw, Dst: block}}},
		{[]netip.Prefix{p("10.42.3.64/26")}, []hostnet.Route{{Table: tablePods, Type: hostnet.Throw, Dst: p("10.42.3.64/26")},
			{Table: tableWorld, Type: hostnet.Throw, Dst: p("10.42.3.64/26")}, {Table: tablePods, Type: hostnet.Unreachable, Dst: block}}},
	} {
		var me self
		me.Underlay.Strangers = c.strangers
		if got := me.ownBlock(block); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, expected %v", c.strangers, got, c.want)
		}
	}
}

func TestStandIn(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	taken := map[netip.Addr]bool{a("10.42.3.254"): true, a("10.42.3.253"): true}
	for block, want := range map[netip.Prefix]string{p("10.42.3.0/24"): "10.42.3.252", p("10.42.4.0/26"): "10.42.4.62", p("fd42:0:0:3::/64"): "fd42::3:ffff:ffff:ffff:fffe"} {
		if got, ok := standIn(block, func(x netip.Addr) bool { return taken[x] }); !ok || got != a(want) {
			t.Errorf("%s: %s %v, expected %s", block, got, ok, want)
		}
	}
	if got, ok := standIn(p("10.42.3.0/29"), func(netip.Addr) bool { return true }); ok {
		t.Errorf("a full block gave %s", got)
	}
	me := self{SNAT: map[netip.Prefix]netip.Addr{p("10.42.3.0/24"): a("10.42.3.252")}}
	if me.snat(p("10.42.3.0/24")) != a("10.42.3.252") || me.snat(p("10.42.4.0/24")) != a("10.42.4.2") {
		t.Error("snat")
	}
}
