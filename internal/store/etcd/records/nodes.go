package records

import (
	"context"
	"errors"
	"fmt"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// PutNode writes a node's record and returns the revision of the write. It replaces a record of the same identity, or one
// whose owner is not alive. If another machine that is alive owns the name, it fails with ErrNameTaken.
func (s *Store) PutNode(ctx context.Context, n model.Node) (int64, error) {
	raw, err := model.Encode(nodeLayout, n)
	if err != nil {
		return 0, err
	}
	ctx, cancel := client.Request(ctx)
	defer cancel()
	if err := s.checkRevoked(ctx, n.Name, n.Identity); err != nil {
		return 0, err
	}
	key, alive := s.cli.Key("nodes", n.Name), s.cli.Key("alive", n.Name)
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
	return fmt.Errorf("%w: %q belongs to another machine that is alive (identity %s); "+
		"give this node another nodeName, or run `warren node rm %s` once that machine is gone",
		ErrNameTaken, name, identity, name)
}

// CheckName fails with ErrNameTaken while another machine that is alive owns the name, and with ErrRevoked if the name or this
// machine was revoked. A node calls it before it claims blocks; PutNode checks again.
func (s *Store) CheckName(ctx context.Context, name, identity string) error {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	if err := s.checkRevoked(ctx, name, identity); err != nil {
		return err
	}
	key := s.cli.Key("alive", name)
	got, err := s.cli.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if len(got.Kvs) == 1 && string(got.Kvs[0].Value) != identity {
		return nameTaken(name, string(got.Kvs[0].Value))
	}
	return nil
}

// DeleteNode removes a node's record and the blocks of that identity, or of every identity for "". It fails while the node
// is alive. It returns the released blocks.
func (s *Store) DeleteNode(ctx context.Context, name, identity string) ([]model.Block, error) {
	all, _, err := s.Blocks(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := client.Request(ctx)
	defer cancel()
	var freed []model.Block
	ops := []clientv3.Op{clientv3.OpDelete(s.cli.Key("nodes", name))}
	for _, b := range all {
		if b.Node == name && (identity == "" || b.Identity == identity) {
			freed = append(freed, b)
			ops = append(ops, clientv3.OpDelete(s.cli.Key("blocks", blockKey(b.CIDR))))
		}
	}
	resp, err := s.cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(s.cli.Key("alive", name)), "=", 0)).Then(ops...).Commit()
	switch {
	case err != nil:
		return nil, fmt.Errorf("remove node %s: %w", name, err)
	case !resp.Succeeded:
		return nil, fmt.Errorf("remove node %s: its agent is alive; stop it first (its Pods use the blocks), "+
			"use --revoke to exclude it from the cluster in spite of that, "+
			"or --former to release only the blocks of former machines of that name", name)
	}
	return freed, nil
}

// ReleaseFormer releases the blocks that earlier machines of a node name left: those of every identity except that of the
// node's record. The current machine keeps its blocks.
func (s *Store) ReleaseFormer(ctx context.Context, name string) ([]model.Block, error) {
	all, _, err := s.Blocks(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := client.Request(ctx)
	defer cancel()
	key := s.cli.Key("nodes", name)
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
			ops = append(ops, clientv3.OpDelete(s.cli.Key("blocks", blockKey(b.CIDR))))
		}
	}
	// The alive key has another identity only while two machines claim the same node name.
	alive := s.cli.Key("alive", name)
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

// aliveUnchanged compares the alive key with what was read of it.
func aliveUnchanged(key string, living []*mvccpb.KeyValue) clientv3.Cmp {
	if len(living) == 0 {
		return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	}
	return clientv3.Compare(clientv3.ModRevision(key), "=", living[0].ModRevision)
}

// maxPerNode bounds the lists in a node's record; a record beyond it is refused whole.
const maxPerNode = 256

// minMTU and maxMTU bound the MTU in bytes that a node's configuration may have (RFC 1122 section 3.3.2; an IP packet's 65,535 bytes
// less the tunnel's headers).
const (
	minMTU = 576
	maxMTU = 65455
)

// DecodeNode reads a node's record, whose key ends with that name.
func DecodeNode(raw []byte, name string) (model.Node, error) {
	var n model.Node
	if err := model.Decode(raw, nodeLayout, &n); err != nil {
		return n, err
	}
	switch {
	case n.Name != name:
		return n, fmt.Errorf("names the node %q", n.Name)
	case n.Identity == "":
		return n, fmt.Errorf("identity is empty")
	case n.PublicKey.IsZero():
		return n, fmt.Errorf("publicKey is empty")
	case len(n.Endpoints) > maxPerNode || len(n.Addresses) > maxPerNode || len(n.PodCIDRs) > maxPerNode ||
		len(n.AcceptedKeys) > maxPerNode:
		return n, fmt.Errorf("more than %d endpoints, addresses, podCIDRs or acceptedKeys", maxPerNode)
	case n.MTU != 0 && (n.MTU < minMTU || n.MTU > maxMTU):
		return n, fmt.Errorf("mtu is %d, expected 0 (unknown) or %d to %d", n.MTU, minMTU, maxMTU)
	}
	for _, p := range n.PodCIDRs {
		if !p.IsValid() || p != p.Masked() {
			return n, fmt.Errorf("podCIDRs: %v is not a masked prefix", p)
		}
	}
	return n, nil
}
