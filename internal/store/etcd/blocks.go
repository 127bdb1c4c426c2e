package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"sort"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// blockKey writes a CIDR so that it is one path element: 10.42.3.0-24, fd42:0:0:3::-64.
func blockKey(p netip.Prefix) string { return strings.Replace(p.String(), "/", "-", 1) }

// Blocks lists every claimed block, sorted by CIDR, and the revision of the list.
func (s *Store) Blocks(ctx context.Context) ([]model.Block, int64, error) {
	ctx, cancel := request(ctx)
	defer cancel()
	resp, err := s.cli.Get(ctx, s.key("blocks", ""), clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("list blocks: %w", err)
	}
	out, err := decodeBlocks(resp.Kvs)
	return out, resp.Header.Revision, err
}

// ClaimBlocks creates all the given blocks in one transaction if none of them exists. It returns false and the blocks
// that are claimed by now if any did.
func (s *Store) ClaimBlocks(ctx context.Context, want []model.Block) (won bool, now []model.Block, revision int64, err error) {
	ctx, cancel := request(ctx)
	defer cancel()
	var cmps []clientv3.Cmp
	var puts []clientv3.Op
	for _, b := range want {
		raw, err := model.Encode(blockLayout, b)
		if err != nil {
			return false, nil, 0, err
		}
		key := s.key("blocks", blockKey(b.CIDR))
		cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		puts = append(puts, clientv3.OpPut(key, string(raw)))
	}
	resp, err := s.cli.Txn(ctx).If(cmps...).Then(puts...).Else(clientv3.OpGet(s.key("blocks", ""), clientv3.WithPrefix())).Commit()
	if err != nil {
		return false, nil, 0, fmt.Errorf("claim blocks: %w", err)
	}
	if resp.Succeeded {
		return true, want, resp.Header.Revision, nil
	}
	now, err = decodeBlocks(resp.Responses[0].GetResponseRange().Kvs)
	return false, now, resp.Header.Revision, err
}

// decodeBlocks is strict: a block record that cannot be read stops every claim, because a claim that overlooks it
// could hand the same addresses out twice.
func decodeBlocks(kvs []*mvccpb.KeyValue) ([]model.Block, error) {
	out := make([]model.Block, 0, len(kvs))
	for _, kv := range kvs {
		b, err := decodeBlock(kv)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].CIDR.Compare(out[j].CIDR) < 0 })
	return out, nil
}

func decodeBlock(kv *mvccpb.KeyValue) (model.Block, error) {
	var b model.Block
	if err := model.Decode(kv.Value, blockLayout, &b); err != nil {
		return b, fmt.Errorf("block record %s: %w", kv.Key, err)
	}
	if !b.CIDR.IsValid() || b.CIDR != b.CIDR.Masked() || b.Node == "" || b.Identity == "" {
		return b, fmt.Errorf("block record %s: expected a masked cidr, a node and an identity", kv.Key)
	}
	if !strings.HasSuffix(string(kv.Key), "/"+blockKey(b.CIDR)) {
		return b, fmt.Errorf("block record %s: names the block %s", kv.Key, b.CIDR)
	}
	return b, nil
}

func aliveUnchanged(key string, living []*mvccpb.KeyValue) clientv3.Cmp {
	if len(living) == 0 {
		return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	}
	return clientv3.Compare(clientv3.ModRevision(key), "=", living[0].ModRevision)
}
