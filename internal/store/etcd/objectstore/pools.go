package objectstore

import (
	"context"
	"errors"
	"fmt"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/records"
	"net/netip"
	"strings"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pools lists the address pools.
func (s *Store) pools(ctx context.Context) ([]model.AddressPool, error) {
	k, err := objects.KindNamed("AddressPool")
	if err != nil {
		return nil, err
	}
	list, err := s.List(ctx, k, "")
	if err != nil {
		return nil, err
	}
	var out []model.AddressPool
	for _, o := range list {
		out = append(out, objects.Pool(o.(*objects.AddressPool)))
	}
	return out, nil
}

// checkPool refuses a pool that overlaps another pool, the Pod or Service ranges, or a node's own address. It adds a
// comparison to txn that fails if a pool is written concurrently.
func (s *Store) checkPool(ctx context.Context, p *objects.AddressPool, txn *transaction) error {
	rctx, cancel := client.Request(ctx)
	defer cancel()
	prefix := s.cli.Key("objects", "addresspools", "")
	head, err := s.cli.Get(rctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	txn.cmps = append(txn.cmps, clientv3.Compare(clientv3.ModRevision(prefix), "<", head.Header.Revision+1).WithPrefix())
	others, err := s.pools(ctx)
	if err != nil {
		return err
	}
	kept, err := s.reserved(ctx)
	if err != nil {
		return err
	}
	for _, o := range others {
		for _, r := range o.Ranges {
			if o.Name != p.Name {
				kept = append(kept, reservation{r, "of AddressPool " + o.Name})
			}
		}
	}
	var errs []error
	for i, text := range p.Spec.Addresses {
		r, err := lbpool.ParseRange(text)
		if err != nil {
			return err // Validate has refused it before
		}
		for _, k := range kept {
			if r.Overlaps(k.addrs) {
				errs = append(errs, fmt.Errorf("spec.addresses[%d]: %s overlaps %s %s", i, text, k.addrs, k.whose))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("AddressPool %q: %w", p.Name, err)
	}
	return nil
}

// reservation is a range that no pool may contain.
type reservation struct {
	addrs model.AddressRange
	whose string
}

// reserved lists the Pod and Service ranges and the addresses of nodes.
func (s *Store) reserved(ctx context.Context) (out []reservation, err error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	resp, err := s.cli.Txn(ctx).Then(clientv3.OpGet(s.cli.Key("config")),
		clientv3.OpGet(s.cli.Key("nodes", ""), clientv3.WithPrefix())).Commit()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.cli.Key("config"), err)
	}
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		c, err := records.DecodeCluster(kv.Value)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", kv.Key, err)
		}
		for _, p := range c.PodCIDRs {
			out = append(out, reservation{lbpool.OfPrefix(p), "(Pods)"})
		}
	}
	for _, kv := range resp.Responses[1].GetResponseRange().Kvs {
		n, err := records.DecodeNode(kv.Value, strings.TrimPrefix(string(kv.Key), s.cli.Key("nodes", "")))
		if err != nil {
			continue // `warren status` reports it
		}
		for _, a := range n.Addresses {
			out = append(out, reservation{model.AddressRange{First: a, Last: a}, "of node " + n.Name})
		}
	}
	cidrs, err := s.ServiceCIDRs(ctx)
	for _, p := range cidrs {
		out = append(out, reservation{lbpool.OfPrefix(p), "(Services)"})
	}
	return out, err
}

// clashes refuses Service ranges that contain addresses of a pool.
func (s *Store) clashes(ctx context.Context, cidrs []string) error {
	pools, err := s.pools(ctx)
	if err != nil {
		return err
	}
	for i, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			return err // Validate has refused it before
		}
		for _, o := range pools {
			for _, r := range o.Ranges {
				if r.Overlaps(lbpool.OfPrefix(p)) {
					return fmt.Errorf("spec.cidrs[%d]: %s overlaps %s of AddressPool %s", i, c, r, o.Name)
				}
			}
		}
	}
	return nil
}
