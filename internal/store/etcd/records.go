package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warrennet/warren/internal/model"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Layout versions of the records. A reader refuses a newer one; a writer always writes its own.
const (
	clusterLayout = 1
	nodeLayout    = 1
	blockLayout   = 1
)

// EnsureCluster writes the cluster's configuration if there is none and returns the one that is stored. The caller
// compares it with its own.
func (s *Store) EnsureCluster(ctx context.Context, want model.Cluster) (model.Cluster, error) {
	raw, err := model.Encode(clusterLayout, want)
	if err != nil {
		return model.Cluster{}, err
	}
	ctx, cancel := request(ctx)
	defer cancel()
	key := s.key("config")
	resp, err := s.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(raw))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return model.Cluster{}, fmt.Errorf("read or create %s: %w", key, err)
	}
	if resp.Succeeded {
		return want, nil
	}
	var have model.Cluster
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) != 1 {
		return model.Cluster{}, fmt.Errorf("read %s: no value", key)
	}
	if err := model.Decode(kvs[0].Value, clusterLayout, &have); err != nil {
		return model.Cluster{}, fmt.Errorf("read %s: %w", key, err)
	}
	return have, nil
}

// PutNode writes a node's record. It replaces one of the same identity, or one whose owner is not alive; a name that
// another living machine holds is refused with ErrNameTaken. It returns the revision of the write.
func (s *Store) PutNode(ctx context.Context, n model.Node) (int64, error) {
	raw, err := model.Encode(nodeLayout, n)
	if err != nil {
		return 0, err
	}
	ctx, cancel := request(ctx)
	defer cancel()
	key, alive := s.key("nodes", n.Name), s.key("alive", n.Name)
	got, err := s.cli.Txn(ctx).Then(clientv3.OpGet(key), clientv3.OpGet(alive)).Commit()
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	kvs, living := got.Responses[0].GetResponseRange().Kvs, got.Responses[1].GetResponseRange().Kvs
	cmp := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", 0)}
	if len(kvs) == 1 {
		var have model.Node
		if err := model.Decode(kvs[0].Value, nodeLayout, &have); err != nil {
			var newer *model.ErrNewer
			if errors.As(err, &newer) {
				return 0, fmt.Errorf("write %s: %w", key, err)
			}
		}
		cmp = []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", kvs[0].ModRevision)}
		if have.Identity != n.Identity {
			if len(living) == 1 && string(living[0].Value) != n.Identity {
				return 0, nameTaken(n.Name, have.Identity)
			}
			cmp = append(cmp, aliveUnchanged(alive, living))
		}
	}
	resp, err := s.cli.Txn(ctx).If(cmp...).Then(clientv3.OpPut(key, string(raw))).Commit()
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", key, err)
	}
	if !resp.Succeeded {
		return 0, fmt.Errorf("write %s: it changed meanwhile", key)
	}
	return resp.Header.Revision, nil
}

func nameTaken(name, identity string) error {
	return fmt.Errorf("%w: %q belongs to another machine that is alive (identity %s); give this node another nodeName, or run `warren node rm %s` once that machine is gone",
		ErrNameTaken, name, identity, name)
}

// CheckName fails with ErrNameTaken while another living machine has the name. A node asks before it claims anything
// under it; PutNode asks again.
func (s *Store) CheckName(ctx context.Context, name, identity string) error {
	ctx, cancel := request(ctx)
	defer cancel()
	key := s.key("alive", name)
	got, err := s.cli.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if len(got.Kvs) == 1 && string(got.Kvs[0].Value) != identity {
		return nameTaken(name, string(got.Kvs[0].Value))
	}
	return nil
}

// DeleteNode removes a node's record and its blocks if the node still has the given identity; an identity of "" means
// whoever holds the name. It returns the blocks that are free now.
func (s *Store) DeleteNode(ctx context.Context, name, identity string) ([]model.Block, error) {
	all, _, err := s.Blocks(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := request(ctx)
	defer cancel()
	var freed []model.Block
	ops := []clientv3.Op{clientv3.OpDelete(s.key("nodes", name))}
	for _, b := range all {
		if b.Node == name && (identity == "" || b.Identity == identity) {
			freed = append(freed, b)
			ops = append(ops, clientv3.OpDelete(s.key("blocks", blockKey(b.CIDR))))
		}
	}
	resp, err := s.cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(s.key("alive", name)), "=", 0)).Then(ops...).Commit()
	switch {
	case err != nil:
		return nil, fmt.Errorf("remove node %s: %w", name, err)
	case !resp.Succeeded:
		return nil, fmt.Errorf("remove node %s: its agent is alive; stop it first (its Pods use the blocks), or release with --former only what earlier disks of that name left", name)
	}
	return freed, nil
}

// ReleaseFormer releases the blocks that earlier machines of a name left, whose disks are gone: the blocks of every
// identity but that of the name's record. The machine that has the name now keeps its own.
func (s *Store) ReleaseFormer(ctx context.Context, name string) ([]model.Block, error) {
	all, _, err := s.Blocks(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := request(ctx)
	defer cancel()
	key := s.key("nodes", name)
	got, err := s.cli.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if len(got.Kvs) == 0 {
		return nil, fmt.Errorf("no node %s", name)
	}
	var have model.Node
	if err := model.Decode(got.Kvs[0].Value, nodeLayout, &have); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	var freed []model.Block
	var ops []clientv3.Op
	for _, b := range all {
		if b.Node == name && b.Identity != have.Identity {
			freed = append(freed, b)
			ops = append(ops, clientv3.OpDelete(s.key("blocks", blockKey(b.CIDR))))
		}
	}
	// The alive key is another identity's only while two machines quarrel about the name.
	alive := s.key("alive", name)
	quiet := clientv3.Compare(clientv3.CreateRevision(alive), "=", 0)
	for _, c := range []clientv3.Cmp{clientv3.Compare(clientv3.Value(alive), "=", have.Identity), quiet} {
		resp, err := s.cli.Txn(ctx).If(c, clientv3.Compare(clientv3.ModRevision(key), "=", got.Kvs[0].ModRevision)).Then(ops...).Commit()
		if err != nil {
			return nil, fmt.Errorf("release former blocks of %s: %w", name, err)
		}
		if resp.Succeeded {
			return freed, nil
		}
	}
	return nil, fmt.Errorf("release former blocks of %s: another machine is alive under that name, or its record just changed", name)
}

// KeepAlive holds alive/<name> on a lease until ctx ends or the lease is lost. The key is for status only.
func (s *Store) KeepAlive(ctx context.Context, name, identity string, ttl time.Duration) error {
	rctx, cancel := request(ctx)
	defer cancel()
	lease, err := s.cli.Grant(rctx, int64(ttl/time.Second))
	if err != nil {
		return fmt.Errorf("lease for alive/%s: %w", name, err)
	}
	key := s.key("alive", name)
	if err := s.putAlive(rctx, key, identity, lease.ID); err != nil {
		return errors.Join(err, s.revoke(lease.ID))
	}
	beats, err := s.cli.KeepAlive(ctx, lease.ID)
	if err != nil {
		return fmt.Errorf("keep %s alive: %w", key, err)
	}
	for range beats { //nolint:revive // each beat is a renewal; the channel closes when the lease or ctx ends
	}
	if ctx.Err() != nil {
		return s.revoke(lease.ID)
	}
	return fmt.Errorf("keep %s alive: the lease ended", key)
}

// putAlive writes the key unless it is another machine's that is alive: that one holds the name.
func (s *Store) putAlive(ctx context.Context, key, identity string, lease clientv3.LeaseID) error {
	put := clientv3.OpPut(key, identity, clientv3.WithLease(lease))
	for _, ours := range []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0), clientv3.Compare(clientv3.Value(key), "=", identity)} {
		resp, err := s.cli.Txn(ctx).If(ours).Then(put).Commit()
		if err != nil {
			return fmt.Errorf("write %s: %w", key, err)
		}
		if resp.Succeeded {
			return nil
		}
	}
	return fmt.Errorf("write %s: %w by another machine", key, ErrNameTaken)
}

// revoke ends the lease at a clean stop, so that status shows it at once. The context of the run is over by then.
func (s *Store) revoke(id clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := s.cli.Revoke(ctx, id)
	return err
}
