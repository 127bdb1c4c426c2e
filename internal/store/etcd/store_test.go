package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
	"github.com/warrennet/warren/internal/store/etcd/records"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func node(name, identity string) model.Node {
	return model.Node{Name: name, Identity: identity, PublicKey: model.Key{1, 2, byte(len(name))},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")}}
}

// watching runs a Watch and delivers its snapshots.
func watching(t *testing.T, s *etcd.Store) <-chan *model.Snapshot {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, done := make(chan *model.Snapshot, 100), make(chan error, 1)
	go func() {
		for ctx.Err() == nil { // as the agent does
			_ = s.Watch(ctx, func(x *model.Snapshot) { out <- x }, func() {})
		}
		done <- nil
	}()
	t.Cleanup(func() { cancel(); <-done })
	return out
}

// until waits for a snapshot that fits.
func until(t *testing.T, from <-chan *model.Snapshot, what string, fits func(*model.Snapshot) bool) *model.Snapshot {
	t.Helper()
	var last *model.Snapshot
	deadline := time.After(20 * time.Second)
	for {
		select {
		case last = <-from:
			if fits(last) {
				return last
			}
		case <-deadline:
			t.Fatalf("no snapshot with %s; the last one: %+v", what, last)
		}
	}
}

func TestWatch_RecordsChange_SnapshotsFollow(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "watch")
	ctx := context.Background()
	snaps := watching(t, s)
	until(t, snaps, "nothing", func(x *model.Snapshot) bool { return len(x.Nodes) == 0 })
	c := model.Cluster{Name: "watch", Domain: "cluster.local", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		BlockBits: [2]int{24, 64}, Port: 51820}
	if got, err := s.EnsureCluster(ctx, c); err != nil || got.Domain != c.Domain {
		t.Fatalf("%v %v", got, err)
	}
	rev, err := s.PutNode(ctx, node("n1", "a"))
	if err != nil {
		t.Fatal(err)
	}
	x := until(t, snaps, "a node", func(x *model.Snapshot) bool { return len(x.Nodes) == 1 && x.Cluster.Name == "watch" })
	if x.Revision < rev || x.Nodes[0].Alive {
		t.Errorf("revision %d alive %v, expected at least %d and not alive", x.Revision, x.Nodes[0].Alive, rev)
	}
	actx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.KeepAlive(actx, "n1", "a", 5*time.Second) }()
	until(t, snaps, "a living node", func(x *model.Snapshot) bool { return len(x.Nodes) == 1 && x.Nodes[0].Alive })
	stop()
	if err := <-done; err != nil {
		t.Errorf("keepalive: %v", err)
	}
	until(t, snaps, "a node that stopped cleanly", func(x *model.Snapshot) bool { return !x.Nodes[0].Alive })
	if _, err := s.DeleteNode(ctx, "n1", ""); err != nil {
		t.Fatal(err)
	}
	until(t, snaps, "no node", func(x *model.Snapshot) bool { return len(x.Nodes) == 0 })
}

// A node name belongs to the machine that is alive under it.
func TestNodeName_OwnerAlive_OthersAreRefused(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "names")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := s.PutNode(ctx, node("n1", "a")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.KeepAlive(ctx, "n1", "a", 5*time.Second) }()
	snaps := watching(t, s)
	until(t, snaps, "a living node", func(x *model.Snapshot) bool { return len(x.Nodes) == 1 && x.Nodes[0].Alive })
	if err := s.KeepAlive(ctx, "n1", "other", 5*time.Second); !errors.Is(err, records.ErrNameTaken) {
		t.Errorf("KeepAlive of another identity: %v, expected ErrNameTaken", err)
	}
	if _, err := s.PutNode(ctx, node("n1", "other")); !errors.Is(err, records.ErrNameTaken) {
		t.Errorf("PutNode of another identity: %v, expected ErrNameTaken", err)
	}
	if err := s.CheckName(ctx, "n1", "other"); !errors.Is(err, records.ErrNameTaken) {
		t.Errorf("CheckName of another identity: %v, expected ErrNameTaken", err)
	}
	if err := s.CheckName(ctx, "n1", "a"); err != nil {
		t.Errorf("CheckName of the owner: %v", err)
	}
	if _, err := s.DeleteNode(ctx, "n1", ""); err == nil || !strings.Contains(err.Error(), "alive") {
		t.Errorf("removal of a living node: %v", err)
	}
	cancel()
	<-done
	if err := s.CheckName(context.Background(), "n1", "next"); err != nil {
		t.Errorf("CheckName of the next owner: %v", err)
	}
	if _, err := s.PutNode(context.Background(), node("n1", "next")); err != nil {
		t.Errorf("the name of a dead machine: %v", err)
	}
}

// Blocks of former identities of a node can be released while it is alive; its own blocks and those of others stay.
func TestReleaseFormer_NodeAlive_ReleasesOtherIdentitiesOnly(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "former")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	block := func(cidr, node, identity string) model.Block {
		return model.Block{CIDR: netip.MustParsePrefix(cidr), Node: node, Identity: identity}
	}
	all := []model.Block{block("10.42.1.0/24", "n1", "old"), block("10.42.2.0/24", "n1", "older"),
		block("10.42.3.0/24", "n1", "now"), block("10.42.4.0/24", "n2", "old")}
	if won, _, _, err := s.ClaimBlocks(ctx, all); err != nil || !won {
		t.Fatal(won, err)
	}
	if freed, err := s.ReleaseFormer(ctx, "n1"); err == nil {
		t.Errorf("without a record it released %v", freed)
	}
	if _, err := s.PutNode(ctx, node("n1", "now")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.KeepAlive(ctx, "n1", "now", 5*time.Second) }()
	snaps := watching(t, s)
	until(t, snaps, "a living node", func(x *model.Snapshot) bool { return len(x.Nodes) == 1 && x.Nodes[0].Alive })
	freed, err := s.ReleaseFormer(ctx, "n1")
	if err != nil || len(freed) != 2 {
		t.Errorf("released %v, %v; expected those of old and older", freed, err)
	}
	left, _, err := s.Blocks(ctx)
	if err != nil || len(left) != 2 || left[0].CIDR != all[2].CIDR || left[1].CIDR != all[3].CIDR {
		t.Errorf("left %v, %v", left, err)
	}
	cancel()
	<-done
	if freed, err := s.ReleaseFormer(context.Background(), "n1"); err != nil || len(freed) != 0 {
		t.Errorf("of a node that is not alive: %v, %v", freed, err)
	}
}

// Records that cannot be used are problems to see, not a reason to stop; a newer layout is never overwritten.
func TestWatch_InvalidRecords_AreProblems(t *testing.T) {
	url := etcdtest.Start(t)
	s := etcdtest.Open(t, url, "bad")
	raw, err := clientv3.New(clientv3.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	ctx := context.Background()
	put := func(key, value string) {
		if _, err := raw.Put(ctx, "/warren/bad/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	put("nodes/garbage", "\x00\xff{")
	put("nodes/newer", `{"v":99,"value":{}}`)
	put("nodes/liar", `{"v":1,"value":{"name":"other","identity":"x","publicKey":"AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}`)
	put("nodes/nokey", `{"v":1,"value":{"name":"nokey","identity":"x"}}`)
	put("blocks/nothing", "")
	put("blocks/10.42.9.0-24", `{"v":1,"value":{"cidr":"10.42.8.0/24","node":"n","identity":"i"}}`)
	if _, err := s.PutNode(ctx, node("good", "g")); err != nil {
		t.Fatal(err)
	}
	x := until(t, watching(t, s), "the good node", func(x *model.Snapshot) bool { return len(x.Nodes) == 1 })
	for _, want := range []string{"nodes/garbage", "nodes/newer: record layout version 99 is newer",
		`nodes/liar: names the node "other"`, "nodes/nokey: publicKey is empty", "blocks/10.42.9.0-24"} {
		found := false
		for _, p := range x.Problems {
			found = found || strings.Contains(p, want)
		}
		if !found {
			t.Errorf("no problem contains %q: %q", want, x.Problems)
		}
	}
	var newer *model.ErrNewer
	if _, err := s.PutNode(ctx, node("newer", "g")); !errors.As(err, &newer) {
		t.Errorf("a newer record was overwritten: %v", err)
	}
	blocks, _, err := s.Blocks(ctx)
	if want := []model.Block{{CIDR: netip.MustParsePrefix("10.42.9.0/24")}}; err != nil || !slices.Equal(blocks, want) {
		t.Errorf("blocks %v, error %v; expected the CIDR of the invalid record without an owner", blocks, err)
	}
}

// A watch without changes receives answers, so that its caller can distinguish a cluster at rest from servers that do not answer.
func TestWatch_NoChanges_ServerAnswers(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "rest")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answers, snapshots := 0, 0
	err := s.Watch(ctx, func(*model.Snapshot) { snapshots++ }, func() {
		if answers++; answers == 3 { // the list, and two without a request of the caller
			cancel()
		}
	})
	if answers < 3 || snapshots != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d answers, %d snapshots, %v", answers, snapshots, err)
	}
}

// A compaction under the watch makes it list again, not miss something.
func TestWatch_CompactedRevision_ListsAgain(t *testing.T) {
	url := etcdtest.Start(t)
	s := etcdtest.Open(t, url, "compact")
	raw, err := clientv3.New(clientv3.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	ctx := context.Background()
	snaps := watching(t, s)
	for i := range 50 {
		rev, err := s.PutNode(ctx, node(fmt.Sprintf("n%d", i), "a"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Compact(ctx, rev); err != nil {
			t.Fatal(err)
		}
	}
	until(t, snaps, "all nodes", func(x *model.Snapshot) bool { return len(x.Nodes) == 50 })
}

// While no server answers, every call fails within its time limit, and its error names the request.
func TestStore_ServerUnreachable_CallsFailInTime(t *testing.T) {
	s, err := etcd.New(etcd.Config{Endpoints: []string{fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t))}, Cluster: "away"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Watch(context.Background(), func(*model.Snapshot) {}, func() {}); err == nil ||
		!strings.Contains(err.Error(), "list /warren/away/") {
		t.Errorf("watch without a server: %v", err)
	}
	if _, err := etcd.New(etcd.Config{Endpoints: []string{"https://127.0.0.1:1"}, CAFile: "/nonexistent"}); err == nil {
		t.Error("a missing CA file was accepted")
	}
}
