package records

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// opsPerTxn is how many deletions one transaction has; etcd permits 128 operations.
const opsPerTxn = 100

// A revocation that its node replaces is written again after revokePause, for at most revokeTime.
const (
	revokeTime  = 10 * time.Second
	revokePause = 50 * time.Millisecond
)

// Revoked is what Revoke has done.
type Revoked struct {
	Revocation model.Revocation
	Released   []model.Block
	// Shared are identities and public keys of the record that other nodes' records have as well. They are not revoked.
	Shared []string
	// Aliases are other nodes whose records have an endpoint or address of the node. They are not revoked.
	Aliases []string
}

// Revoke excludes a node, also one whose agent is alive: one transaction writes the revocation and deletes the node's record,
// its liveness key and its blocks. Then its Pod records are deleted. A node without a record is excluded by its name.
func (s *Store) Revoke(ctx context.Context, name string, now time.Time) (Revoked, error) {
	var out Revoked
	if name == "" || strings.Contains(name, "/") {
		return out, fmt.Errorf("revoke node %q: expected the name of a node", name)
	}
	all, err := s.machines(ctx)
	if err != nil {
		return out, fmt.Errorf("revoke node %s: %w", name, err)
	}
	r := model.Revocation{Node: name, Revoked: now.UTC(), Changed: now.UTC()}
	out.Shared, out.Aliases = all.identify(&r), all.aliases(name)
	blocks := all.blocksOf(r)
	ops := []clientv3.Op{clientv3.OpDelete(s.cli.Key("nodes", name)), clientv3.OpDelete(s.cli.Key("alive", name))}
	for _, b := range blocks[:min(len(blocks), opsPerTxn)] { // Purge deletes further ones
		ops = append(ops, clientv3.OpDelete(s.cli.Key("blocks", blockKey(b.CIDR))))
	}
	if out.Revocation, err = s.enforce(ctx, r, ops); err != nil {
		return out, fmt.Errorf("revoke node %s: %w", name, err)
	}
	out.Released = blocks
	_, err = s.Purge(ctx, out.Revocation)
	return out, err
}

// enforce writes a revocation until it is in the store: until every etcd server refuses the node's certificate, the node can still
// delete or replace what was written.
func (s *Store) enforce(ctx context.Context, r model.Revocation, ops []clientv3.Op) (model.Revocation, error) {
	end := time.Now().Add(revokeTime)
	for {
		stored, err := s.putRevocation(ctx, r, model.Revocation.After, ops...)
		if err != nil {
			return stored, err
		}
		if err = s.verifyRevocation(ctx, r); err == nil || !errors.Is(err, errReplaced) || time.Now().After(end) {
			return stored, err
		}
		select {
		case <-ctx.Done():
			return stored, errors.Join(err, context.Cause(ctx))
		case <-time.After(revokePause):
		}
	}
}

// machines are the records that a revocation is derived from.
type machines struct {
	nodes  []model.Node
	blocks []model.Block
}

// machines reads nodes and blocks. Records that cannot be decoded are ignored: they count for no agent either.
func (s *Store) machines(ctx context.Context) (out machines, err error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	got, err := s.cli.Txn(ctx).Then(clientv3.OpGet(s.cli.Key("nodes", ""), clientv3.WithPrefix()),
		clientv3.OpGet(s.cli.Key("blocks", ""), clientv3.WithPrefix())).Commit()
	if err != nil {
		return out, err
	}
	for _, kv := range got.Responses[0].GetResponseRange().Kvs {
		if n, err := DecodeNode(kv.Value, strings.TrimPrefix(string(kv.Key), s.cli.Key("nodes", ""))); err == nil {
			out.nodes = append(out.nodes, n)
		}
	}
	for _, kv := range got.Responses[1].GetResponseRange().Kvs {
		if b, err := DecodeBlock(kv); err == nil {
			out.blocks = append(out.blocks, b)
		}
	}
	return out, nil
}

// identify adds identity and keys of the node's record to a revocation, except those that another node's record has: a
// compromised node could copy them into its own record to have the other node excluded as well.
func (m machines) identify(r *model.Revocation) (shared []string) {
	others := map[any]bool{model.Key{}: true}
	for _, n := range m.nodes {
		if n.Name != r.Node {
			others[n.Identity], others[n.PublicKey], others[n.NextPublicKey] = true, true, true
		}
	}
	for _, n := range m.nodes {
		if n.Name != r.Node {
			continue
		}
		if others[n.Identity] {
			shared = append(shared, "identity "+n.Identity)
		} else {
			r.Identities = append(r.Identities, n.Identity)
		}
		for _, k := range []model.Key{n.PublicKey, n.NextPublicKey} {
			switch {
			case !others[k]:
				r.PublicKeys = append(r.PublicKeys, k)
			case !k.IsZero():
				shared = append(shared, "public key "+k.String())
			}
		}
	}
	return shared
}

// aliases describes the records of other nodes that have an endpoint or address of the node: it may have written them itself,
// under other names.
func (m machines) aliases(name string) (out []string) {
	own := map[any]bool{}
	for _, n := range m.nodes {
		if n.Name == name {
			for _, x := range locations(n) {
				own[x] = true
			}
		}
	}
	for _, n := range m.nodes {
		for _, x := range locations(n) {
			if n.Name != name && own[x] {
				out = append(out, fmt.Sprintf("node %s has the address %s", n.Name, x))
				break
			}
		}
	}
	return out
}

// locations are the addresses of a node and of its endpoints.
func locations(n model.Node) []netip.Addr {
	out := slices.Clone(n.Addresses)
	for _, e := range n.Endpoints {
		out = append(out, e.Addr())
	}
	return out
}

// blocksOf returns the blocks that the revoked node claimed.
func (m machines) blocksOf(r model.Revocation) (out []model.Block) {
	for _, b := range m.blocks {
		if b.Node == r.Node || slices.Contains(r.Identities, b.Identity) {
			out = append(out, b)
		}
	}
	return out
}
