package objectstore

import (
	"fmt"
	"maps"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// selected makes the slices of Services with a selector: one per family and set of target ports, because Pods may resolve
// a named port differently.
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
		for _, key := range slices.Sorted(maps.Keys(groups)) {
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
			g = &model.EndpointSlice{ObjectName: model.ObjectName{Namespace: svc.Namespace, Name: fmt.Sprintf("%s-pods-%d", svc.Name,
				len(groups))},
				UID: svc.UID, Service: svc.Name, Family: model.FamilyOf(a), Ports: ports}
			groups[key] = g
		}
		e := model.Endpoint{Addr: a, Ready: p.Ready && !p.Terminating, Serving: p.Ready, Terminating: p.Terminating, Node: p.Node,
			Zone: p.Zone, Pod: p.ObjectName}
		hint(&e, svc.Distribution)
		if p.Hostname != "" && p.Subdomain == svc.Name {
			e.Hostname = p.Hostname
		}
		g.Endpoints = append(g.Endpoints, e)
	}
}

// hint sets the hints of trafficDistribution as Kubernetes' EndpointSlice controller does (KEP-4444, KEP-3015): each
// endpoint is for its own zone, and with PreferSameNode for its own node, too. A Pod without a zone has no zone hint, which
// disables zone hints for the Service.
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
