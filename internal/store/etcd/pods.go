package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	clientv3 "go.etcd.io/etcd/client/v3"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (s *Store) podKey(n model.ObjectName) string {
	return s.key("objects", "pods", n.Namespace, n.Name)
}

// PutPod publishes a Pod of this node and returns the revision of the write.
func (s *Store) PutPod(ctx context.Context, p model.Pod) (int64, error) {
	raw, err := model.Encode(podLayout, p)
	if err != nil {
		return 0, err
	}
	ctx, cancel := request(ctx)
	defer cancel()
	resp, err := s.cli.Put(ctx, s.podKey(p.ObjectName), string(raw))
	if err != nil {
		return 0, fmt.Errorf("publish pod %s: %w", p, err)
	}
	return resp.Header.Revision, nil
}

// DeletePod withdraws a Pod that this node published; one that another node has published by now stays.
func (s *Store) DeletePod(ctx context.Context, n model.ObjectName, node string) error {
	ctx, cancel := request(ctx)
	defer cancel()
	key := s.podKey(n)
	resp, err := s.cli.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return err
	}
	var p model.Pod
	if err := model.Decode(resp.Kvs[0].Value, podLayout, &p); err == nil && p.Node != node {
		return nil
	}
	_, err = s.cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", resp.Kvs[0].ModRevision)).Then(clientv3.OpDelete(key)).Commit()
	if err != nil {
		return fmt.Errorf("withdraw pod %s: %w", n, err)
	}
	return nil
}

// EnsureServiceCIDR makes the first Service range object, unless there is one of that name.
func (s *Store) EnsureServiceCIDR(ctx context.Context, ranges []netip.Prefix) error {
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "warren"}}
	for _, r := range ranges {
		c.Spec.CIDRs = append(c.Spec.CIDRs, r.String())
	}
	if err := objects.Validate(c); err != nil {
		return err
	}
	objects.Default(c, time.Now())
	raw, err := model.Encode(objectLayout, c)
	if err != nil {
		return err
	}
	ctx, cancel := request(ctx)
	defer cancel()
	key := s.key("objects", "servicecidrs", c.Name)
	_, err = s.cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, string(raw))).Commit()
	if err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	return nil
}
