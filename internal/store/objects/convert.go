package objects

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"
)

// Service converts a Service. Invalid addresses are left out: the API server accepts none, and the valid addresses of the
// Service must remain usable.
func Service(s *corev1.Service) model.Service {
	out := model.Service{
		ObjectName: model.ObjectName{Namespace: s.Namespace, Name: s.Name}, UID: string(s.UID), Created: s.CreationTimestamp.Time,
		Selector: s.Spec.Selector, LBClass: deref(s.Spec.LoadBalancerClass), HealthCheckNodePort: uint16(s.Spec.HealthCheckNodePort),
		PublishNotReady: s.Spec.PublishNotReadyAddresses, ExternalName: s.Spec.ExternalName, Labels: s.Labels, Annotations: s.Annotations,
		AllocateNodePorts: s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts,
		ExternalIPs:       addrs(s.Spec.ExternalIPs), ClusterIPs: addrs(s.Spec.ClusterIPs),
	}
	if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP != "" {
		out.ClusterIPs = addrs([]string{s.Spec.ClusterIP})
	}
	out.Headless = s.Spec.ClusterIP == corev1.ClusterIPNone
	out.OtherProxy = otherProxy(s.Labels)
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		out.Type = model.NodePort
	case corev1.ServiceTypeLoadBalancer:
		out.Type = model.LoadBalancer
	case corev1.ServiceTypeExternalName:
		out.Type, out.ClusterIPs, out.Headless = model.ExternalName, nil, false
	}
	if a, err := parseAddr(s.Spec.LoadBalancerIP); err == nil {
		out.LBRequested = a
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			out.LBAddresses = append(out.LBAddresses, addrs([]string{in.IP})...)
		} else {
			out.LBExternal = true
		}
	}
	for _, r := range s.Spec.LoadBalancerSourceRanges {
		if p, err := parsePrefix(r); err == nil {
			out.LBSourceRanges = append(out.LBSourceRanges, p)
		} else {
			out.LBSourceInvalid = append(out.LBSourceInvalid, r)
		}
	}
	if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		out.ExternalPolicy = model.PolicyLocal
	}
	if s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal {
		out.InternalPolicy = model.PolicyLocal
	}
	switch deref(s.Spec.TrafficDistribution) {
	case corev1.ServiceTrafficDistributionPreferClose, "PreferSameZone":
		out.Distribution = model.PreferSameZone
	case "PreferSameNode":
		out.Distribution = model.PreferSameNode
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		out.Affinity = affinity(s.Spec.SessionAffinityConfig)
	}
	for _, p := range s.Spec.Ports {
		out.Ports = append(out.Ports, servicePort(p))
	}
	return out
}

// otherProxy reports whether an object's labels exclude it from warren's balancer: another proxy serves it, or none.
func otherProxy(labels map[string]string) bool {
	_, other := labels["service.kubernetes.io/service-proxy-name"]
	_, headless := labels[corev1.IsHeadlessService]
	return other || headless
}

// defaultAffinity is the API's default of clientIP.timeoutSeconds.
const defaultAffinity = 3 * time.Hour

func affinity(c *corev1.SessionAffinityConfig) time.Duration {
	if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
		return defaultAffinity
	}
	return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
}

func servicePort(p corev1.ServicePort) model.ServicePort {
	out := model.ServicePort{Name: p.Name, Protocol: protocol(p.Protocol), Port: uint16(p.Port), NodePort: uint16(p.NodePort),
		AppProtocol: deref(p.AppProtocol)}
	switch {
	case p.TargetPort.Type == intstr.String && p.TargetPort.StrVal != "":
		out.TargetPortName = p.TargetPort.StrVal
		if n, err := strconv.ParseUint(p.TargetPort.StrVal, 10, 16); err == nil {
			out.TargetPort, out.TargetPortName = uint16(n), ""
		}
	case p.TargetPort.IntVal != 0:
		out.TargetPort = uint16(p.TargetPort.IntVal)
	default:
		out.TargetPort = out.Port
	}
	return out
}

func protocol(p corev1.Protocol) model.Protocol {
	switch p {
	case corev1.ProtocolUDP:
		return model.UDP
	case corev1.ProtocolSCTP:
		return model.SCTP
	}
	return model.TCP
}

// Slice converts an EndpointSlice; ok is false for one of FQDNs or of no Service.
func Slice(s *discoveryv1.EndpointSlice) (out model.EndpointSlice, ok bool) {
	service := s.Labels[discoveryv1.LabelServiceName]
	if service == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
		return out, false
	}
	out = model.EndpointSlice{ObjectName: model.ObjectName{Namespace: s.Namespace, Name: s.Name}, UID: string(s.UID), Service: service,
		Family: sliceFamily(s.AddressType), OtherProxy: otherProxy(s.Labels)}
	for _, p := range s.Ports {
		if p.Port == nil {
			continue // "all ports" has no meaning for a Service
		}
		proto := corev1.ProtocolTCP
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		out.Ports = append(out.Ports, model.EndpointPort{Name: deref(p.Name), Protocol: protocol(proto), Port: uint16(*p.Port)})
	}
	for _, e := range s.Endpoints {
		// Only the first address counts (discovery/v1: the others are reserved).
		if a := addrs(e.Addresses); len(a) > 0 && model.FamilyOf(a[0]) == out.Family {
			out.Endpoints = append(out.Endpoints, endpoint(e, a[0]))
		}
	}
	return out, true
}

func endpoint(e discoveryv1.Endpoint, a netip.Addr) model.Endpoint {
	c := e.Conditions
	out := model.Endpoint{Addr: a, Ready: c.Ready == nil || *c.Ready, Terminating: c.Terminating != nil && *c.Terminating,
		Node: deref(e.NodeName), Zone: deref(e.Zone), Hostname: deref(e.Hostname)}
	out.Serving = out.Ready
	if c.Serving != nil {
		out.Serving = *c.Serving
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			out.ZoneHints = append(out.ZoneHints, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			out.NodeHints = append(out.NodeHints, n.Name)
		}
	}
	if r := e.TargetRef; r != nil && r.Kind == "Pod" {
		out.Pod = model.ObjectName{Namespace: r.Namespace, Name: r.Name}
	}
	return out
}

// Endpoints converts hand-written Endpoints into slices, one per subset and family.
func Endpoints(e *HandEndpoints) (out []model.EndpointSlice) {
	for i, sub := range e.Subsets {
		for _, f := range model.Families {
			s := model.EndpointSlice{ObjectName: model.ObjectName{Namespace: e.Namespace,
				Name: e.Name + "-" + strconv.Itoa(i) + "-" + strings.ToLower(f.String())},
				UID: string(e.UID), Service: e.Name, Family: f}
			for _, p := range sub.Ports {
				s.Ports = append(s.Ports, model.EndpointPort{Name: p.Name, Protocol: protocol(p.Protocol), Port: uint16(p.Port)})
			}
			s.Endpoints = append(subset(sub.Addresses, f, true), subset(sub.NotReadyAddresses, f, false)...)
			if len(s.Endpoints) > 0 {
				out = append(out, s)
			}
		}
	}
	return out
}

func sliceFamily(t discoveryv1.AddressType) model.Family {
	if t == discoveryv1.AddressTypeIPv6 {
		return model.IPv6
	}
	return model.IPv4
}

// subset converts the addresses of one family.
func subset(in []corev1.EndpointAddress, f model.Family, ready bool) (out []model.Endpoint) {
	for _, x := range in {
		a, err := parseAddr(x.IP)
		if err != nil || model.FamilyOf(a) != f {
			continue
		}
		e := model.Endpoint{Addr: a, Ready: ready, Serving: ready, Node: deref(x.NodeName), Hostname: x.Hostname}
		if r := x.TargetRef; r != nil && r.Kind == "Pod" {
			e.Pod = model.ObjectName{Namespace: r.Namespace, Name: r.Name}
		}
		out = append(out, e)
	}
	return out
}

func addrs(in []string) (out []netip.Addr) {
	for _, s := range in {
		if a, err := parseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// parseAddr reads an address as Kubernetes reads it: with white space around it, and with leading zeros in IPv4, as old objects have
// them (k8s.io/utils/net, ParseIPSloppy).
func parseAddr(s string) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(strings.TrimSpace(s)))
	if !ok {
		return a, fmt.Errorf("%q is not an IP address", s)
	}
	return a.Unmap(), nil
}

// parsePrefix reads a CIDR as Kubernetes reads it, without its host bits.
func parsePrefix(s string) (netip.Prefix, error) {
	_, n, err := netutils.ParseCIDRSloppy(strings.TrimSpace(s))
	if err != nil {
		return netip.Prefix{}, err
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a, bits), nil
}

func deref[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}
