package objectstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/objects"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
)

// allocLayout is the layout version of the records under alloc/: the Service that holds the address or port.
const allocLayout = 1

// holder is the value of an allocation.
type holder struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

func (s *Store) ipKey(ip string) string { return s.cli.Key("alloc", "clusterips", ip) }
func (s *Store) portKey(proto corev1.Protocol, port int32) string {
	return s.cli.Key("alloc", "nodeports", strings.ToLower(string(proto))+"-"+strconv.Itoa(int(port)))
}

// held lists the keys of the addresses and ports that a Service holds.
func (s *Store) held(svc *corev1.Service) (out []string) {
	if objects.WantsClusterIP(svc) {
		for _, ip := range svc.Spec.ClusterIPs {
			if ip != "" {
				out = append(out, s.ipKey(ip))
			}
		}
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, s.portKey(p.Protocol, p.NodePort))
		}
	}
	if p := svc.Spec.HealthCheckNodePort; p != 0 {
		out = append(out, s.portKey(corev1.ProtocolTCP, p))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// allocate completes a Service with addresses and ports and keeps those it has. It adds to txn the claims of new ones, the
// releases of old ones, and comparisons that fail if another Service has claimed one meanwhile.
func (s *Store) allocate(ctx context.Context, svc, before *corev1.Service, txn *transaction) error {
	had := []string{}
	if before != nil {
		had = s.held(before)
		keepAddresses(svc, before)
		keepPorts(svc, before)
	}
	if objects.WantsClusterIP(svc) {
		if err := s.clusterIPs(ctx, svc, had); err != nil {
			return err
		}
	} else if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
	}
	if err := s.nodePorts(ctx, svc, had); err != nil {
		return err
	}
	raw, err := model.Encode(allocLayout, holder{svc.Namespace, svc.Name, string(svc.UID)})
	if err != nil {
		return err
	}
	now := s.held(svc)
	for _, key := range now {
		if slices.Contains(had, key) {
			continue
		}
		txn.cmps = append(txn.cmps, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		txn.ops = append(txn.ops, clientv3.OpPut(key, string(raw)))
	}
	for _, key := range had {
		if !slices.Contains(now, key) {
			txn.ops = append(txn.ops, clientv3.OpDelete(key))
		}
	}
	return nil
}

// holderOf returns the Service that holds a key, "" for none.
func (s *Store) holderOf(ctx context.Context, key string) (string, error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	resp, err := s.cli.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return "", err
	}
	var h holder
	if err := model.Decode(resp.Kvs[0].Value, allocLayout, &h); err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	return h.Namespace + "/" + h.Name, nil
}

// taken lists the keys of all allocations below a prefix, without the prefix.
func (s *Store) taken(ctx context.Context, prefix string) (map[string]bool, error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	resp, err := s.cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		out[strings.TrimPrefix(string(kv.Key), prefix)] = true
	}
	return out, nil
}
