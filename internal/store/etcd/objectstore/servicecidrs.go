package objectstore

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/objects"
	clientv3 "go.etcd.io/etcd/client/v3"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EnsureServiceCIDR creates the ServiceCIDR "warren" with these ranges, unless it exists.
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
	ctx, cancel := client.Request(ctx)
	defer cancel()
	key := s.cli.Key("objects", "servicecidrs", c.Name)
	_, err = s.cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, string(raw))).Commit()
	if err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	return nil
}
