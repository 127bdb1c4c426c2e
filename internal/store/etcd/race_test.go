package etcd_test

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
	"github.com/warrennet/warren/ipam"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// members starts a three-member etcd, each a process of its own, on loopback.
func members(t *testing.T) (urls []string, procs []*exec.Cmd) {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "warren")
	if out, err := exec.Command("go", "build", "-o", exe, "github.com/warrennet/warren/cmd/warren").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var peers, initial []string
	for i := range 3 {
		urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t)))
		peers = append(peers, fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t)))
		initial = append(initial, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i := range 3 {
		cmd := exec.Command(exe, "etcd", "--name", fmt.Sprintf("m%d", i), "--data-dir", t.TempDir(), "--client-urls", urls[i],
			"--peer-urls", peers[i], "--initial-cluster", strings.Join(initial, ","), "--insecure", "--log-level", "fatal")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		procs = append(procs, cmd)
	}
	return urls, procs
}

// leader returns the index of the leading member.
func leader(t *testing.T, urls []string) int {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: urls})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		for i, u := range urls {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			st, err := cli.Status(ctx, u)
			cancel()
			if err == nil && st.Leader != 0 && st.Leader == st.Header.MemberId {
				return i
			}
		}
	}
	t.Fatal("etcd elected no leader")
	return 0
}

// 64 nodes race for blocks while the leader is killed and another member is paused for a while: requests time out with
// unknown outcome and are repeated. The history of every block key must show one owner only.
func TestClaimBlocks_LeaderLostDuringRace_EachBlockHasOneOwner(t *testing.T) {
	urls, procs := members(t)
	lead := leader(t, urls)
	c := model.Cluster{Name: "race", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"),
		netip.MustParsePrefix("fd42::/48")}, BlockBits: [2]int{24, 64}}
	const n = 64
	var wg sync.WaitGroup
	got := make([][]netip.Prefix, n)
	half := make(chan struct{}, n)
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s, err := etcd.New(etcd.Config{Endpoints: urls, Cluster: "race"})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			o := ipam.Owner{Node: fmt.Sprintf("n%d", i), Identity: fmt.Sprintf("id%d", i)}
			deadline := time.Now().Add(2 * time.Minute)
			for {
				if got[i], _, err = ipam.ClaimBlocks(context.Background(), s, c, o, nil); err == nil {
					half <- struct{}{}
					return
				}
				if time.Now().After(deadline) {
					t.Errorf("node %d: %v", i, err)
					return
				}
			}
		}()
		if i == n/4 {
			<-half
			_ = procs[lead].Process.Kill() // its claims in progress have an unknown outcome
			other := procs[(lead+1)%3].Process
			_ = other.Signal(syscall.SIGSTOP) // no quorum at all for a while
			defer time.AfterFunc(3*time.Second, func() { _ = other.Signal(syscall.SIGCONT) }).Stop()
		}
	}
	wg.Wait()
	holder := map[netip.Prefix]int{}
	for i, bs := range got {
		for _, b := range bs {
			if j, dup := holder[b]; dup {
				t.Errorf("%v is held by n%d and n%d", b, i, j)
			}
			holder[b] = i
		}
	}
	history(t, urls, n)
}

// history replays every revision of the block keys: each was created once, and its owner never changed.
func history(t *testing.T, urls []string, nodes int) {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: urls})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	now, err := cli.Get(ctx, "/warren/race/blocks/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]string{}
	for resp := range cli.Watch(ctx, "/warren/race/blocks/", clientv3.WithPrefix(), clientv3.WithRev(1)) {
		if err := resp.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.Events {
			if e.Type != clientv3.EventTypePut || !e.IsCreate() {
				t.Errorf("%s was changed at revision %d: %s", e.Kv.Key, e.Kv.ModRevision, e.Kv.Value)
			}
			owners[string(e.Kv.Key)] = string(e.Kv.Value)
		}
		if resp.Header.Revision >= now.Header.Revision {
			break
		}
	}
	if len(owners) < 2*nodes || len(owners) != len(now.Kvs) {
		t.Errorf("the history has %d claims, there are %d blocks, expected at least %d", len(owners), len(now.Kvs), 2*nodes)
	}
}
