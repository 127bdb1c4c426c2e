package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxEndpoints of one EndpointSlice; the API server accepts 1,000.
const maxEndpoints = 1000

// dnsSlices are the desired EndpointSlices of the cluster DNS Service: all nodes with a ready agent.
func dnsSlices(v view, p dnsPlan) (out []*discoveryv1.EndpointSlice) {
	if p.serve == nil {
		return nil
	}
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		if !slices.Contains(p.serve.Spec.IPFamilies, corev1.IPFamily(family)) {
			continue
		}
		endpoints := dnsEndpoints(v, family)
		for i := 0; i == 0 || i*maxEndpoints < len(endpoints); i++ {
			part := endpoints[i*maxEndpoints : min(len(endpoints), (i+1)*maxEndpoints)]
			out = append(out, dnsSlice(p.serve, family, i, part))
		}
	}
	return out
}

func dnsSlice(s *corev1.Service, family discoveryv1.AddressType, i int, endpoints []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	name := "kube-dns-warren-" + strings.ToLower(string(family))
	if i > 0 {
		name += fmt.Sprintf("-%d", i)
	}
	e := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.Namespace,
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Name, discoveryv1.LabelManagedBy: ManagedBy,
				"k8s-app": kubeDNS},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: s.Name, UID: s.UID}}},
		AddressType: family, Endpoints: endpoints,
	}
	for _, p := range s.Spec.Ports {
		if p.Port == 53 {
			e.Ports = append(e.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &p.Port})
		}
	}
	return e
}

func dnsEndpoints(v view, family discoveryv1.AddressType) (out []discoveryv1.Endpoint) {
	yes := true
	for _, n := range v.nodes {
		pod := readyAgent(v, n.Name)
		ip := internalIP(n, family)
		if pod == nil || !ip.IsValid() {
			continue
		}
		e := discoveryv1.Endpoint{Addresses: []string{ip.String()}, NodeName: &n.Name,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}}
		if z := n.Labels[corev1.LabelTopologyZone]; z != "" {
			e.Zone = &z
		}
		out = append(out, e)
	}
	return out
}

func internalIP(n *corev1.Node, family discoveryv1.AddressType) netip.Addr {
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err == nil && a.Type == corev1.NodeInternalIP && ip.Is4() == (family == discoveryv1.AddressTypeIPv4) {
			return ip
		}
	}
	return netip.Addr{}
}

// readyAgent is the Pod of a node's agent, nil while it is not ready.
func readyAgent(v view, node string) *corev1.Pod {
	for _, p := range v.agents {
		if p.Spec.NodeName != node || p.DeletionTimestamp != nil {
			continue
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return p
			}
		}
	}
	return nil
}

// applySlices creates and updates the desired slices, and then deletes the controller's other slices.
func (k *controller) applySlices(ctx context.Context, v view, want []*discoveryv1.EndpointSlice) error {
	api := k.Client.DiscoveryV1().EndpointSlices(systemNamespace)
	var errs []error
	keep := map[string]bool{}
	for _, w := range want {
		keep[w.Name] = true
		i := slices.IndexFunc(v.dnsSlices, func(s *discoveryv1.EndpointSlice) bool { return s.Name == w.Name })
		if i < 0 {
			_, err := api.Create(ctx, w, metav1.CreateOptions{})
			errs = append(errs, ignoreExisting(err, "create EndpointSlice "+w.Name))
			continue
		}
		have := v.dnsSlices[i]
		if equality.Semantic.DeepEqual(have.Endpoints, w.Endpoints) && equality.Semantic.DeepEqual(have.Ports, w.Ports) {
			continue
		}
		next := have.DeepCopy()
		next.Endpoints, next.Ports = w.Endpoints, w.Ports
		if _, err := api.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			errs = append(errs, fmt.Errorf("update EndpointSlice %s: %w", w.Name, err))
		}
	}
	for _, s := range v.dnsSlices {
		if s.Labels[discoveryv1.LabelManagedBy] != ManagedBy || keep[s.Name] {
			continue
		}
		if err := api.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete EndpointSlice %s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}
