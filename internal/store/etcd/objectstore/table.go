package objectstore

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/records"
	"github.com/warrennet/warren/internal/store/objects"
	"go.etcd.io/etcd/api/v3/mvccpb"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Table is the decoded content of objects/, by key below it. It caches the sorted lists of the last snapshot, so that a
// change of one kind does not sort the others again. It is not safe for concurrent use: the watch owns it.
type Table struct {
	services map[string]model.Service
	slices   map[string][]model.EndpointSlice
	cidrs    map[string][]netip.Prefix
	pools    map[string]model.AddressPool
	pods     map[string]model.Pod

	serviceList []model.Service
	sliceList   []model.EndpointSlice
	podList     []model.Pod
	dirty       map[string]bool // kinds whose list is stale
}

// NewTable makes an empty table.
func NewTable() Table {
	return Table{services: map[string]model.Service{}, slices: map[string][]model.EndpointSlice{},
		cidrs: map[string][]netip.Prefix{}, pools: map[string]model.AddressPool{},
		pods: map[string]model.Pod{}, dirty: map[string]bool{}}
}

// Drop removes the record of a key.
func (t *Table) Drop(key string) {
	kind, _, _ := strings.Cut(key, "/")
	t.dirty[kind] = true
	delete(t.services, key)
	delete(t.slices, key)
	delete(t.cidrs, key)
	delete(t.pools, key)
	delete(t.pods, key)
}

// Put decodes one record. Records of an unknown kind, which a newer version may have written, are ignored.
func (t *Table) Put(key string, kv *mvccpb.KeyValue) error {
	kind, rest, _ := strings.Cut(key, "/")
	switch kind {
	case "pods":
		return t.putPod(key, rest, kv)
	case "ingresses", "ingressclasses", "secrets": // IngressTable has them
		return nil
	}
	k, err := objects.KindNamed(kind)
	if err != nil {
		return nil //nolint:nilerr // a newer warren's kind
	}
	o, err := decodeObject(k, kv)
	if err != nil {
		return err
	}
	if err := check(o, rest); err != nil {
		return err
	}
	switch o := o.(type) {
	case *corev1.Service:
		t.services[key] = objects.Service(o)
	case *discoveryv1.EndpointSlice:
		if s, ok := objects.Slice(o); ok {
			t.slices[key] = []model.EndpointSlice{s}
		}
	case *objects.HandEndpoints:
		t.slices[key] = objects.Endpoints(o)
	case *objects.AddressPool:
		t.pools[key] = objects.Pool(o)
	case *networkingv1.ServiceCIDR:
		for _, c := range o.Spec.CIDRs {
			if p, err := netip.ParsePrefix(c); err == nil {
				t.cidrs[key] = append(t.cidrs[key], p)
			}
		}
	}
	return nil
}

// check validates an object and its key.
func check(o objects.Object, rest string) error {
	if name := strings.Trim(o.GetNamespace()+"/"+o.GetName(), "/"); name != rest {
		return fmt.Errorf("names the object %s", name)
	}
	return objects.Validate(o)
}

func (t *Table) putPod(key, rest string, kv *mvccpb.KeyValue) error {
	p, err := records.DecodePod(kv.Value)
	if err != nil {
		return err
	}
	if p.String() != rest || len(p.Addrs) > 2 {
		return fmt.Errorf("names the Pod %s with %d addresses", p, len(p.Addrs))
	}
	t.pods[key] = p
	return nil
}

// Fill adds the objects to a snapshot. For Services with a selector it makes EndpointSlices from the published Pods, so that
// readers of snapshots need not distinguish where endpoints come from.
func (t *Table) Fill(s *model.Snapshot) {
	podsChanged, servicesChanged := t.dirty["pods"], t.dirty["services"]
	if podsChanged {
		t.podList = slices.SortedFunc(maps.Values(t.pods), func(a, b model.Pod) int { return a.Compare(b.ObjectName) })
	}
	if servicesChanged {
		t.serviceList = slices.SortedFunc(maps.Values(t.services), func(a, b model.Service) int { return a.Compare(b.ObjectName) })
	}
	if podsChanged || servicesChanged || t.dirty["endpointslices"] || t.dirty["endpoints"] {
		t.sliceList = selected(t.serviceList, t.podList)
		for _, list := range t.slices {
			t.sliceList = append(t.sliceList, list...)
		}
		slices.SortFunc(t.sliceList, func(a, b model.EndpointSlice) int { return a.Compare(b.ObjectName) })
	}
	clear(t.dirty)
	s.Services, s.Slices, s.Pods = t.serviceList, t.sliceList, t.podList
	s.Pools = slices.SortedFunc(maps.Values(t.pools), func(a, b model.AddressPool) int { return cmp.Compare(a.Name, b.Name) })
	for _, key := range slices.Sorted(maps.Keys(t.cidrs)) {
		s.ServiceCIDRs = append(s.ServiceCIDRs, t.cidrs[key]...)
	}
}
