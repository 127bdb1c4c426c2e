package membership

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

// claims is a Store that has block records and refuses further claims.
type claims struct {
	Store
	all []model.Block
}

func (c claims) Blocks(context.Context) ([]model.Block, int64, error) { return c.all, 7, nil }

func (c claims) ClaimBlocks(_ context.Context, want []model.Block) (bool, []model.Block, int64, error) {
	return false, nil, 0, fmt.Errorf("claimed %v", want)
}

// A node whose own block record cannot be read keeps the block: its Pods use it. Otherwise it claims what it lacks.
func TestClaim_OwnRecordUnreadable_KeepsTheBlock(t *testing.T) {
	four, six := netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("fd42:0:0:1::/64")
	mine := func(p netip.Prefix) model.Block { return model.Block{CIDR: p, Node: "n1", Identity: "i"} }
	for name, c := range map[string]struct {
		all   []model.Block
		claim bool
	}{
		"one record unreadable":    {[]model.Block{{CIDR: four}, mine(six)}, false},
		"both records unreadable":  {[]model.Block{{CIDR: four}, {CIDR: six}}, false},
		"one unreadable, one lost": {[]model.Block{{CIDR: four}}, true},
		"one of another node":      {[]model.Block{{CIDR: four}, {CIDR: six, Node: "n2", Identity: "j"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Member{cfg: Config{Node: "n1", Identity: "i", Store: claims{all: c.all},
				Cluster: model.Cluster{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/48")},
					BlockBits: [2]int{24, 64}}}, claimed: make(chan struct{})}
			m.setBlocks([]netip.Prefix{four, six})
			err := m.claim(context.Background(), nil)
			if (err != nil) != c.claim || !slices.Equal(m.Blocks(), []netip.Prefix{four, six}) {
				t.Errorf("blocks %v, error %v; expected a claim: %v", m.Blocks(), err, c.claim)
			}
		})
	}
}

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
