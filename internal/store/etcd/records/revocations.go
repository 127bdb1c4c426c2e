package records

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// revocationLayout is the layout version of the records below revoked/.
const revocationLayout = 1

// ErrRevoked reports that this machine was excluded from the cluster.
var ErrRevoked = errors.New("this machine was revoked")

// ErrAccess reports that a revoked machine still has access to the store.
var ErrAccess = errors.New("its client certificate is not refused: run the members with this version of warren etcd, " +
	"or replace the certificate authority if the nodes share a certificate")

// errReplaced reports that what was written is not in the store.
var errReplaced = errors.New("the stored revocation was deleted or replaced by another one: run the command again")

// RevocationKey returns the name of the node that a key of any cluster revokes.
func RevocationKey(key string) (node string, ok bool) {
	rest, below := strings.CutPrefix(key, client.Root)
	parts := strings.SplitN(rest, "/", 3)
	if !below || len(parts) != 3 || parts[1] != "revoked" {
		return "", false
	}
	return parts[2], true
}

// DecodeRevocation reads the revocation of the node with that name. Dates after now, beyond different clocks, are refused.
func DecodeRevocation(raw []byte, node string, now time.Time) (model.Revocation, error) {
	var r model.Revocation
	if err := model.Decode(raw, revocationLayout, &r); err != nil {
		return r, err
	}
	switch {
	case r.Node == "" || r.Node != node:
		return r, fmt.Errorf("revokes the node %q", r.Node)
	case len(r.Identities) > model.MaxRevoked || len(r.PublicKeys) > model.MaxRevoked:
		return r, fmt.Errorf("more than %d identities or public keys", model.MaxRevoked)
	case slices.Contains(r.Identities, "") || slices.Contains(r.PublicKeys, model.Key{}):
		return r, fmt.Errorf("an empty identity or public key")
	}
	return r, r.CheckDates(now)
}

// putRevocation merges a revocation into the stored one and carries out ops in the same transaction. adapt gives the revocation
// dates that suit the stored one; nil keeps them.
func (s *Store) putRevocation(ctx context.Context, r model.Revocation, adapt func(r, stored model.Revocation) model.Revocation,
	ops ...clientv3.Op,
) (model.Revocation, error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	key := s.cli.Key("revoked", r.Node)
	for {
		got, err := s.cli.Get(ctx, key)
		if err != nil {
			return r, err
		}
		if len(got.Kvs) == 0 {
			if err := s.checkFull(ctx); err != nil {
				return r, err
			}
		}
		unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", 0)
		merged := r
		if len(got.Kvs) == 1 {
			unchanged = clientv3.Compare(clientv3.ModRevision(key), "=", got.Kvs[0].ModRevision)
			have, err := DecodeRevocation(got.Kvs[0].Value, r.Node, time.Now())
			var newer *model.ErrNewer
			switch {
			case errors.As(err, &newer):
				return r, fmt.Errorf("write %s: %w", key, err)
			case err == nil:
				if adapt != nil {
					r = adapt(r, have)
				}
				merged = have.Merge(r)
			}
		}
		raw, err := model.Encode(revocationLayout, merged)
		if err != nil {
			return r, err
		}
		resp, err := s.cli.Txn(ctx).If(unchanged).Then(append([]clientv3.Op{clientv3.OpPut(key, string(raw))}, ops...)...).Commit()
		if err != nil {
			return r, fmt.Errorf("write %s: %w", key, err)
		}
		if resp.Succeeded {
			return merged, nil
		}
	}
}

// checkFull fails if the list of revocations cannot have another node: agents and members would ignore it.
func (s *Store) checkFull(ctx context.Context) error {
	prefix := s.cli.Key("revoked", "")
	got, err := s.cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("count %s: %w", prefix, err)
	}
	if got.Count >= model.MaxRevocations {
		return fmt.Errorf("%s has %d revoked nodes, expected fewer than %d: no other node can be revoked; replace the certificate "+
			"authority (warren pki rotate) to exclude a machine", prefix, got.Count, model.MaxRevocations)
	}
	return nil
}

// verifyRevocation reads the stored revocation and fails unless it excludes what was meant.
func (s *Store) verifyRevocation(ctx context.Context, meant model.Revocation) error {
	have, err := s.revocation(ctx, meant.Node)
	switch {
	case err != nil:
		return err
	case have == nil || !have.Excludes(meant) || have.NameAllowed != meant.NameAllowed:
		return fmt.Errorf("node %s: %w", meant.Node, errReplaced)
	}
	return nil
}

// KeepRevocation writes a revocation that the store has lost, or combines it with the stored one.
func (s *Store) KeepRevocation(ctx context.Context, r model.Revocation) error {
	_, err := s.putRevocation(ctx, r, nil)
	return err
}

// Allow permits another machine to use the name of a revoked node. Identity, keys and certificates remain revoked.
func (s *Store) Allow(ctx context.Context, name string, now time.Time) error {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	r, err := s.revocation(ctx, name)
	if err != nil {
		return err
	}
	if r == nil {
		return fmt.Errorf("node %s is not revoked", name)
	}
	r.NameAllowed, r.Changed = true, now.UTC()
	allow := func(r, stored model.Revocation) model.Revocation {
		r.Changed = r.After(stored).Changed
		return r
	}
	if _, err = s.putRevocation(ctx, *r, allow); err != nil {
		return err
	}
	return s.verifyRevocation(ctx, *r)
}

// Revocations lists the revoked nodes, sorted by name.
func (s *Store) Revocations(ctx context.Context) (out model.Revocations, err error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	prefix := s.cli.Key("revoked", "")
	got, err := s.cli.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	for _, kv := range got.Kvs {
		r, err := DecodeRevocation(kv.Value, strings.TrimPrefix(string(kv.Key), prefix), time.Now())
		if err != nil {
			return nil, fmt.Errorf("record %s: %w", kv.Key, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// revocation returns the revocation of a node, nil if there is none.
func (s *Store) revocation(ctx context.Context, name string) (*model.Revocation, error) {
	key := s.cli.Key("revoked", name)
	got, err := s.cli.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if len(got.Kvs) == 0 {
		return nil, nil
	}
	r, err := DecodeRevocation(got.Kvs[0].Value, name, time.Now())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return &r, nil
}

// checkRevoked fails with ErrRevoked if that machine must not use the name.
func (s *Store) checkRevoked(ctx context.Context, name, identity string) error {
	r, err := s.revocation(ctx, name)
	if err != nil || r == nil || r.NameAllowed && !slices.Contains(r.Identities, identity) {
		return err
	}
	return fmt.Errorf("%w: node %q at %s; if it may return, remove its state directory, which holds its identity and key, issue it "+
		"another certificate, and run `warren node allow %s`", ErrRevoked, name, r.Revoked.Format(time.RFC3339), name)
}
