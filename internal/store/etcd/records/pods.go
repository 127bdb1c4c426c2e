package records

import (
	"context"
	"fmt"
	"github.com/warrennet/warren/internal/store/etcd/client"

	"github.com/warrennet/warren/internal/model"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// podLayout is the layout version of the Pods that agents publish under objects/pods/.
const podLayout = 1

// DecodePod reads the record of a published Pod.
func DecodePod(raw []byte) (p model.Pod, err error) { return p, model.Decode(raw, podLayout, &p) }

func (s *Store) podKey(n model.ObjectName) string {
	return s.cli.Key("objects", "pods", n.Namespace, n.Name)
}

// PutPod publishes a Pod of this node and returns the revision of the write.
func (s *Store) PutPod(ctx context.Context, p model.Pod) (int64, error) {
	raw, err := model.Encode(podLayout, p)
	if err != nil {
		return 0, err
	}
	ctx, cancel := client.Request(ctx)
	defer cancel()
	resp, err := s.cli.Put(ctx, s.podKey(p.ObjectName), string(raw))
	if err != nil {
		return 0, fmt.Errorf("publish pod %s: %w", p, err)
	}
	return resp.Header.Revision, nil
}

// DeletePod removes a Pod that this node published. A Pod that another node has published since stays.
func (s *Store) DeletePod(ctx context.Context, n model.ObjectName, node string) error {
	ctx, cancel := client.Request(ctx)
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
	_, err = s.cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", resp.Kvs[0].ModRevision)).Then(
		clientv3.OpDelete(key)).Commit()
	if err != nil {
		return fmt.Errorf("withdraw pod %s: %w", n, err)
	}
	return nil
}
