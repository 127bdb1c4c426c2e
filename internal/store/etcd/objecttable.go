package etcd

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	"go.etcd.io/etcd/api/v3/mvccpb"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// podLayout is the layout version of the Pods that agents publish under objects/pods/.
const podLayout = 1

// objectTable is the decoded content of objects/, by key. The lists of the last snapshot are kept: a change of one kind
// must not sort the others again.
type objectTable struct {
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

func newObjectTable() objectTable {
	return objectTable{services: map[string]model.Service{}, slices: map[string][]model.EndpointSlice{}, cidrs: map[string][]netip.Prefix{}, pools: map[string]model.AddressPool{},
		pods: map[string]model.Pod{}, dirty: map[string]bool{}}
}

func (t *objectTable) drop(key string) {
	kind, _, _ := strings.Cut(key, "/")
	t.dirty[kind] = true
	delete(t.services, key)
	delete(t.slices, key)
	delete(t.cidrs, key)
	delete(t.pools, key)
	delete(t.pods, key)
}

// put takes one record in; a kind that this version does not know is none of its business.
func (t *objectTable) put(key string, kv *mvccpb.KeyValue) error {
	kind, rest, _ := strings.Cut(key, "/")
	if kind == "pods" {
		return t.putPod(key, rest, kv)
	}
	k, err := objects.KindNamed(kind)
	if err != nil {
		return nil //nolint:nilerr // a newer warren's kind
	}
	o, err := decodeObject(k, kv)
	if err != nil {
		return err
	}
	if name := strings.Trim(o.GetNamespace()+"/"+o.GetName(), "/"); name != rest {
		return fmt.Errorf("names the object %s", name)
	}
	if err := objects.Validate(o); err != nil {
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

func (t *objectTable) putPod(key, rest string, kv *mvccpb.KeyValue) error {
	var p model.Pod
	if err := model.Decode(kv.Value, podLayout, &p); err != nil {
		return err
	}
	if p.String() != rest || len(p.Addrs) > 2 {
		return fmt.Errorf("names the Pod %s with %d addresses", p, len(p.Addrs))
	}
	t.pods[key] = p
	return nil
}

// fill puts the objects into a snapshot. Endpoints of Services with a selector are made here from the published Pods,
// as slices, so that nobody behind the store has to know where endpoints come from.
func (t *objectTable) fill(s *model.Snapshot) {
	byName := func(a, b model.ObjectName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}
	podsChanged, servicesChanged := t.dirty["pods"], t.dirty["services"]
	if podsChanged {
		t.podList = sorted(t.pods, func(a, b model.Pod) int { return byName(a.ObjectName, b.ObjectName) })
	}
	if servicesChanged {
		t.serviceList = sorted(t.services, func(a, b model.Service) int { return byName(a.ObjectName, b.ObjectName) })
	}
	if podsChanged || servicesChanged || t.dirty["endpointslices"] || t.dirty["endpoints"] {
		t.sliceList = selected(t.serviceList, t.podList)
		for _, list := range t.slices {
			t.sliceList = append(t.sliceList, list...)
		}
		slices.SortFunc(t.sliceList, func(a, b model.EndpointSlice) int { return byName(a.ObjectName, b.ObjectName) })
	}
	clear(t.dirty)
	s.Services, s.Slices, s.Pods = t.serviceList, t.sliceList, t.podList
	s.Pools = sorted(t.pools, func(a, b model.AddressPool) int { return cmp.Compare(a.Name, b.Name) })
	for _, key := range sortedKeys(t.cidrs) {
		s.ServiceCIDRs = append(s.ServiceCIDRs, t.cidrs[key]...)
	}
}

func sorted[T any](m map[string]T, order func(a, b T) int) []T {
	out := make([]T, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	slices.SortFunc(out, order)
	return out
}

func sortedKeys[T any](m map[string]T) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// selected makes the slices of Services with a selector, one per family and set of target ports: Pods may resolve a
// named port differently.
func selected(services []model.Service, pods []model.Pod) (out []model.EndpointSlice) {
	byNamespace := map[string][]model.Pod{}
	for _, p := range pods {
		byNamespace[p.Namespace] = append(byNamespace[p.Namespace], p)
	}
	for _, svc := range services {
		if len(svc.Selector) == 0 || svc.Type == model.ExternalName {
			continue
		}
		groups := map[string]*model.EndpointSlice{}
		for _, p := range byNamespace[svc.Namespace] {
			if matches(svc.Selector, p.Labels) {
				group(groups, svc, p)
			}
		}
		for _, key := range sortedKeys(groups) {
			out = append(out, *groups[key])
		}
	}
	return out
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func group(groups map[string]*model.EndpointSlice, svc model.Service, p model.Pod) {
	var ports []model.EndpointPort
	for _, sp := range svc.Ports {
		if n, ok := targetPort(sp, p); ok {
			ports = append(ports, model.EndpointPort{Name: sp.Name, Protocol: sp.Protocol, Port: n})
		}
	}
	for _, a := range p.Addrs {
		key := fmt.Sprintf("%v %v", model.FamilyOf(a), ports)
		g := groups[key]
		if g == nil {
			g = &model.EndpointSlice{ObjectName: model.ObjectName{Namespace: svc.Namespace, Name: fmt.Sprintf("%s-pods-%d", svc.Name, len(groups))},
				UID: svc.UID, Service: svc.Name, Family: model.FamilyOf(a), Ports: ports}
			groups[key] = g
		}
		e := model.Endpoint{Addr: a, Ready: p.Ready && !p.Terminating, Serving: p.Ready, Terminating: p.Terminating, Node: p.Node, Zone: p.Zone, Pod: p.ObjectName}
		hint(&e, svc.Distribution)
		if p.Hostname != "" && p.Subdomain == svc.Name {
			e.Hostname = p.Hostname
		}
		g.Endpoints = append(g.Endpoints, e)
	}
}

// hint does what Kubernetes' endpoint slice controller does for trafficDistribution (KEP-4444, KEP-3015): every endpoint
// is for its own zone, or for its own node as well. A Pod without a zone has no hint, which switches hints off.
func hint(e *model.Endpoint, d model.Distribution) {
	if d != model.DistributionAny && e.Zone != "" {
		e.ZoneHints = []string{e.Zone}
	}
	if d == model.PreferSameNode {
		e.NodeHints = []string{e.Node}
	}
}

func targetPort(sp model.ServicePort, p model.Pod) (uint16, bool) {
	if sp.TargetPortName == "" {
		return sp.TargetPort, sp.TargetPort != 0
	}
	for _, n := range p.NamedPorts {
		if n.Name == sp.TargetPortName && n.Protocol == sp.Protocol {
			return n.Port, true
		}
	}
	return 0, false
}
