package snapshot

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/kube"
)

// Nodes come from etcd, objects from the API server. Neither source replaces the other's part, in either order.
func TestMerge_EtcdAndAPIServer_EachKeepsItsPart(t *testing.T) {
	etcd := &model.Snapshot{Revision: 7, Nodes: []model.Node{{Name: "n1"}},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}
	objects := &kube.Objects{Services: []model.Service{{UID: "s"}}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}}
	first := merge(etcd, nil, nil)
	if !first.Partial || first.Services != nil || first.ServiceCIDRs != nil {
		t.Errorf("without the API server: %+v; expected a partial snapshot", first)
	}
	both := merge(etcd, objects, first)
	if both.Partial || both.Revision != 7 || len(both.Nodes) != 1 || len(both.Services) != 1 ||
		both.ServiceCIDRs[0].String() != "10.43.0.0/16" {
		t.Errorf("both: %+v", both)
	}
	kept := merge(&model.Snapshot{Revision: 8}, nil, both)
	if kept.Partial || kept.Revision != 8 || len(kept.Services) != 1 || len(kept.Nodes) != 0 {
		t.Errorf("no answer of the API server since the start: %+v; expected the last objects", kept)
	}
	if len(etcd.Services) != 0 || first.Services != nil {
		t.Error("merge changed its input")
	}
}

// The pools are the API server's and stay in use during its outage. Each of their problems is reported once.
func TestMerge_AddressPools_OnlyAPIServersWithOneProblemEach(t *testing.T) {
	pools := func(first, last string) *kube.Objects {
		return &kube.Objects{Pools: []model.AddressPool{{Name: "lan", Ranges: []model.AddressRange{
			{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}}}},
			PoolProblems: []lbpool.Problem{{Pool: "lan", Text: "one range is invalid"}}}
	}
	etcd := &model.Snapshot{Pools: []model.AddressPool{{Name: "not from here"}}, Problems: []string{"nodes/x: unreadable"},
		Nodes: []model.Node{{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}}}
	if s := merge(etcd, nil, nil); s.Pools != nil {
		t.Errorf("etcd's pools are in use: %v", s.Pools)
	}
	check := func(what string, s *model.Snapshot) {
		t.Helper()
		if len(s.Pools) != 1 || fmt.Sprint(s.Pools[0].Ranges) != "[192.0.2.8-192.0.2.9 192.0.2.11-192.0.2.15]" {
			t.Errorf("%s: pools %v", what, s.Pools)
		}
		if len(s.Problems) != 3 || !strings.Contains(s.Problems[1], "one range is invalid") ||
			!strings.Contains(s.Problems[2], "overlaps 192.0.2.10 of node n1") {
			t.Errorf("%s: problems %q", what, s.Problems)
		}
	}
	s := merge(etcd, pools("192.0.2.8", "192.0.2.15"), nil)
	check("first", s)
	again := merge(s, pools("192.0.2.8", "192.0.2.15"), nil) // no answer of etcd since the start: the base is the merged snapshot
	check("again", again)
	check("API server unreachable", merge(etcd, nil, again))
	if s := merge(again, pools("192.0.2.12", "192.0.2.15"), nil); len(s.Problems) != 2 {
		t.Errorf("after the fix: problems %q", s.Problems)
	}
	if len(etcd.Problems) != 1 {
		t.Error("merge changed its input")
	}
}

// This node's Pods come from its attachments, the others from the API server; servicelb needs them sorted by namespace, then name.
func TestJoinPods_OwnAndReported_OwnNodeFromAttachments(t *testing.T) {
	pod := func(ns, name, node, uid string) model.Pod {
		return model.Pod{ObjectName: model.ObjectName{Namespace: ns, Name: name}, Node: node, UID: uid}
	}
	own := map[model.ObjectName]model.Pod{}
	for _, p := range []model.Pod{pod("a-b", "x", "n1", "attached"), pod("a", "z", "n1", "attached")} {
		own[p.ObjectName] = p
	}
	known := []model.Pod{pod("a", "y", "n2", "api"), pod("a", "z", "n1", "api"), pod("a", "deleted", "n1", "api")}
	got := ""
	for _, p := range joinPods(own, known, "n1") {
		got += p.String() + " " + p.UID + ", "
	}
	if want := "a/y api, a/z attached, a-b/x attached, "; got != want {
		t.Errorf("%s; expected %s", got, want)
	}
}
