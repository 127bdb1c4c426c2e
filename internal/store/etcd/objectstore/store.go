// Package objectstore is the object store of clusters without Kubernetes: Services, EndpointSlices, Endpoints, ServiceCIDRs,
// AddressPools, Ingresses, IngressClasses and TLS Secrets below objects/, and the addresses and ports allocated to Services below alloc/.
//
// An object is written in one transaction with its allocations. The package owns no goroutine. It does not serve the
// Kubernetes API, and never writes cluster records (package records).
package objectstore

import (
	"context"
	"errors"
	"fmt"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// objectLayout is the layout version of the records under objects/.
const objectLayout = 1

// ErrNotFound reports that an object does not exist.
var ErrNotFound = errors.New("not found")

// Store reads and writes the objects. Its methods may be called from several goroutines.
type Store struct{ cli *client.Client }

// New makes a Store of a connection, which the caller closes.
func New(cli *client.Client) *Store { return &Store{cli} }

func (s *Store) objectKey(k objects.Kind, namespace, name string) string {
	if k.Namespaced {
		return s.cli.Key("objects", k.Plural, namespace, name)
	}
	return s.cli.Key("objects", k.Plural, name)
}

// Get returns one object, or ErrNotFound.
func (s *Store) Get(ctx context.Context, k objects.Kind, namespace, name string) (objects.Object, error) {
	o, _, err := s.get(ctx, k, namespace, name)
	return o, err
}

func (s *Store) get(ctx context.Context, k objects.Kind, namespace, name string) (objects.Object, int64, error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	key := s.objectKey(k, namespace, name)
	resp, err := s.cli.Get(ctx, key)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, 0, fmt.Errorf("%s %q: %w", k.Plural, strings.Trim(namespace+"/"+name, "/"), ErrNotFound)
	}
	o, err := decodeObject(k, resp.Kvs[0])
	return o, resp.Kvs[0].ModRevision, err
}

func decodeObject(k objects.Kind, kv *mvccpb.KeyValue) (objects.Object, error) {
	o := k.New()
	if err := model.Decode(kv.Value, objectLayout, o); err != nil {
		return nil, fmt.Errorf("read %s: %w", kv.Key, err)
	}
	o.SetResourceVersion(fmt.Sprint(kv.ModRevision))
	return o, nil
}

// List returns the objects of a kind in a namespace, or in all for "".
func (s *Store) List(ctx context.Context, k objects.Kind, namespace string) ([]objects.Object, error) {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	prefix := s.cli.Key("objects", k.Plural, "")
	if k.Namespaced && namespace != "" {
		prefix += namespace + "/"
	}
	resp, err := s.cli.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", k.Plural, err)
	}
	var out []objects.Object
	for _, kv := range resp.Kvs {
		o, err := decodeObject(k, kv)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// Applied is the result of Apply.
type Applied string

// The results of Apply.
const (
	Created    Applied = "created"
	Configured Applied = "configured"
	Unchanged  Applied = "unchanged"
)

// Apply validates an object and creates or replaces the stored one. A Service's addresses and node ports are allocated in
// the same transaction: either everything is written or nothing.
func (s *Store) Apply(ctx context.Context, o objects.Object) (Applied, error) {
	k, err := objects.KindOf(o)
	if err != nil {
		return "", err
	}
	if err := objects.Validate(o); err != nil {
		return "", fmt.Errorf("%s %q is invalid: %w", k.Name, o.GetName(), err)
	}
	var done Applied
	err = retry(fmt.Sprintf("%s %q", k.Name, o.GetName()), func() (err error) {
		done, err = s.applyOnce(ctx, k, o)
		return err
	})
	return done, err
}

func (s *Store) applyOnce(ctx context.Context, k objects.Kind, want objects.Object) (Applied, error) {
	old, rev, err := s.get(ctx, k, want.GetNamespace(), want.GetName())
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", err
	}
	o, err := clone(k, want)
	if err != nil {
		return "", err
	}
	if old != nil {
		o.SetUID(old.GetUID())
		o.SetCreationTimestamp(old.GetCreationTimestamp())
	}
	objects.Default(o, time.Now())
	key := s.objectKey(k, o.GetNamespace(), o.GetName())
	txn := &transaction{cmps: []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", rev)}}
	switch o := o.(type) {
	case *corev1.Service:
		before, _ := old.(*corev1.Service)
		if err := errors.Join(s.allocate(ctx, o, before, txn), s.lbAddresses(ctx, o, before, txn)); err != nil {
			return "", err
		}
	case *objects.AddressPool:
		if err := s.checkPool(ctx, o, txn); err != nil {
			return "", err
		}
	case *networkingv1.ServiceCIDR:
		if err := s.clashes(ctx, o.Spec.CIDRs); err != nil {
			return "", fmt.Errorf("ServiceCIDR %q: %w", o.Name, err)
		}
	}
	o.SetResourceVersion("")
	raw, err := model.Encode(objectLayout, o)
	if err != nil {
		return "", err
	}
	if old != nil {
		old.SetResourceVersion("")
		if was, err := model.Encode(objectLayout, old); err == nil && string(was) == string(raw) {
			return Unchanged, nil
		}
	}
	txn.ops = append(txn.ops, clientv3.OpPut(key, string(raw)))
	if err := s.commit(ctx, txn); err != nil {
		return "", fmt.Errorf("write %s: %w", key, err)
	}
	if old == nil {
		return Created, nil
	}
	return Configured, nil
}

// clone copies an object, so that a retry starts from the user's manifest.
func clone(k objects.Kind, o objects.Object) (objects.Object, error) {
	raw, err := objects.Encode(o)
	if err != nil {
		return nil, err
	}
	return objects.Decode(k.APIVersion, k.Name, raw)
}

// Delete removes an object and frees what was allocated for it.
func (s *Store) Delete(ctx context.Context, k objects.Kind, namespace, name string) error {
	return retry(fmt.Sprintf("%s %q", k.Plural, name), func() error { return s.deleteOnce(ctx, k, namespace, name) })
}

func (s *Store) deleteOnce(ctx context.Context, k objects.Kind, namespace, name string) error {
	o, rev, err := s.get(ctx, k, namespace, name)
	if err != nil {
		return err
	}
	key := s.objectKey(k, namespace, name)
	txn := &transaction{cmps: []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", rev)},
		ops: []clientv3.Op{clientv3.OpDelete(key)}}
	if svc, ok := o.(*corev1.Service); ok {
		for _, a := range s.held(svc) {
			txn.ops = append(txn.ops, clientv3.OpDelete(a))
		}
		if err := s.lbRelease(ctx, svc, txn); err != nil {
			return err
		}
	}
	return s.commit(ctx, txn)
}
