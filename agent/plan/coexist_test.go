package plan

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// While nodes migrate to warren or away from it, Pods of nodes without a claimed block are reached over their own network. Packets
// to a claimed block are never sent in clear, neither while its node is unreachable nor before any claim is known.
func TestOtherNetworks_UnclaimedPodCIDRs_SkipTheTUN(t *testing.T) {
	p := netip.MustParsePrefix
	in := Input{Self: Self{Blocks: []netip.Prefix{p("10.42.1.0/24")}}}
	in.Underlay.UnmanagedRemote = []netip.Prefix{p("10.42.1.0/24"), p("10.42.2.0/24"), p("10.42.3.0/24"), p("10.42.4.0/24"),
		p("10.42.5.0/24"), p("10.42.6.0/24"), p("10.42.7.0/24")}
	peers := []tunnel.Peer{
		{Name: "n2", AllowedIPs: []netip.Prefix{p("10.42.2.0/24"), p("192.0.2.2/32")}},
		{Name: "n4", AllowedIPs: []netip.Prefix{p("10.42.4.0/24")}},
		{Name: "laptop", External: true, AllowedIPs: []netip.Prefix{p("10.42.5.0/24")}}}
	in.Snapshot = &model.Snapshot{Nodes: []model.Node{{Name: "n2", Alive: true}, {Name: "n4"}},
		Blocks: []model.Block{{CIDR: p("10.42.6.0/24"), Node: "n4"}, {CIDR: p("10.42.7.0/24"), Node: "n7"}}}
	x := Plan{Peers: peers}
	x.coexist(&in)
	var want []hostnet.Route
	for _, dst := range []string{"10.42.3.0/24", "10.42.7.0/24"} { // without a claim, and of a node that is not registered yet
		for _, table := range []int{tableTUN, tablePods, tableEgress} {
			want = append(want, hostnet.Route{Table: table, Type: hostnet.Throw, Dst: p(dst)})
		}
	}
	if !slices.Equal(x.Host.ObjectRoutes, want) {
		t.Errorf("%v, expected %v", x.Host.ObjectRoutes, want)
	}
	var early Plan
	in.Snapshot = noSnapshot
	if early.coexist(&in); len(early.Host.ObjectRoutes) > 0 {
		t.Errorf("before the first snapshot: %v", early.Host.ObjectRoutes)
	}
}

func TestMake_BeforeTheFirstSnapshot_WaitsWhereTheHostHasRoutesToPods(t *testing.T) {
	in := testInput()
	in.Underlay.UnmanagedRemote = []netip.Prefix{pfx("10.42.9.0/24")}
	if _, ok := Make(in); !ok {
		t.Error("with a snapshot: no plan")
	}
	in.Snapshot = nil
	if _, ok := Make(in); ok {
		t.Error("with routes to other nodes' Pods: a plan before any claim is known")
	}
	in.Underlay.UnmanagedRemote = nil
	if _, ok := Make(in); !ok {
		t.Error("without such routes: no plan")
	}
}

// Replies to flows that a kube-proxy has translated do not pass the TUN; all other rules stay.
func TestCoexist_KubeProxy_RepliesSkipTheTUN(t *testing.T) {
	block, pods := netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("10.42.0.0/16")
	in := Input{Snapshot: noSnapshot, Self: Self{Blocks: []netip.Prefix{block}, Cluster: model.Cluster{PodCIDRs: []netip.Prefix{pods}},
		Interface: "warren0"}}
	st := servicelb.Redirects{PodPorts: []servicelb.Port{{Proto: 6, Port: 8080}, {Proto: 17, Port: 53}},
		HostPorts: []servicelb.Port{{Proto: 6, Port: 6443}}}
	build := func(kubeProxy bool) (p Plan) {
		in.KubeProxy = kubeProxy
		p.host(&in)
		p.services(&in, st)
		p.coexist(&in)
		return p
	}
	with, without := build(true), build(false)
	withRules, withoutRules := slices.Concat(with.Host.Rules, with.Host.ObjectRules),
		slices.Concat(without.Host.Rules, without.Host.ObjectRules)
	redirected := func(r hostnet.Rule) bool { return r.Table == tableTUN }
	if slices.ContainsFunc(withRules, redirected) || !slices.ContainsFunc(withoutRules, redirected) {
		t.Errorf("with a kube-proxy %v\nwithout %v", withRules, withoutRules)
	}
	for _, r := range []hostnet.Rule{
		{Pref: prefReplies, From: pods, Proto: 6, Sport: hostnet.Ports{Lo: 8080, Hi: 8080}, Goto: prefPodsAgain},
		{Pref: prefReplies, From: pods, Proto: 17, Sport: hostnet.Ports{Lo: 53, Hi: 53}, Goto: prefPodsAgain},
		{Pref: prefEgress, From: block, Table: tableEgress},
		{Pref: prefPodsAgain, Table: tablePods},
	} {
		if !slices.Contains(withRules, r) || slices.Contains(withoutRules, r) {
			t.Errorf("%v: with a kube-proxy %v\nwithout %v", r, withRules, withoutRules)
		}
	}
	for _, r := range withoutRules {
		if r.Pref < prefReplies && r.Table != tableTUN && !slices.Contains(withRules, r) {
			t.Errorf("with a kube-proxy there is no %v", r)
		}
	}
	if len(with.Problems) != 1 || len(without.Problems) != 0 {
		t.Errorf("problems %q and %q", with.Problems, without.Problems)
	}
}
