package records

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"sort"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// blockKey encodes a CIDR as one path element: 10.42.3.0-24, fd42:0:0:3::-64.
func blockKey(p netip.Prefix) string { return strings.Replace(p.String(), "/", "-", 1) }

// blockOfKey is the CIDR that the key of a block record names, invalid if it names none.
func blockOfKey(key []byte) netip.Prefix {
	name := string(key[bytes.LastIndexByte(key, '/')+1:])
	p, err := netip.ParsePrefix(strings.Replace(name, "-", "/", 1))
	if err != nil || blockKey(p.Masked()) != name {
		return netip.Prefix{}
	}
	return p
}

// Blocks lists every claimed block, sorted by CIDR, and the revision of the list. A record that cannot be read is listed without an
// owner if its key names a CIDR; the watch reports it.
func (s *Store) Blocks(ctx context.Context) ([]model.Block, int64, error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	resp, err := s.cli.Get(ctx, s.cli.Key("blocks", ""), clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("list blocks: %w", err)
	}
	return decodeBlocks(resp.Kvs), resp.Header.Revision, nil
}

// ClaimBlocks creates all the given blocks in one transaction if none of them exists. If one exists, it returns false and
// all blocks that are claimed, as Blocks lists them.
func (s *Store) ClaimBlocks(ctx context.Context, want []model.Block) (won bool, now []model.Block, revision int64, err error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	var cmps []clientv3.Cmp
	var puts []clientv3.Op
	for _, b := range want {
		raw, err := model.Encode(blockLayout, b)
		if err != nil {
			return false, nil, 0, err
		}
		key := s.cli.Key("blocks", blockKey(b.CIDR))
		cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		puts = append(puts, clientv3.OpPut(key, string(raw)))
	}
	resp, err := s.cli.Txn(ctx).If(cmps...).Then(puts...).Else(clientv3.OpGet(s.cli.Key("blocks", ""), clientv3.WithPrefix())).Commit()
	if err != nil {
		return false, nil, 0, fmt.Errorf("claim blocks: %w", err)
	}
	if resp.Succeeded {
		return true, want, resp.Header.Revision, nil
	}
	return false, decodeBlocks(resp.Responses[0].GetResponseRange().Kvs), resp.Header.Revision, nil
}

// decodeBlocks decodes block records. One that cannot be decoded keeps the CIDR of its key claimed, by no node: a claim of that CIDR
// could assign addresses twice, and its transaction would fail. It does not prevent claims of other blocks.
func decodeBlocks(kvs []*mvccpb.KeyValue) []model.Block {
	out := make([]model.Block, 0, len(kvs))
	for _, kv := range kvs {
		b, err := DecodeBlock(kv)
		if err != nil {
			b = model.Block{CIDR: blockOfKey(kv.Key)}
		}
		if b.CIDR.IsValid() {
			out = append(out, b)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].CIDR.Compare(out[j].CIDR) < 0 })
	return out
}

// DecodeBlock reads a block record and checks that its key names the same block.
func DecodeBlock(kv *mvccpb.KeyValue) (model.Block, error) {
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
