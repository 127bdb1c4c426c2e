package objects

import (
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Default sets the fields that the API server sets: uid and creation time of a new object, and the defaults of a Service.
func Default(o Object, now time.Time) {
	if o.GetUID() == "" {
		o.SetUID(newUID())
	}
	if t := o.GetCreationTimestamp(); t.IsZero() {
		o.SetCreationTimestamp(metav1.NewTime(now.UTC().Truncate(time.Second)))
	}
	switch o := o.(type) {
	case *corev1.Service:
		defaultService(o)
	case *corev1.Secret:
		defaultSecret(o)
	case *AddressPool:
		if o.Spec.AutoAssign == nil {
			yes := true
			o.Spec.AutoAssign = &yes
		}
	}
}

func newUID() types.UID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	set(&spec.Type, corev1.ServiceTypeClusterIP)
	set(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP && spec.SessionAffinityConfig == nil {
		t := int32(defaultAffinity / time.Second)
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &t}}
	}
	if spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer || len(spec.ExternalIPs) > 0 {
		set(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeExternalName && spec.InternalTrafficPolicy == nil {
		p := corev1.ServiceInternalTrafficPolicyCluster
		spec.InternalTrafficPolicy = &p
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer && spec.AllocateLoadBalancerNodePorts == nil {
		yes := true
		spec.AllocateLoadBalancerNodePorts = &yes
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		set(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == (intstr.IntOrString{}) || p.TargetPort.Type == intstr.String && p.TargetPort.StrVal == "" {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

func set[T comparable](at *T, v T) {
	var zero T
	if *at == zero {
		*at = v
	}
}

// WantsClusterIP reports whether a Service needs cluster addresses from the Service ranges.
func WantsClusterIP(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP != corev1.ClusterIPNone
}

// WantsNodePorts reports whether a Service's ports get node ports.
func WantsNodePorts(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}

// Families returns the address families of a Service, from its ipFamilyPolicy, its ipFamilies and the families of the
// Service ranges. The error names the field that cannot be satisfied.
func Families(s *corev1.Service, offered []corev1.IPFamily) ([]corev1.IPFamily, error) {
	want := slices.Clone(s.Spec.IPFamilies)
	for _, f := range want {
		if !slices.Contains(offered, f) {
			return nil, fmt.Errorf("spec.ipFamilies: %s is not offered by the Service ranges (%v)", f, offered)
		}
	}
	policy := corev1.IPFamilyPolicySingleStack
	if s.Spec.IPFamilyPolicy != nil {
		policy = *s.Spec.IPFamilyPolicy
	} else if len(want) == 2 || len(s.Spec.ClusterIPs) == 2 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	if policy == corev1.IPFamilyPolicyRequireDualStack && len(offered) < 2 {
		return nil, fmt.Errorf("spec.ipFamilyPolicy: RequireDualStack, but the Service ranges offer only %v", offered)
	}
	for _, f := range offered {
		if !slices.Contains(want, f) && (len(want) == 0 || policy != corev1.IPFamilyPolicySingleStack) {
			want = append(want, f)
		}
	}
	if policy == corev1.IPFamilyPolicySingleStack && len(want) > 1 {
		want = want[:1]
	}
	return want, nil
}
