package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/kube"
)

// Nodes come from etcd, objects from the API server; neither may lose the other's part, in whatever order they come.
func TestMerge(t *testing.T) {
	etcd := &model.Snapshot{Revision: 7, Nodes: []model.Node{{Name: "n1"}}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}
	objects := &kube.Objects{Services: []model.Service{{UID: "s"}}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}}
	first := merge(etcd, nil, nil)
	if !first.Partial || first.Services != nil || first.ServiceCIDRs != nil {
		t.Errorf("without the API server: %+v; expected a partial snapshot", first)
	}
	both := merge(etcd, objects, first)
	if both.Partial || both.Revision != 7 || len(both.Nodes) != 1 || len(both.Services) != 1 || both.ServiceCIDRs[0].String() != "10.43.0.0/16" {
		t.Errorf("both: %+v", both)
	}
	kept := merge(&model.Snapshot{Revision: 8}, nil, both)
	if kept.Partial || kept.Revision != 8 || len(kept.Services) != 1 || len(kept.Nodes) != 0 {
		t.Errorf("API server away since the start: %+v; expected the last objects", kept)
	}
	if len(etcd.Services) != 0 || first.Services != nil {
		t.Error("merge changed its input")
	}
}

// The pools are the API server's and outlive its absence; what is wrong with them is said once.
func TestMergePools(t *testing.T) {
	pools := func(first, last string) *kube.Objects {
		return &kube.Objects{Pools: []model.AddressPool{{Name: "lan", Ranges: []model.AddressRange{{First: ip(first), Last: ip(last)}}}},
			PoolProblems: []lbpool.Problem{{Pool: "lan", Text: "half of it makes no sense"}}}
	}
	etcd := &model.Snapshot{Pools: []model.AddressPool{{Name: "not from here"}}, Problems: []string{"nodes/x: unreadable"},
		Nodes: []model.Node{{Name: "n1", Addresses: []netip.Addr{ip("192.0.2.10")}}}}
	if s := merge(etcd, nil, nil); s.Pools != nil {
		t.Errorf("etcd's pools count: %v", s.Pools)
	}
	check := func(what string, s *model.Snapshot) {
		t.Helper()
		if len(s.Pools) != 1 || fmt.Sprint(s.Pools[0].Ranges) != "[192.0.2.8-192.0.2.9 192.0.2.11-192.0.2.15]" {
			t.Errorf("%s: pools %v", what, s.Pools)
		}
		if len(s.Problems) != 3 || !strings.Contains(s.Problems[1], "half of it") || !strings.Contains(s.Problems[2], "overlaps 192.0.2.10 of node n1") {
			t.Errorf("%s: problems %q", what, s.Problems)
		}
	}
	s := merge(etcd, pools("192.0.2.8", "192.0.2.15"), nil)
	check("first", s)
	again := merge(s, pools("192.0.2.8", "192.0.2.15"), nil) // etcd away since the start: the base is the agent's own
	check("again", again)
	check("API server away", merge(etcd, nil, again))
	if s := merge(again, pools("192.0.2.12", "192.0.2.15"), nil); len(s.Problems) != 2 {
		t.Errorf("mended: problems %q", s.Problems)
	}
	if len(etcd.Problems) != 1 {
		t.Error("merge changed its input")
	}
}

// The plugin's word counts for this node, the API server's for the others; servicelb wants them by namespace, then name.
func TestJoinPods(t *testing.T) {
	pod := func(ns, name, node, uid string) model.Pod {
		return model.Pod{ObjectName: model.ObjectName{Namespace: ns, Name: name}, Node: node, UID: uid}
	}
	own := map[model.ObjectName]model.Pod{}
	for _, p := range []model.Pod{pod("a-b", "x", "n1", "plugged"), pod("a", "z", "n1", "plugged")} {
		own[p.ObjectName] = p
	}
	known := []model.Pod{pod("a", "y", "n2", "api"), pod("a", "z", "n1", "api"), pod("a", "gone", "n1", "api")}
	got := ""
	for _, p := range joinPods(own, known, "n1") {
		got += p.String() + " " + p.UID + ", "
	}
	if want := "a/y api, a/z plugged, a-b/x plugged, "; got != want {
		t.Errorf("%s; expected %s", got, want)
	}
}

func TestKubernetesOrder(t *testing.T) {
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	k := &kubernetes{objects: &kube.Objects{Node: kube.Node{Known: true, Addresses: []netip.Addr{a("192.0.2.9"), a("2001:db8::9")}}}}
	got := k.order([]netip.Addr{a("10.1.1.1"), a("2001:db8::9"), a("192.0.2.9"), a("10.2.2.2")})
	want := []netip.Addr{a("192.0.2.9"), a("2001:db8::9"), a("10.1.1.1"), a("10.2.2.2")}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%v; expected %v", got, want)
		}
	}
}

// Why a node does not hold what Kubernetes set aside for it.
func TestUnclaimed(t *testing.T) {
	p := netip.MustParsePrefix
	c := model.Cluster{PodCIDRs: []netip.Prefix{p("10.42.0.0/16")}, BlockBits: [2]int{24, 64}}
	have := []netip.Prefix{p("10.42.1.0/24")}
	blocks := []model.Block{{CIDR: p("10.42.2.0/24"), Node: "n2"}}
	for want, why := range map[string]string{"10.42.1.0/24": "", "10.42.2.0/24": "node n2 has it", "10.244.3.0/24": "outside", "10.42.4.0/25": "blocks are /24", "10.42.5.0/24": "only after"} {
		got := unclaimed([]netip.Prefix{p(want)}, have, c, blocks)
		if (len(got) == 0) != (why == "") || len(got) == 1 && !strings.Contains(got[0].Why, why) {
			t.Errorf("%s: %+v, expected %q", want, got, why)
		}
	}
}
