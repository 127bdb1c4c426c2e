package hostnet

import (
	"slices"
	"testing"
)

func TestChains_TablesOfNft_AreListed(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		none, err := Chains()
		if err != nil || len(none) != 0 {
			t.Errorf("a new namespace: %v, %v", none, err)
		}
		sh(t, `nft '
			add table ip kube-proxy
			add chain ip kube-proxy services
			add table inet fw
			add chain inet fw first { type filter hook forward priority 0; policy drop; }
			add chain inet fw incoming { type filter hook input priority 0; policy drop; }
			add chain inet fw second { type filter hook forward priority 5; policy accept; }
		'`)
		have, err := Chains()
		if err != nil {
			t.Error(err)
		}
		for _, want := range []Chain{{"kube-proxy", "services", false, false}, {"fw", "first", true, true}, {"fw", "incoming", false, true},
			{"fw", "second", true, false}} {
			if !slices.Contains(have, want) {
				t.Errorf("%v lacks %v", have, want)
			}
		}
	})
}
