package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
)

// lbLayout is the layout version of the records under alloc/lbips/: who holds an address of a pool.
const lbLayout = 1

// lbHold is the value of such a record. Several Services may share an address; the last one to leave removes it.
type lbHold struct {
	Uses []lbpool.Use `json:"uses"`
}

// lbHolds is what was read of them: each address with its holders and the revision that a change of it is based on.
type lbHolds struct {
	taken lbpool.Taken
	rev   map[netip.Addr]int64
}

func (s *Store) lbKey(a netip.Addr) string { return s.key("alloc", "lbips", a.String()) }

func (s *Store) lbHolds(ctx context.Context) (lbHolds, error) {
	ctx, cancel := request(ctx)
	defer cancel()
	prefix := s.key("alloc", "lbips", "")
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

// lbAddresses gives a Service of warren's class its load balancer addresses, as far as the pools have any, and takes them
// from one that needs none any more. Without an address the Service is written all the same: it waits, and Allocate
// tries again. The status of a foreign class is not touched.
func (s *Store) lbAddresses(ctx context.Context, svc, before *corev1.Service, txn *transaction) error {
	now, had := objects.Service(svc), model.Service{}
	if before != nil {
		had = objects.Service(before)
	}
	if !lbpool.Ours(&now) && !lbpool.Ours(&had) {
		if before != nil && now.Type == model.LoadBalancer && len(svc.Status.LoadBalancer.Ingress) == 0 {
			svc.Status = before.Status // a manifest says nothing about it
		}
		return nil
	}
	holds, err := s.lbHolds(ctx)
	if err != nil {
		return err
	}
	if !lbpool.Ours(&now) {
		return s.lbHold(txn, holds, lbpool.Use{UID: string(svc.UID)}, nil) // and the new class begins with its own status
	}
	pools, err := s.pools(ctx)
	if err != nil {
		return err
	}
	now.LBAddresses = holds.of(string(svc.UID)) // what a manifest or a stale status claims counts for nothing
	r, err := lbpool.RequestOf(&now)
	var got []netip.Addr
	if err == nil {
		got, _ = lbpool.Choose(r, pools, holds.taken)
	}
	svc.Status.LoadBalancer = vip(got)
	return s.lbHold(txn, holds, r.Use, got)
}

// of lists what a Service holds, IPv4 first.
func (h lbHolds) of(uid string) (out []netip.Addr) {
	for a, uses := range h.taken {
		if slices.ContainsFunc(uses, func(u lbpool.Use) bool { return u.UID == uid }) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// vip is the status of a Service whose addresses lead to the nodes unchanged (ipMode VIP).
func vip(addrs []netip.Addr) (st corev1.LoadBalancerStatus) {
	mode := corev1.LoadBalancerIPModeVIP
	for _, a := range addrs {
		st.Ingress = append(st.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
	}
	return st
}

// lbHold adds to txn what makes a Service the holder of exactly these addresses. Each record that it changes must still
// be the one that was read.
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

// lbRelease adds to txn what frees the addresses of a Service that goes.
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

// Pending says why a Service lacks load balancer addresses, nothing when it has them or needs none from warren.
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

// Allocate tries once more to give a waiting Service its load balancer addresses, and writes only if that succeeds.
// Several callers may do it at once.
func (s *Store) Allocate(ctx context.Context, name model.ObjectName) error {
	k, err := objects.KindNamed("Service")
	if err != nil {
		return err
	}
	for range maxTries {
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
		if err := s.commit(ctx, txn); err == nil || !isRaced(err) {
			return err
		}
	}
	return fmt.Errorf("service %s: others kept changing the store; try again", name)
}
