package agent

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// While nodes come to warren, or leave it, Pods of those that hold no block are reached as their network has it. What is
// claimed is never sent in clear, neither while its node is away nor before anything is known of it.
func TestElsewhere(t *testing.T) {
	p := netip.MustParsePrefix
	me := self{Blocks: []netip.Prefix{p("10.42.1.0/24")}}
	me.Underlay.Elsewhere = []netip.Prefix{p("10.42.1.0/24"), p("10.42.2.0/24"), p("10.42.3.0/24"), p("10.42.4.0/24"), p("10.42.5.0/24"), p("10.42.6.0/24"), p("10.42.7.0/24")}
	x := plan{Peers: []tunnel.Peer{
		{Name: "n2", AllowedIPs: []netip.Prefix{p("10.42.2.0/24"), p("192.0.2.2/32")}},
		{Name: "n4", AllowedIPs: []netip.Prefix{p("10.42.4.0/24")}},
		{Name: "laptop", Foreign: true, AllowedIPs: []netip.Prefix{p("10.42.5.0/24")}}}}
	snap := &model.Snapshot{Nodes: []model.Node{{Name: "n2", Alive: true}, {Name: "n4"}},
		Blocks: []model.Block{{CIDR: p("10.42.6.0/24"), Node: "n4"}, {CIDR: p("10.42.7.0/24"), Node: "n7"}}}
	x.besideOthers(me, snap, false)
	var want []hostnet.Route
	for _, dst := range []string{"10.42.3.0/24", "10.42.7.0/24"} { // nobody's, and that of a node whose tunnel does not stand yet
		for _, table := range []int{tableSteer, tablePods, tableWorld} {
			want = append(want, hostnet.Route{Table: table, Type: hostnet.Throw, Dst: p(dst)})
		}
	}
	if !slices.Equal(x.Host.Routes, want) {
		t.Errorf("%v, expected %v", x.Host.Routes, want)
	}
	for _, c := range []struct {
		snap  *model.Snapshot
		under hostnet.Underlay
		want  bool
	}{{noSnapshot, me.Underlay, true}, {noSnapshot, hostnet.Underlay{}, false}, {snap, me.Underlay, false}} {
		if got := tooEarly(c.snap, c.under); got != c.want {
			t.Errorf("too early for a plan: %v, expected %v: %+v", got, c.want, c)
		}
	}
	var early plan
	if early.besideOthers(me, noSnapshot, false); len(early.Host.Routes) > 0 {
		t.Errorf("before the first snapshot: %v", early.Host.Routes)
	}
}

// What a kube-proxy translates does not pass the TUN on its way back; everything else is steered as ever.
func TestServicesAreLeftToKubeProxy(t *testing.T) {
	block, pods := netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("10.42.0.0/16")
	me := self{Blocks: []netip.Prefix{block}, Cluster: model.Cluster{PodCIDRs: []netip.Prefix{pods}}, Interface: "warren0"}
	st := servicelb.Steering{Targets: []servicelb.Port{{Proto: 6, Port: 8080}, {Proto: 17, Port: 53}}, HostTargets: []servicelb.Port{{Proto: 6, Port: 6443}}}
	build := func(kubeProxy bool) (p plan) {
		p.host(me, nil)
		p.services(me, nil, st, nil)
		p.besideOthers(me, noSnapshot, kubeProxy)
		return p
	}
	with, without := build(true), build(false)
	steered := func(r hostnet.Rule) bool { return r.Table == tableSteer }
	if slices.ContainsFunc(with.Host.Rules, steered) || !slices.ContainsFunc(without.Host.Rules, steered) {
		t.Errorf("with a kube-proxy %v\nwithout %v", with.Host.Rules, without.Host.Rules)
	}
	for _, r := range []hostnet.Rule{
		{Pref: prefReplies, From: pods, Proto: 6, Sport: hostnet.Ports{Lo: 8080, Hi: 8080}, Goto: prefPast},
		{Pref: prefReplies, From: pods, Proto: 17, Sport: hostnet.Ports{Lo: 53, Hi: 53}, Goto: prefPast},
		{Pref: prefWorld, From: block, Table: tableWorld},
		{Pref: prefPast, Table: tablePods},
	} {
		if !slices.Contains(with.Host.Rules, r) || slices.Contains(without.Host.Rules, r) {
			t.Errorf("%v: with a kube-proxy %v\nwithout %v", r, with.Host.Rules, without.Host.Rules)
		}
	}
	for _, r := range without.Host.Rules {
		if r.Pref < prefReplies && r.Table != tableSteer && !slices.Contains(with.Host.Rules, r) {
			t.Errorf("with a kube-proxy there is no %v", r)
		}
	}
	if len(with.Problems) != 1 || len(without.Problems) != 0 {
		t.Errorf("problems %q and %q", with.Problems, without.Problems)
	}
}
