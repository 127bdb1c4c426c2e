package objectstore

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	"go.etcd.io/etcd/api/v3/mvccpb"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// IngressTable is the content of objects/ that routes are compiled from. It is not safe for concurrent use: the watch owns it.
type IngressTable struct {
	table     Table
	ingresses map[string]*model.Ingress
	classes   map[string]*model.IngressClass
	secrets   map[string]*model.TLSSecret
	services  kept[model.Service]
	slices    kept[model.EndpointSlice]
}

// kept are the pointers of the last call of Objects.
type kept[T any] struct {
	from   []T
	list   []*T
	byName map[model.ObjectName]*T
}

// NewIngressTable makes an empty table.
func NewIngressTable() *IngressTable {
	return &IngressTable{table: NewTable(), ingresses: map[string]*model.Ingress{}, classes: map[string]*model.IngressClass{},
		secrets: map[string]*model.TLSSecret{}}
}

// Drop removes the record of a key.
func (t *IngressTable) Drop(key string) {
	delete(t.ingresses, key)
	delete(t.classes, key)
	delete(t.secrets, key)
	t.table.Drop(key)
}

// Put decodes one record.
func (t *IngressTable) Put(key string, kv *mvccpb.KeyValue) error {
	kind, rest, _ := strings.Cut(key, "/")
	switch kind {
	case "ingresses", "ingressclasses", "secrets":
	default:
		return t.table.Put(key, kv)
	}
	k, err := objects.KindNamed(kind)
	if err != nil {
		return err
	}
	o, err := decodeObject(k, kv)
	if err != nil {
		return err
	}
	if err := check(o, rest); err != nil {
		return err
	}
	switch o := o.(type) {
	case *networkingv1.Ingress:
		t.ingresses[key] = objects.Ingress(o)
	case *networkingv1.IngressClass:
		t.classes[key] = objects.IngressClass(o)
	case *corev1.Secret:
		if s, ok := objects.TLSSecret(o); ok {
			t.secrets[key] = s
		}
	}
	return nil
}

// Objects is the current state. Services and slices that have not changed are those of the last call.
func (t *IngressTable) Objects() *model.IngressObjects {
	var s model.Snapshot
	t.table.Fill(&s)
	o := &model.IngressObjects{Ingresses: slices.Collect(maps.Values(t.ingresses)), Classes: slices.Collect(maps.Values(t.classes)),
		Secrets: slices.Collect(maps.Values(t.secrets))}
	o.Services = t.services.set(s.Services, func(x *model.Service) model.ObjectName { return x.ObjectName })
	o.Slices = t.slices.set(s.Slices, func(x *model.EndpointSlice) model.ObjectName { return x.ObjectName })
	return o
}

// set makes pointers to values: the former pointer where the value is equal. Table.Fill returns the same list while nothing changes.
func (k *kept[T]) set(list []T, name func(*T) model.ObjectName) []*T {
	if len(list) > 0 && len(list) == len(k.from) && &list[0] == &k.from[0] {
		return k.list
	}
	out, now := make([]*T, 0, len(list)), make(map[model.ObjectName]*T, len(list))
	for i := range list {
		n := name(&list[i])
		p := k.byName[n]
		if p == nil || !reflect.DeepEqual(*p, list[i]) {
			x := list[i]
			p = &x
		}
		out, now[n] = append(out, p), p
	}
	k.from, k.list, k.byName = list, out, now
	return out
}
