package records

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warrennet/warren/internal/store/etcd/client"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// KeepAlive holds alive/<name> on a lease until ctx ends or the lease is lost. While the key exists, its identity owns the
// node name: another machine can neither register under it nor remove the node or its blocks. Snapshots report it as
// model.Node.Alive.
func (s *Store) KeepAlive(ctx context.Context, name, identity string, ttl time.Duration) error {
	rctx, cancel := client.Request(ctx)
	defer cancel()
	if err := s.checkRevoked(rctx, name, identity); err != nil {
		return err
	}
	lease, err := s.cli.Grant(rctx, int64(ttl/time.Second))
	if err != nil {
		return fmt.Errorf("lease for alive/%s: %w", name, err)
	}
	key := s.cli.Key("alive", name)
	if err := s.putAlive(rctx, key, identity, lease.ID); err != nil {
		return errors.Join(err, s.revoke(lease.ID))
	}
	beats, err := s.cli.KeepAlive(ctx, lease.ID)
	if err != nil {
		return fmt.Errorf("keep %s alive: %w", key, err)
	}
	for range beats { //nolint:revive // each response is a renewal; the channel closes when the lease or ctx ends
	}
	if ctx.Err() != nil {
		return s.revoke(lease.ID)
	}
	return fmt.Errorf("keep %s alive: the lease ended", key)
}

// putAlive writes the key unless another machine that is alive owns it.
func (s *Store) putAlive(ctx context.Context, key, identity string, lease clientv3.LeaseID) error {
	put := clientv3.OpPut(key, identity, clientv3.WithLease(lease))
	for _, ours := range []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0),
		clientv3.Compare(clientv3.Value(key), "=", identity)} {
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

// revoke ends the lease at a clean stop, so that other nodes see it at once. It does not use the context of KeepAlive,
// which has ended.
func (s *Store) revoke(id clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := s.cli.Revoke(ctx, id)
	return err
}
