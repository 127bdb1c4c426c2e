package objects

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate checks an object as the Kubernetes API server would, and reports every problem with its field.
func Validate(o Object) error {
	errs := validateMeta(o)
	switch o := o.(type) {
	case *corev1.Service:
		errs = append(errs, validateService(o)...)
	case *discoveryv1.EndpointSlice:
		errs = append(errs, validateSlice(o)...)
	case *HandEndpoints:
		errs = append(errs, validateEndpoints(o)...)
	case *networkingv1.ServiceCIDR:
		errs = append(errs, validateServiceCIDR(o)...)
	case *AddressPool:
		errs = append(errs, validatePool(o)...)
	case *networkingv1.Ingress:
		errs = append(errs, validateIngress(o)...)
	case *networkingv1.IngressClass:
		errs = append(errs, validateIngressClass(o)...)
	case *corev1.Secret:
		errs = append(errs, validateSecret(o)...)
	}
	return errs.ToAggregate()
}

func validateMeta(o Object) (errs field.ErrorList) {
	meta := field.NewPath("metadata")
	k, err := KindOf(o)
	if err != nil {
		return append(errs, field.InternalError(meta, err))
	}
	name := meta.Child("name")
	check := validation.IsDNS1123Subdomain
	if k.Name == "Service" {
		check = validation.IsDNS1035Label
	}
	if o.GetName() == "" {
		errs = append(errs, field.Required(name, "name is required"))
	} else {
		errs = invalid(errs, name, o.GetName(), check(o.GetName()))
	}
	if k.Namespaced {
		errs = invalid(errs, meta.Child("namespace"), o.GetNamespace(), validation.IsDNS1123Label(o.GetNamespace()))
	} else if o.GetNamespace() != "" {
		errs = append(errs, field.Forbidden(meta.Child("namespace"), "a "+k.Name+" has no namespace"))
	}
	return append(errs, validateLabels(o.GetLabels())...)
}

// ValidateLabels checks labels as the API server does those of any object.
func ValidateLabels(labels map[string]string) error { return validateLabels(labels).ToAggregate() }

func validateLabels(labels map[string]string) (errs field.ErrorList) {
	at := field.NewPath("metadata", "labels")
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		errs = invalid(errs, at, key, validation.IsQualifiedName(key))
		errs = invalid(errs, at.Key(key), labels[key], validation.IsValidLabelValue(labels[key]))
	}
	return errs
}

func invalid(errs field.ErrorList, at *field.Path, value any, why []string) field.ErrorList {
	for _, w := range why {
		errs = append(errs, field.Invalid(at, value, w))
	}
	return errs
}

func validateService(s *corev1.Service) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	types := []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer,
		corev1.ServiceTypeExternalName}
	errs = oneOf(errs, spec.Child("type"), s.Spec.Type, types...)
	headless := s.Spec.ClusterIP == corev1.ClusterIPNone
	external := s.Spec.Type == corev1.ServiceTypeExternalName
	switch {
	case external:
		errs = append(errs, validateExternalName(s, spec)...)
	case len(s.Spec.Ports) == 0 && !headless:
		errs = append(errs, field.Required(spec.Child("ports"), "at least one port is required"))
	}
	if headless && (s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer) {
		errs = append(errs, field.Invalid(spec.Child("clusterIP"), s.Spec.ClusterIP,
			"may not be None for a Service of type "+string(s.Spec.Type)))
	}
	errs = append(errs, validatePorts(s, spec.Child("ports"))...)
	errs = append(errs, validateAddresses(s, spec)...)
	errs = append(errs, validatePolicies(s, spec)...)
	for k, v := range s.Spec.Selector {
		errs = invalid(errs, spec.Child("selector"), k, validation.IsQualifiedName(k))
		errs = invalid(errs, spec.Child("selector").Key(k), v, validation.IsValidLabelValue(v))
	}
	return errs
}

func validateExternalName(s *corev1.Service, spec *field.Path) (errs field.ErrorList) {
	name := strings.TrimSuffix(s.Spec.ExternalName, ".")
	if name == "" {
		errs = append(errs, field.Required(spec.Child("externalName"), "is required for type ExternalName"))
	} else {
		errs = invalid(errs, spec.Child("externalName"), s.Spec.ExternalName, validation.IsDNS1123Subdomain(name))
	}
	if s.Spec.ClusterIP != "" {
		errs = append(errs, field.Forbidden(spec.Child("clusterIP"), "may not be set for type ExternalName"))
	}
	return errs
}

func oneOf[T ~string](errs field.ErrorList, at *field.Path, v T, valid ...T) field.ErrorList {
	if v == "" {
		return errs
	}
	var names []string
	for _, x := range valid {
		if v == x {
			return errs
		}
		names = append(names, string(x))
	}
	return append(errs, field.NotSupported(at, string(v), names))
}

func validatePorts(s *corev1.Service, path *field.Path) (errs field.ErrorList) {
	type key struct {
		proto corev1.Protocol
		port  int32
	}
	ports, nodePorts, names := map[key]bool{}, map[key]bool{}, map[string]bool{}
	for i, p := range s.Spec.Ports {
		at := path.Index(i)
		proto := p.Protocol
		if proto == "" {
			proto = corev1.ProtocolTCP
		}
		errs = oneOf(errs, at.Child("protocol"), proto, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		errs = invalid(errs, at.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))
		switch {
		case p.Name == "" && len(s.Spec.Ports) > 1:
			errs = append(errs, field.Required(at.Child("name"), "every port needs a name when there are several"))
		case p.Name != "":
			errs = invalid(errs, at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))
			if names[p.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		errs = append(errs, validateTarget(p.TargetPort, at.Child("targetPort"))...)
		k := key{proto, p.Port}
		if ports[k] {
			errs = append(errs, field.Duplicate(at, fmt.Sprintf("%s %d", proto, p.Port)))
		}
		ports[k] = true
		if p.NodePort == 0 {
			continue
		}
		if s.Spec.Type != corev1.ServiceTypeNodePort && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Forbidden(at.Child("nodePort"), "may not be used when type is ClusterIP"))
		}
		errs = invalid(errs, at.Child("nodePort"), p.NodePort, validation.IsValidPortNum(int(p.NodePort)))
		if k := (key{proto, p.NodePort}); nodePorts[k] {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
		} else {
			nodePorts[k] = true
		}
	}
	return errs
}

func validateTarget(p intstr.IntOrString, at *field.Path) field.ErrorList {
	switch {
	case p.Type == intstr.Int && p.IntVal == 0, p.Type == intstr.String && p.StrVal == "":
		return nil
	case p.Type == intstr.Int:
		return invalid(nil, at, p.IntVal, validation.IsValidPortNum(int(p.IntVal)))
	}
	return invalid(nil, at, p.StrVal, validation.IsValidPortName(p.StrVal))
}

func validateAddresses(s *corev1.Service, spec *field.Path) (errs field.ErrorList) {
	families := map[bool]bool{}
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 && s.Spec.ClusterIP != "" {
		ips = []string{s.Spec.ClusterIP}
	}
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] != s.Spec.ClusterIP {
		errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(0), s.Spec.ClusterIPs[0], "must be the same as clusterIP"))
	}
	for i, ip := range ips {
		at := spec.Child("clusterIPs").Index(i)
		if ip == corev1.ClusterIPNone && len(ips) == 1 {
			continue
		}
		a, err := netip.ParseAddr(ip)
		if err != nil {
			errs = append(errs, field.Invalid(at, ip, "must be an IP address"))
			continue
		}
		if families[a.Is6()] {
			errs = append(errs, field.Invalid(at, ip, "at most one address per family"))
		}
		families[a.Is6()] = true
	}
	for i, ip := range s.Spec.ExternalIPs {
		a, err := netip.ParseAddr(ip)
		if err != nil || !a.IsGlobalUnicast() {
			errs = append(errs, field.Invalid(spec.Child("externalIPs").Index(i), ip,
				"must be a unicast IP address, not loopback or link-local"))
		}
	}
	if ip := s.Spec.LoadBalancerIP; ip != "" {
		if a, err := netip.ParseAddr(ip); err != nil || !a.IsGlobalUnicast() {
			errs = append(errs, field.Invalid(spec.Child("loadBalancerIP"), ip, "must be a unicast IP address"))
		}
	}
	for i, r := range s.Spec.LoadBalancerSourceRanges {
		if _, err := netip.ParsePrefix(strings.TrimSpace(r)); err != nil {
			errs = append(errs, field.Invalid(spec.Child("loadBalancerSourceRanges").Index(i), r, "must be a CIDR such as 192.0.2.0/24"))
		}
	}
	if len(s.Spec.LoadBalancerSourceRanges) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(spec.Child("loadBalancerSourceRanges"), "may only be used when type is LoadBalancer"))
	}
	for i, f := range s.Spec.IPFamilies {
		errs = oneOf(errs, spec.Child("ipFamilies").Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)
	}
	if p := s.Spec.IPFamilyPolicy; p != nil {
		errs = oneOf(errs, spec.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack,
			corev1.IPFamilyPolicyRequireDualStack)
	}
	return errs
}

func validatePolicies(s *corev1.Service, spec *field.Path) (errs field.ErrorList) {
	reaches := s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
	errs = oneOf(errs, spec.Child("externalTrafficPolicy"), s.Spec.ExternalTrafficPolicy,
		corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	if s.Spec.ExternalTrafficPolicy != "" && !reaches && len(s.Spec.ExternalIPs) == 0 {
		errs = append(errs, field.Invalid(spec.Child("externalTrafficPolicy"), s.Spec.ExternalTrafficPolicy,
			"may only be set for externally-accessible services"))
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil {
		errs = oneOf(errs, spec.Child("internalTrafficPolicy"), *p, corev1.ServiceInternalTrafficPolicyCluster,
			corev1.ServiceInternalTrafficPolicyLocal)
	}
	errs = oneOf(errs, spec.Child("sessionAffinity"), s.Spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		at := spec.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds")
		if v := *c.ClientIP.TimeoutSeconds; v <= 0 || v > 86400 {
			errs = append(errs, field.Invalid(at, v, "must be greater than 0 and at most 86400"))
		}
		if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
			errs = append(errs, field.Forbidden(spec.Child("sessionAffinityConfig"), "must not be set when sessionAffinity is None"))
		}
	}
	if d := deref(s.Spec.TrafficDistribution); d != "" {
		errs = oneOf(errs, spec.Child("trafficDistribution"), d, "PreferClose", "PreferSameZone", "PreferSameNode")
	}
	if p := s.Spec.HealthCheckNodePort; p != 0 && (s.Spec.Type != corev1.ServiceTypeLoadBalancer ||
		s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal) {
		errs = append(errs, field.Invalid(spec.Child("healthCheckNodePort"), p,
			"may only be used when type is LoadBalancer and externalTrafficPolicy is Local"))
	}
	if c := s.Spec.LoadBalancerClass; c != nil {
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Forbidden(spec.Child("loadBalancerClass"), "may only be used when type is LoadBalancer"))
		}
		errs = invalid(errs, spec.Child("loadBalancerClass"), *c, validation.IsQualifiedName(*c))
	}
	if s.Spec.AllocateLoadBalancerNodePorts != nil && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(spec.Child("allocateLoadBalancerNodePorts"), "may only be used when type is LoadBalancer"))
	}
	return errs
}

func validateSlice(s *discoveryv1.EndpointSlice) (errs field.ErrorList) {
	if s.AddressType == "" {
		errs = append(errs, field.Required(field.NewPath("addressType"), "IPv4, IPv6 or FQDN"))
	}
	errs = oneOf(errs, field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6,
		discoveryv1.AddressTypeFQDN)
	if len(s.Endpoints) > 1000 {
		errs = append(errs, field.TooMany(field.NewPath("endpoints"), len(s.Endpoints), 1000))
	}
	for i, e := range s.Endpoints {
		at := field.NewPath("endpoints").Index(i)
		if len(e.Addresses) == 0 {
			errs = append(errs, field.Required(at.Child("addresses"), "at least one address is required"))
		}
		for j, a := range e.Addresses {
			errs = append(errs, endpointAddr(at.Child("addresses").Index(j), a, s.AddressType)...)
		}
		if h := deref(e.Hostname); h != "" {
			errs = invalid(errs, at.Child("hostname"), h, validation.IsDNS1123Label(h))
		}
	}
	names := map[string]bool{}
	for i, p := range s.Ports {
		at := field.NewPath("ports").Index(i)
		if names[deref(p.Name)] {
			errs = append(errs, field.Duplicate(at.Child("name"), deref(p.Name)))
		}
		names[deref(p.Name)] = true
		if p.Protocol != nil {
			errs = oneOf(errs, at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
		if p.Port != nil {
			errs = invalid(errs, at.Child("port"), *p.Port, validation.IsValidPortNum(int(*p.Port)))
		}
	}
	return errs
}

// endpointAddr refuses what no backend can have (the API server's rule for endpoint addresses).
func endpointAddr(at *field.Path, s string, t discoveryv1.AddressType) field.ErrorList {
	if t == discoveryv1.AddressTypeFQDN {
		return invalid(nil, at, s, validation.IsDNS1123Subdomain(s))
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil, t == discoveryv1.AddressTypeIPv4 && !a.Is4(), t == discoveryv1.AddressTypeIPv6 && !a.Is6():
		return field.ErrorList{field.Invalid(at, s, "must be an address of the slice's addressType")}
	case a.IsUnspecified(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsMulticast():
		return field.ErrorList{field.Invalid(at, s, "may not be unspecified, loopback, link-local or multicast")}
	}
	return nil
}

func validateEndpoints(e *HandEndpoints) (errs field.ErrorList) {
	for i, sub := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(sub.Addresses)+len(sub.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify addresses or notReadyAddresses"))
		}
		for _, list := range []struct {
			name  string
			addrs []corev1.EndpointAddress
		}{{"addresses", sub.Addresses}, {"notReadyAddresses", sub.NotReadyAddresses}} {
			for j, a := range list.addrs {
				t := discoveryv1.AddressTypeIPv4
				if strings.Contains(a.IP, ":") {
					t = discoveryv1.AddressTypeIPv6
				}
				errs = append(errs, endpointAddr(at.Child(list.name).Index(j).Child("ip"), a.IP, t)...)
			}
		}
		for j, p := range sub.Ports {
			pat := at.Child("ports").Index(j)
			if p.Name == "" && len(sub.Ports) > 1 {
				errs = append(errs, field.Required(pat.Child("name"), "every port needs a name when there are several"))
			}
			errs = invalid(errs, pat.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))
		}
	}
	return errs
}

func validateServiceCIDR(c *networkingv1.ServiceCIDR) (errs field.ErrorList) {
	at := field.NewPath("spec", "cidrs")
	if n := len(c.Spec.CIDRs); n == 0 || n > 2 {
		errs = append(errs, field.Invalid(at, c.Spec.CIDRs, "expected one CIDR, or one per family"))
	}
	seen := map[bool]bool{}
	for i, s := range c.Spec.CIDRs {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || p != p.Masked():
			errs = append(errs, field.Invalid(at.Index(i), s, "must be a CIDR without host bits, such as 10.43.0.0/16"))
		case seen[p.Addr().Is6()]:
			errs = append(errs, field.Invalid(at.Index(i), s, "at most one CIDR per family"))
		default:
			seen[p.Addr().Is6()] = true
		}
	}
	return errs
}
