package objectstore

import (
	"context"
	"fmt"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
)

// lbLayout is the layout version of the records under alloc/lbips/: the Services that hold an address of a pool.
const lbLayout = 1

// lbHold is the value of such a record. Several Services may share an address; the release by the last one deletes it.
type lbHold struct {
	Uses []lbpool.Use `json:"uses"`
}

// lbHolds are all records under alloc/lbips/: the holders of each address and the revision that a change compares with.
type lbHolds struct {
	taken lbpool.Taken
	rev   map[netip.Addr]int64
}

func (s *Store) lbKey(a netip.Addr) string { return s.cli.Key("alloc", "lbips", a.String()) }

func (s *Store) lbHolds(ctx context.Context) (lbHolds, error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	prefix := s.cli.Key("alloc", "lbips", "")
	out := lbHolds{lbpool.Taken{}, map[netip.Addr]int64{}}
	resp, err := s.cli.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return out, fmt.Errorf("list %s: %w", prefix, err)
	}
	for _, kv := range resp.Kvs {
		a, err := netip.ParseAddr(strings.TrimPrefix(string(kv.Key), prefix))
		if err != nil {
			return out, fmt.Errorf("read %s: %w", kv.Key, err)
		}
		var h lbHold
		if err := model.Decode(kv.Value, lbLayout, &h); err != nil {
			return out, fmt.Errorf("read %s: %w", kv.Key, err)
		}
		out.taken[a], out.rev[a] = h.Uses, kv.ModRevision
	}
	return out, nil
}

// lbAddresses assigns load balancer addresses to a Service of warren's class, as far as the pools have any, and releases
// those of a Service that needs none any longer. A Service without an address is written as well: Allocate retries later.
// The status of a Service of another class is not changed.
func (s *Store) lbAddresses(ctx context.Context, svc, before *corev1.Service, txn *transaction) error {
	now, had := objects.Service(svc), model.Service{}
	if before != nil {
		had = objects.Service(before)
	}
	if !lbpool.Ours(&now) && !lbpool.Ours(&had) {
		if before != nil && now.Type == model.LoadBalancer && len(svc.Status.LoadBalancer.Ingress) == 0 {
			svc.Status = before.Status // a manifest has no status
		}
		return nil
	}
	holds, err := s.lbHolds(ctx)
	if err != nil {
		return err
	}
	if !lbpool.Ours(&now) {
		return s.lbHold(txn, holds, lbpool.Use{UID: string(svc.UID)}, nil) // the controller of the new class writes its own status
	}
	pools, err := s.pools(ctx)
	if err != nil {
		return err
	}
	now.LBAddresses = holds.of(string(svc.UID)) // the records decide, not the status in a manifest
	r, err := lbpool.RequestOf(&now)
	var got []netip.Addr
	if err == nil {
		got, _ = lbpool.Choose(r, pools, holds.taken)
	}
	svc.Status.LoadBalancer = vip(got)
	return s.lbHold(txn, holds, r.Use, got)
}

// of lists the addresses that a Service holds, IPv4 first.
func (h lbHolds) of(uid string) (out []netip.Addr) {
	for a, uses := range h.taken {
		if slices.ContainsFunc(uses, func(u lbpool.Use) bool { return u.UID == uid }) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// vip is the status of a Service whose addresses are delivered to the nodes unchanged (ipMode VIP).
func vip(addrs []netip.Addr) (st corev1.LoadBalancerStatus) {
	mode := corev1.LoadBalancerIPModeVIP
	for _, a := range addrs {
		st.Ingress = append(st.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
	}
	return st
}

// lbHold adds to txn the changes that make a Service the holder of exactly these addresses. The transaction fails if one
// of the records has changed since it was read.
func (s *Store) lbHold(txn *transaction, holds lbHolds, me lbpool.Use, want []netip.Addr) error {
	touched := slices.Concat(holds.of(me.UID), want)
	slices.SortFunc(touched, netip.Addr.Compare)
	for _, a := range slices.Compact(touched) {
		uses := slices.DeleteFunc(slices.Clone(holds.taken[a]), func(u lbpool.Use) bool { return u.UID == me.UID })
		if slices.Contains(want, a) {
			uses = append(uses, me)
		}
		key := s.lbKey(a)
		txn.cmps = append(txn.cmps, clientv3.Compare(clientv3.ModRevision(key), "=", holds.rev[a]))
		if len(uses) == 0 {
			txn.ops = append(txn.ops, clientv3.OpDelete(key))
			continue
		}
		raw, err := model.Encode(lbLayout, lbHold{uses})
		if err != nil {
			return err
		}
		txn.ops = append(txn.ops, clientv3.OpPut(key, string(raw)))
	}
	return nil
}

// lbRelease adds to txn the release of all addresses of a Service that is deleted.
func (s *Store) lbRelease(ctx context.Context, svc *corev1.Service, txn *transaction) error {
	m := objects.Service(svc)
	if !lbpool.Ours(&m) {
		return nil
	}
	holds, err := s.lbHolds(ctx)
	if err != nil {
		return err
	}
	return s.lbHold(txn, holds, lbpool.Use{UID: string(svc.UID)}, nil)
}

// Pending returns the reasons why a Service lacks load balancer addresses; none if it has them or needs none from warren.
func (s *Store) Pending(ctx context.Context, svc *corev1.Service) ([]string, error) {
	m := objects.Service(svc)
	if !lbpool.Ours(&m) || len(m.LBAddresses) >= len(m.ClusterIPs) {
		return nil, nil
	}
	r, err := lbpool.RequestOf(&m)
	if err != nil {
		return []string{err.Error()}, nil
	}
	holds, err := s.lbHolds(ctx)
	if err != nil {
		return nil, err
	}
	pools, err := s.pools(ctx)
	_, why := lbpool.Choose(r, pools, holds.taken)
	return why, err
}

// Allocate assigns load balancer addresses to a Service that lacks some, and writes only if its addresses change. Several
// nodes may call it concurrently.
func (s *Store) Allocate(ctx context.Context, name model.ObjectName) error {
	k, err := objects.KindNamed("Service")
	if err != nil {
		return err
	}
	return retry(fmt.Sprintf("service %s", name), func() error { return s.allocateOnce(ctx, k, name) })
}

func (s *Store) allocateOnce(ctx context.Context, k objects.Kind, name model.ObjectName) error {
	o, rev, err := s.get(ctx, k, name.Namespace, name.Name)
	if err != nil {
		return err
	}
	before := o.(*corev1.Service)
	svc := before.DeepCopy()
	svc.ResourceVersion = ""
	key := s.objectKey(k, name.Namespace, name.Name)
	txn := &transaction{cmps: []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", rev)}}
	if err := s.lbAddresses(ctx, svc, before, txn); err != nil {
		return err
	}
	if slices.Equal(objects.Service(svc).LBAddresses, objects.Service(before).LBAddresses) {
		return nil
	}
	raw, err := model.Encode(objectLayout, svc)
	if err != nil {
		return err
	}
	txn.ops = append(txn.ops, clientv3.OpPut(key, string(raw)))
	return s.commit(ctx, txn)
}
