package kube

import (
	"net/netip"

	"github.com/warrennet/warren/internal/model"
	corev1 "k8s.io/api/core/v1"
)

// toBeDeleted is the taint that the cluster autoscaler sets before it deletes a node. Load balancers should treat such a
// node as one that is being deleted.
const toBeDeleted = "ToBeDeletedByClusterAutoscaler"

func node(n *corev1.Node) Node {
	out := Node{Known: true, UID: string(n.UID), Zone: n.Labels[corev1.LabelTopologyZone], Deleting: n.DeletionTimestamp != nil}
	for _, t := range n.Spec.Taints {
		out.Deleting = out.Deleting || t.Key == toBeDeleted
	}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(c); err == nil {
			out.PodCIDRs = append(out.PodCIDRs, p.Masked())
		}
	}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			out.Addresses = append(out.Addresses, ip.Unmap())
		}
	}
	return out
}

func pod(p *corev1.Pod) model.Pod {
	out := model.Pod{ObjectName: model.ObjectName{Namespace: p.Namespace, Name: p.Name}, UID: string(p.UID), Node: p.Spec.NodeName,
		HostNetwork: p.Spec.HostNetwork, Terminating: p.DeletionTimestamp != nil, Hostname: p.Spec.Hostname, Subdomain: p.Spec.Subdomain,
		Labels: p.Labels}
	for _, ip := range p.Status.PodIPs {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			break // its sandbox is removed, and another Pod may have the address
		}
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out.Addrs = append(out.Addrs, a.Unmap())
		}
	}
	for _, c := range p.Status.Conditions {
		out.Ready = out.Ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	return out
}
