package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
	"github.com/warrennet/warren/internal/store/etcd/records"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func machine(name, identity string, key byte, block string) (model.Node, model.Block) {
	p := netip.MustParsePrefix(block)
	return model.Node{Name: name, Identity: identity, PublicKey: model.Key{key}, PodCIDRs: []netip.Prefix{p}},
		model.Block{CIDR: p, Node: name, Identity: identity, Claimed: time.Now()}
}

// The record, the liveness key, the blocks and the Pods of a node whose agent is alive are deleted; those of others stay. The
// node is refused from then on, until its name is allowed, and then another machine only.
func TestRevoke_NodeAlive_RecordsAreDeletedAndRefused(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "revoke")
	ctx := t.Context()
	for i, name := range []string{"n1", "n2"} {
		n, b := machine(name, "id-"+name, byte(i+1), []string{"10.42.0.0/24", "10.42.1.0/24"}[i])
		if _, err := s.PutNode(ctx, n); err != nil {
			t.Fatal(err)
		}
		if won, _, _, err := s.ClaimBlocks(ctx, []model.Block{b}); !won || err != nil {
			t.Fatal(won, err)
		}
		if _, err := s.PutPod(ctx, model.Pod{ObjectName: model.ObjectName{Namespace: "d", Name: "pod-" + name}, Node: name}); err != nil {
			t.Fatal(err)
		}
	}
	actx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { _ = s.KeepAlive(actx, "n2", "id-n2", 5*time.Second) }()
	snaps := watching(t, s)
	until(t, snaps, "a living node", func(x *model.Snapshot) bool { return len(x.Nodes) == 2 && x.Nodes[1].Alive })
	if _, err := s.DeleteNode(ctx, "n2", ""); err == nil {
		t.Error("a node that is alive was removed without --revoke")
	}
	done, err := s.Revoke(ctx, "n2", time.Now())
	if err != nil || len(done.Released) != 1 || len(done.Shared) != 0 {
		t.Fatalf("%+v %v", done, err)
	}
	x := until(t, snaps, "one node", func(x *model.Snapshot) bool {
		return len(x.Nodes) == 1 && len(x.Blocks) == 1 && len(x.Pods) == 1 && len(x.Revoked) == 1
	})
	if r := x.Revoked[0]; r.Node != "n2" || len(r.Identities) != 1 || len(r.PublicKeys) != 1 ||
		x.Nodes[0].Name != "n1" || x.Pods[0].Node != "n1" {
		t.Errorf("%+v", x)
	}
	if err := s.KeepRevocation(ctx, x.Revoked[0]); err != nil { // the watch shows it unchanged
		t.Fatal(err)
	}
	again, _ := machine("n2", "id-n2", 2, "10.42.1.0/24")
	other, _ := machine("n2", "id-other", 9, "10.42.2.0/24")
	refused := func(what string, err error) {
		if !errors.Is(err, records.ErrRevoked) {
			t.Errorf("%s: %v, expected ErrRevoked", what, err)
		}
	}
	_, err = s.PutNode(ctx, again)
	refused("PutNode", err)
	_, err = s.PutNode(ctx, other)
	refused("PutNode of another machine", err)
	refused("CheckName", s.CheckName(ctx, "n2", "id-n2"))
	refused("KeepAlive", s.KeepAlive(ctx, "n2", "id-n2", 5*time.Second))
	if err := s.Allow(ctx, "n2", time.Now()); err != nil {
		t.Fatal(err)
	}
	_, err = s.PutNode(ctx, again)
	refused("PutNode after the name was allowed", err)
	if _, err := s.PutNode(ctx, other); err != nil {
		t.Errorf("another machine after the name was allowed: %v", err)
	}
	if err := s.Allow(ctx, "n1", time.Now()); err == nil {
		t.Error("a node that is not revoked was allowed")
	}
}

// A compromised node that copies the identity and the key of another node does not have that node excluded.
func TestRevoke_IdentityOfAnotherNode_IsNotRevoked(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "copied")
	ctx := t.Context()
	honest, _ := machine("n1", "id-n1", 1, "10.42.0.0/24")
	hostile, _ := machine("n3", "id-n1", 1, "10.42.1.0/24")
	for _, n := range []model.Node{honest, hostile} {
		if _, err := s.PutNode(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	done, err := s.Revoke(ctx, "n3", time.Now())
	if err != nil || len(done.Shared) != 2 {
		t.Fatalf("%+v %v, expected identity and key as shared", done, err)
	}
	if r := done.Revocation; len(r.Identities)+len(r.PublicKeys) != 0 {
		t.Errorf("%+v", r)
	}
	if err := s.CheckName(ctx, "n1", "id-n1"); err != nil {
		t.Error(err)
	}
}

// A node that has written a revocation of itself, full of junk and with later dates, is revoked nevertheless.
func TestRevoke_RevocationWrittenBefore_DoesNotCount(t *testing.T) {
	url := etcdtest.Start(t)
	for name, ahead := range map[string]time.Duration{"near": model.MaxAhead / 2, "far": 1000 * time.Hour} {
		s := etcdtest.Open(t, url, name)
		cli, err := client.New(client.Config{Endpoints: []string{url}, Cluster: name})
		if err != nil {
			t.Fatal(err)
		}
		defer cli.Close()
		n, _ := machine("n3", "id-n3", 3, "10.42.1.0/24")
		if _, err := s.PutNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		junk := model.Revocation{Node: "n3", Revoked: time.Now().Add(ahead), Changed: time.Now().Add(ahead), NameAllowed: true}
		for i := range model.MaxRevoked {
			junk.Identities = append(junk.Identities, fmt.Sprint(i))
			junk.PublicKeys = append(junk.PublicKeys, model.Key{byte(i + 1), 1})
		}
		raw, err := model.Encode(1, junk)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cli.Put(t.Context(), cli.Key("revoked", "n3"), string(raw)); err != nil {
			t.Fatal(err)
		}
		snaps := watching(t, s)
		done, err := s.Revoke(t.Context(), "n3", time.Now())
		if err != nil {
			t.Fatal(name, err)
		}
		meant := model.Revocation{Node: "n3", Identities: []string{"id-n3"}, PublicKeys: []model.Key{{3}}}
		until(t, snaps, "the revocation", func(x *model.Snapshot) bool { return len(x.Revoked) == 1 && x.Revoked[0].Excludes(meant) })
		if !done.Revocation.Excludes(meant) {
			t.Errorf("%s: %+v", name, done.Revocation)
		}
		if err := s.Allow(t.Context(), "n3", time.Now()); err != nil {
			t.Error(name, err)
		}
		if err := s.CheckName(t.Context(), "n3", "id-other"); err != nil {
			t.Errorf("%s: allowed, but %v", name, err)
		}
	}
}

// deletesRevocation is the access to etcd of a command whose revocation is deleted before it is read again.
type deletesRevocation struct {
	clientv3.KV
	key   string
	times int
}

func (d *deletesRevocation) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if key == d.key && d.times > 0 {
		resp, err := d.Delete(ctx, key)
		if err != nil {
			return nil, err
		}
		d.times -= int(resp.Deleted)
	}
	return d.KV.Get(ctx, key, opts...)
}

// A node that deletes its revocation until every etcd server refuses it is revoked nevertheless.
func TestRevoke_RevocationDeleted_IsWrittenAgain(t *testing.T) {
	url := etcdtest.Start(t)
	cli, err := client.New(client.Config{Endpoints: []string{url}, Cluster: "c"})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	hostile := &deletesRevocation{KV: cli.KV, key: cli.Key("revoked", "n3"), times: 3}
	cli.KV = hostile
	if _, err := records.New(cli).Revoke(t.Context(), "n3", time.Now()); err != nil {
		t.Fatal(err)
	}
	got, err := cli.Get(t.Context(), hostile.key)
	if err != nil || len(got.Kvs) != 1 || hostile.times != 0 {
		t.Errorf("%v %+v, %d deletions left", err, got, hostile.times)
	}
}

// A list that has as many nodes as it may have is an error, and not a revocation without effect.
func TestRevoke_ListFull_Fails(t *testing.T) {
	url := etcdtest.Start(t)
	s := etcdtest.Open(t, url, "full")
	cli, err := client.New(client.Config{Endpoints: []string{url}, Cluster: "full"})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	for i := 0; i < model.MaxRevocations; i += 64 {
		var ops []clientv3.Op
		for j := range 64 {
			ops = append(ops, clientv3.OpPut(cli.Key("revoked", fmt.Sprint("junk", i+j)), "{}"))
		}
		if _, err := cli.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Revoke(t.Context(), "n3", time.Now()); err == nil || !strings.Contains(err.Error(), "no other node can be revoked") {
		t.Errorf("%v", err)
	}
}

// The records that a node may have written under other names are reported.
func TestRevoke_RecordWithTheSameAddress_IsReported(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "alias")
	addr := netip.MustParseAddr("192.0.2.3")
	revoked, _ := machine("n3", "id-n3", 3, "10.42.1.0/24")
	revoked.Addresses = []netip.Addr{addr}
	alias, _ := machine("n9", "id-n9", 9, "10.42.2.0/24")
	alias.Endpoints = []netip.AddrPort{netip.AddrPortFrom(addr, 51999)}
	other, _ := machine("n1", "id-n1", 1, "10.42.0.0/24")
	for _, n := range []model.Node{revoked, alias, other} {
		if _, err := s.PutNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	done, err := s.Revoke(t.Context(), "n3", time.Now())
	if err != nil || len(done.Aliases) != 1 || !strings.Contains(done.Aliases[0], "n9") {
		t.Errorf("%q %v", done.Aliases, err)
	}
}

// A node that writes its record again is reported, and the record deleted.
func TestPurge_RecordWrittenAgain_IsReportedAndDeleted(t *testing.T) {
	url := etcdtest.Start(t)
	s := etcdtest.Open(t, url, "purge")
	n, _ := machine("n3", "id", 3, "10.42.1.0/24")
	done, err := s.Revoke(t.Context(), "n3", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if written, err := s.Purge(t.Context(), done.Revocation); written || err != nil {
		t.Errorf("nothing was written: %v %v", written, err)
	}
	if err := s.Allow(t.Context(), "n3", time.Now()); err != nil { // as a client that does not check the list
		t.Fatal(err)
	}
	if _, err := s.PutNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		if written, err := s.Purge(t.Context(), done.Revocation); written != want || err != nil {
			t.Errorf("written %v %v, expected %v", written, err, want)
		}
	}
}

// A deletion of the record, which only a compromised node makes, is shown as lost, and ends no revocation.
func TestWatch_RevocationDeleted_IsLostAndRemains(t *testing.T) {
	url := etcdtest.Start(t)
	s := etcdtest.Open(t, url, "lost")
	cli, err := client.New(client.Config{Endpoints: []string{url}, Cluster: "lost"})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	snaps := watching(t, s)
	until(t, snaps, "nothing", func(x *model.Snapshot) bool { return len(x.Revoked) == 0 })
	done, err := s.Revoke(t.Context(), "n3", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Delete(t.Context(), cli.Key("revoked", "n3")); err != nil {
		t.Fatal(err)
	}
	until(t, snaps, "a lost revocation", func(x *model.Snapshot) bool { return len(x.Revoked) == 1 && len(x.Lost) == 1 })
	if err := s.KeepRevocation(t.Context(), done.Revocation); err != nil {
		t.Fatal(err)
	}
	until(t, snaps, "a revocation", func(x *model.Snapshot) bool { return len(x.Revoked) == 1 && len(x.Lost) == 0 })
}
