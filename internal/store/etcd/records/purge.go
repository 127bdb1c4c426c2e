package records

import (
	"context"
	"fmt"
	"slices"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Purge deletes what a revoked node has written since: its record, liveness key, blocks and Pods. It reports whether there was
// any of the first three: then the node still has access to the store.
func (s *Store) Purge(ctx context.Context, r model.Revocation) (written bool, err error) {
	all, err := s.machines(ctx)
	if err != nil {
		return false, fmt.Errorf("read the records of node %s: %w", r.Node, err)
	}
	keys := []string{s.cli.Key("alive", r.Node)}
	for _, n := range all.nodes {
		if n.Name == r.Node || slices.Contains(r.Identities, n.Identity) || slices.Contains(r.PublicKeys, n.PublicKey) {
			keys = append(keys, s.cli.Key("nodes", n.Name))
		}
	}
	for _, b := range all.blocksOf(r) {
		keys = append(keys, s.cli.Key("blocks", blockKey(b.CIDR)))
	}
	n, err := s.deleteAll(ctx, keys)
	if err != nil {
		return n > 0, err
	}
	pods, err := s.podsOf(ctx, r.Node)
	if err != nil {
		return n > 0, err
	}
	_, err = s.deleteAll(ctx, pods)
	return n > 0, err
}

func (s *Store) podsOf(ctx context.Context, node string) (keys []string, err error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	got, err := s.cli.Get(ctx, s.cli.Key("objects", "pods", ""), clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list the Pods of node %s: %w", node, err)
	}
	for _, kv := range got.Kvs {
		if p, err := DecodePod(kv.Value); err == nil && p.Node == node {
			keys = append(keys, string(kv.Key))
		}
	}
	return keys, nil
}

// deleteAll returns how many of the keys existed.
func (s *Store) deleteAll(ctx context.Context, keys []string) (deleted int64, err error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	for chunk := range slices.Chunk(keys, opsPerTxn) {
		var ops []clientv3.Op
		for _, k := range chunk {
			ops = append(ops, clientv3.OpDelete(k))
		}
		resp, err := s.cli.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return deleted, fmt.Errorf("delete %d keys: %w", len(chunk), err)
		}
		for _, r := range resp.Responses {
			deleted += r.GetResponseDeleteRange().Deleted
		}
	}
	return deleted, nil
}
