package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
)

// smallBlocks are blocks with room for 12 Pods.
func smallBlocks(max int) map[string]any {
	return map[string]any{"blockBits": map[string]any{"ipv4": 28}, "maxBlocks": max}
}

// A node whose Pods fill its block claims another one. It works like the first: tunnels, Services, names, a restart.
func TestBlocks_FullBlock_NodeClaimsAnother(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual, Agent: smallBlocks(3)})
	ctx := context.Background()
	before, err := l.Status(ctx, "n1")
	if err != nil {
		t.Fatal(err)
	}
	far := labelled(t, l, "n2", "far", "app=web")
	applyYAML(t, l, web("web", "app: web", ""))
	vip := getSvc(t, l, "web").ips(t)[0]
	var pods []*Pod
	for i := range 36 {
		pods = append(pods, run(t, l, "n1", fmt.Sprintf("p%d", i)))
	}
	after, err := l.Status(ctx, "n1")
	if err != nil {
		t.Fatal(err)
	}
	if len(after.PodCIDRs) != 4 || !slices.Equal(after.PodCIDRs[:2], before.PodCIDRs) {
		t.Fatalf("n1 has the blocks %v after %v, expected two more IPv4 ones behind the first", after.PodCIDRs, before.PodCIDRs)
	}
	if !slices.ContainsFunc(after.Problems, func(s string) bool { return strings.Contains(s, "maxBlocks") }) {
		t.Errorf("problems of a full node: %v", after.Problems)
	}

	everyone := func() {
		t.Helper()
		for _, p := range pods {
			testutil.Eventually(t, p.Name+" calls", func() error { _, err := calls(l, p, far.Addresses[0]); return err })
			mustCall(t, l, p, far)
			mustCall(t, l, far, p)
		}
		last := pods[len(pods)-1]
		mustCall(t, l, last, pods[0])
		mustConnect(t, fromPod(l, last), vip, 7, 7, "far", last.Addresses[0])
		if out, err := l.PodOutput(last, "dig", "+short", "+timeout=3", "web.default.svc.cluster.local"); err != nil ||
			strings.TrimSpace(out) != vip.String() {
			t.Errorf("a Pod of the last block queries a name: %q %v, expected %s", out, err, vip)
		}
	}
	everyone()
	killAndStart(t, l, "n1")
	if st, err := l.Status(ctx, "n1"); err != nil || !slices.Equal(st.PodCIDRs, after.PodCIDRs) {
		t.Errorf("blocks after a restart: %v %v, expected %v", st.PodCIDRs, err, after.PodCIDRs)
	}
	everyone()

	_, err = l.RunPod(ctx, PodSpec{Node: "n1", Name: "toomany"})
	if err == nil || !strings.Contains(err.Error(), "maxBlocks") || !strings.Contains(err.Error(), "36 Pods") {
		t.Errorf("a Pod beyond all blocks: %v, expected the reason", err)
	}
	if err := l.RemovePod(pods[7]); err != nil {
		t.Fatal(err)
	}
	mustCall(t, l, run(t, l, "n1", "instead"), far)
}

// A node with a full block reports why CNI ADD fails while etcd is unreachable, and claims a block afterwards.
func TestBlocks_FullBlockWithoutEtcd_ReasonThenRecovery(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 1, Agent: smallBlocks(2)})
	ctx := context.Background()
	if err := l.StopEtcd("etcd1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		run(t, l, "n1", fmt.Sprintf("p%d", i))
	}
	if _, err := l.RunPod(ctx, PodSpec{Node: "n1", Name: "wait"}); err == nil || !strings.Contains(err.Error(), "claim another block") {
		t.Errorf("a Pod beyond the block while etcd is unreachable: %v, expected the reason", err)
	}
	if err := l.StartEtcd("etcd1"); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "another block", func() error {
		p, err := l.RunPod(ctx, PodSpec{Node: "n1", Name: "late"})
		if err != nil {
			return err
		}
		mustCall(t, l, p, p)
		return nil
	})
	testutil.Eventually(t, "the problem is gone", func() error {
		var st api.Status
		st, err := l.Status(ctx, "n1")
		for _, p := range st.Problems {
			err = errors.Join(err, errors.New(p))
		}
		return err
	})
}
