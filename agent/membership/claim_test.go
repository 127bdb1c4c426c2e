package membership

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

func TestUnclaimed_NodePodCIDRs_ReportsReason(t *testing.T) {
	p := netip.MustParsePrefix
	c := model.Cluster{PodCIDRs: []netip.Prefix{p("10.42.0.0/16")}, BlockBits: [2]int{24, 64}}
	have := []netip.Prefix{p("10.42.1.0/24")}
	blocks := []model.Block{{CIDR: p("10.42.2.0/24"), Node: "n2"}}
	for want, reason := range map[string]string{"10.42.1.0/24": "", "10.42.2.0/24": "node n2 has it", "10.244.3.0/24": "outside",
		"10.42.4.0/25": "blocks are /24", "10.42.5.0/24": "only after"} {
		t.Run(strings.ReplaceAll(want, "/", "-"), func(t *testing.T) {
			got := unclaimed([]netip.Prefix{p(want)}, have, c, blocks)
			if (len(got) == 0) != (reason == "") || len(got) == 1 && !strings.Contains(got[0].Why, reason) {
				t.Errorf("%+v, expected %q", got, reason)
			}
		})
	}
}
