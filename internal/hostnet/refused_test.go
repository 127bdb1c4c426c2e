package hostnet

import (
	"net/netip"
	"strings"
	"testing"
)

// The kernel refuses a rule with port 65535 and a route over a loopback source. Everything else of the state is applied, err is
// nil, and the next Set tries the refused entries alone.
func TestSet_KernelRefusesObjectEntries_AppliesTheRest(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		h, s := testHost(t), desired()
		s.ObjectRules = []Rule{
			{Pref: 73, Proto: 6, Sport: Ports{65535, 65535}, Table: 100},
			{Pref: 73, Proto: 6, Sport: Ports{80, 80}, Table: 100},
		}
		s.ObjectRoutes = []Route{
			{Table: 101, Type: Unicast, Dst: p("198.51.100.1/32"), Dev: "warren0",
				Src: netip.MustParseAddr("203.0.113.9")}, // not of this node
			{Table: 101, Type: Unicast, Dst: p("10.42.0.9/32"), Dev: "warren0"},
			// the route of a Pod
			{Table: 101, Type: Unicast, Dst: p("198.51.100.2/32"), Dev: "warren0"},
		}
		changed, refused, err := h.Set(s)
		if err != nil || len(refused) != 3 || changed == 0 {
			t.Errorf("%d changes, refused %v, error %v; expected three refused entries", changed, refused, err)
		}
		got := state(t)
		for _, want := range []string{"sport 80 lookup 100", "198.51.100.2 dev warren0", "10.42.0.9 dev pod1"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		if changed, refused, err = h.Set(s); changed != 0 || len(refused) != 3 || err != nil {
			t.Errorf("again: %d changes, refused %v, error %v", changed, refused, err)
		}
		s.ObjectRules, s.ObjectRoutes = nil, nil
		if _, refused, err = h.Set(s); len(refused) > 0 || err != nil {
			t.Errorf("without them: refused %v, error %v", refused, err)
		}
	})
}

// A refused entry of the node's own configuration is an error.
func TestSet_KernelRefusesBaseRule_ReturnsError(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		links(t)
		s := desired()
		s.Rules = append(s.Rules, Rule{Pref: 60, Proto: 6, Dport: Ports{1, 65535}, Table: 102})
		if _, refused, err := testHost(t).Set(s); err == nil || len(refused) > 0 {
			t.Errorf("refused %v, error %v; expected an error", refused, err)
		}
	})
}
