package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/warrennet/warren/internal/netx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// dnsAnnotation explains in the Service where its endpoints come from.
const dnsAnnotation = "warren.dev/cluster-dns"

// dnsPlan is the desired state of cluster DNS. Every node answers the addresses itself; the Service and its EndpointSlices
// are for other programs that read them.
type dnsPlan struct {
	addresses []netip.Addr    // that nodes answer; empty: none
	create    *corev1.Service // to be created
	serve     *corev1.Service // to have EndpointSlices
	note      string          // for the operator, in the log and as an Event of the Service
}

func planDNS(v view, op operator) dnsPlan {
	s := v.dnsService
	switch {
	case s == nil:
		return planNewDNS(v, op)
	case len(s.Spec.Selector) > 0 && op.dnsGiven:
		return dnsPlan{addresses: op.dnsAddresses, note: fmt.Sprintf("Service kube-system/kube-dns selects Pods and is not changed; "+
			"every node answers %v itself, because dns.addresses in ConfigMap %s sets them", op.dnsAddresses, OperatorConfig)}
	case len(s.Spec.Selector) > 0:
		return dnsPlan{note: fmt.Sprintf("Service kube-system/kube-dns selects Pods, so they serve cluster DNS and warren does not; "+
			"to let every node answer, set dns.addresses to %v in ConfigMap %s", s.Spec.ClusterIPs, OperatorConfig)}
	}
	own := clusterIPs(s)
	p := dnsPlan{addresses: own, serve: s}
	switch {
	case op.dnsGiven:
		p.addresses = op.dnsAddresses
	case len(own) == 0:
		return dnsPlan{note: "Service kube-system/kube-dns has no ClusterIP; set dns.addresses in ConfigMap " + OperatorConfig}
	}
	return p
}

// planNewDNS plans the Service, with the address that the kubelets configure in Pods.
func planNewDNS(v view, op operator) (p dnsPlan) {
	ranges, _ := serviceCIDRs(v, op)
	switch kubelet := readKubelet(v.kubelet).ClusterDNS; {
	case op.dnsGiven:
		p.addresses = op.dnsAddresses
	case len(kubelet) > 0:
		p.addresses = addresses(kubelet)
	default:
		for _, r := range ranges {
			p.addresses = append(p.addresses, netx.Nth(r, kubeadmDNS))
		}
	}
	var inRange []netip.Addr // a Service cannot have others, such as a node-local address
	for _, a := range p.addresses {
		if netx.Contains(ranges, a) {
			inRange = append(inRange, a)
		}
	}
	if len(inRange) > 0 {
		p.create = dnsService(inRange)
	}
	return p
}

// kubeadmDNS is the number of the address that kubeadm and others assign to cluster DNS, counted in the Service range.
const kubeadmDNS = 10

func dnsService(ips []netip.Addr) *corev1.Service {
	policy := corev1.IPFamilyPolicySingleStack
	if len(ips) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: kubeDNS, Namespace: systemNamespace,
			Labels: map[string]string{"k8s-app": kubeDNS, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
				labelManagedBy: ManagedBy},
			Annotations: map[string]string{dnsAnnotation: "every node answers this address itself; warren writes the EndpointSlices"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ips[0].String(), IPFamilyPolicy: &policy,
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53, TargetPort: intstr.FromInt32(53)},
			},
		},
	}
	for _, ip := range ips {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
		family := corev1.IPv4Protocol
		if ip.Is6() {
			family = corev1.IPv6Protocol
		}
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, family)
	}
	return s
}

func clusterIPs(s *corev1.Service) []netip.Addr { return addresses(s.Spec.ClusterIPs) }

// addresses parses a list of addresses. Other values, such as "None", are left out.
func addresses(in []string) (out []netip.Addr) {
	for _, x := range in {
		if a, err := netip.ParseAddr(x); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func (k *controller) applyDNS(ctx context.Context, v view, p dnsPlan) error {
	if p.note != "" && k.logOnce("dns", slog.LevelInfo, "cluster DNS Service is not managed by warren", "reason", p.note) &&
		v.dnsService != nil {
		k.events.Event(v.dnsService, corev1.EventTypeNormal, "ClusterDNS", p.note)
	}
	if p.create != nil {
		_, err := k.Client.CoreV1().Services(systemNamespace).Create(ctx, p.create, metav1.CreateOptions{})
		if err == nil {
			k.Log.Info("created Service kube-system/kube-dns", "addresses", p.create.Spec.ClusterIPs)
		}
		return ignoreExisting(err, "create Service kube-system/kube-dns")
	}
	return k.applySlices(ctx, v, dnsSlices(v, p))
}
