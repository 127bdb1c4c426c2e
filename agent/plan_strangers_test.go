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
		{[]netip.Prefix{block}, []hostnet.Route{{Table: tablePods, Type: hostnet.Throw, Dst: block}}},
		{[]netip.Prefix{p("10.42.3.64/26")}, []hostnet.Route{{Table: tablePods, Type: hostnet.Throw, Dst: p("10.42.3.64/26")}, {Table: tablePods, Type: hostnet.Unreachable, Dst: block}}},
	} {
		var me self
		me.Underlay.Strangers = c.strangers
		if got := me.ownBlock(block); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, expected %v", c.strangers, got, c.want)
		}
	}
}
