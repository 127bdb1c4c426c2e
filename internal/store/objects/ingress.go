package objects

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// classAnnotation is the older form of spec.ingressClassName.
const classAnnotation = "kubernetes.io/ingress.class"

// Ingress converts an Ingress.
func Ingress(in *networkingv1.Ingress) *model.Ingress {
	out := &model.Ingress{ObjectName: model.ObjectName{Namespace: in.Namespace, Name: in.Name}, UID: string(in.UID),
		Created: in.CreationTimestamp.Time, Class: deref(in.Spec.IngressClassName), ClassAnnotation: in.Annotations[classAnnotation],
		Annotations: in.Annotations}
	if b := in.Spec.DefaultBackend; b != nil {
		x := ingressBackend(b)
		out.Default = &x
	}
	for _, t := range in.Spec.TLS {
		out.TLS = append(out.TLS, model.IngressTLS{Hosts: t.Hosts, Secret: t.SecretName})
	}
	for _, r := range in.Spec.Rules {
		rule := model.IngressRule{Host: r.Host}
		if r.HTTP != nil {
			for i := range r.HTTP.Paths {
				p := &r.HTTP.Paths[i]
				rule.Paths = append(rule.Paths, model.IngressPath{Path: p.Path, Type: pathType(p.PathType),
					Backend: ingressBackend(&p.Backend)})
			}
		}
		out.Rules = append(out.Rules, rule)
	}
	for _, a := range in.Status.LoadBalancer.Ingress {
		if a.IP != "" {
			out.Addresses = append(out.Addresses, a.IP)
		} else if a.Hostname != "" {
			out.Addresses = append(out.Addresses, a.Hostname)
		}
	}
	return out
}

func pathType(t *networkingv1.PathType) model.PathType {
	switch deref(t) {
	case string(networkingv1.PathTypeExact):
		return model.PathExact
	case string(networkingv1.PathTypePrefix):
		return model.PathPrefix
	}
	return model.PathImplementationSpecific
}

func ingressBackend(b *networkingv1.IngressBackend) model.IngressBackend {
	switch {
	case b.Service != nil:
		return model.IngressBackend{Service: b.Service.Name, PortName: b.Service.Port.Name, Port: uint16(b.Service.Port.Number)}
	case b.Resource != nil:
		return model.IngressBackend{Resource: b.Resource.Kind + " " + b.Resource.Name}
	}
	return model.IngressBackend{}
}

// IngressClass converts an IngressClass.
func IngressClass(c *networkingv1.IngressClass) *model.IngressClass {
	out := &model.IngressClass{Name: c.Name, Controller: c.Spec.Controller, Created: c.CreationTimestamp.Time,
		Default: c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"}
	if p := c.Spec.Parameters; p != nil {
		out.Parameters = p.Kind + " " + p.Name
	}
	return out
}

// TLSSecret converts a Secret of type kubernetes.io/tls; ok is false for any other.
func TLSSecret(s *corev1.Secret) (out *model.TLSSecret, ok bool) {
	if s.Type != corev1.SecretTypeTLS {
		return nil, false
	}
	return &model.TLSSecret{ObjectName: model.ObjectName{Namespace: s.Namespace, Name: s.Name},
		Certificate: s.Data[corev1.TLSCertKey], Key: s.Data[corev1.TLSPrivateKeyKey]}, true
}

// defaultSecret moves stringData to data, as the API server does.
func defaultSecret(s *corev1.Secret) {
	for k, v := range s.StringData {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

// validateSecret accepts Secrets of type kubernetes.io/tls with a certificate and its key.
func validateSecret(in *corev1.Secret) (errs field.ErrorList) {
	if in.Type != corev1.SecretTypeTLS {
		return field.ErrorList{field.NotSupported(field.NewPath("type"), in.Type, []corev1.SecretType{corev1.SecretTypeTLS})}
	}
	s := in.DeepCopy()
	defaultSecret(s)
	data := field.NewPath("data")
	for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		if len(s.Data[key]) == 0 {
			errs = append(errs, field.Required(data.Key(key), "a PEM text is required"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		// The value is left out: it has the key.
		errs = append(errs, field.Invalid(data, "(not shown)", strings.TrimPrefix(err.Error(), "tls: ")))
	}
	return errs
}

func validateIngressClass(c *networkingv1.IngressClass) (errs field.ErrorList) {
	at := field.NewPath("spec", "controller")
	if c.Spec.Controller == "" {
		return field.ErrorList{field.Required(at, "a name such as warren.dev/ingress is required")}
	}
	if len(c.Spec.Controller) > 250 {
		errs = append(errs, field.TooLong(at, "", 250))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	if p := c.Spec.Parameters; p != nil {
		params := field.NewPath("spec", "parameters")
		for _, f := range []struct{ key, value string }{{"kind", p.Kind}, {"name", p.Name}} {
			if f.value == "" {
				errs = append(errs, field.Required(params.Child(f.key), "is required"))
			}
		}
		errs = oneOf(errs, params.Child("scope"), deref(p.Scope), string(networkingv1.IngressClassParametersReferenceScopeCluster),
			string(networkingv1.IngressClassParametersReferenceScopeNamespace))
	}
	return errs
}

func validateIngress(in *networkingv1.Ingress) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	if len(in.Spec.Rules) == 0 && in.Spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(spec, "", "either defaultBackend or rules must be specified"))
	}
	if c := in.Spec.IngressClassName; c != nil {
		errs = invalid(errs, spec.Child("ingressClassName"), *c, validation.IsDNS1123Subdomain(*c))
		if in.Annotations[classAnnotation] != "" {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(classAnnotation),
				in.Annotations[classAnnotation],
				"may not be set together with spec.ingressClassName"))
		}
	}
	if b := in.Spec.DefaultBackend; b != nil {
		errs = append(errs, validateIngressBackend(b, spec.Child("defaultBackend"))...)
	}
	for i, t := range in.Spec.TLS {
		at := spec.Child("tls").Index(i)
		for j, h := range t.Hosts {
			errs = append(errs, validateHost(at.Child("hosts").Index(j), h)...)
		}
		if t.SecretName != "" {
			errs = invalid(errs, at.Child("secretName"), t.SecretName, validation.IsDNS1123Subdomain(t.SecretName))
		}
	}
	for i, r := range in.Spec.Rules {
		at := spec.Child("rules").Index(i)
		if r.Host != "" {
			errs = append(errs, validateHost(at.Child("host"), r.Host)...)
		}
		if r.HTTP == nil {
			continue
		}
		paths := at.Child("http", "paths")
		if len(r.HTTP.Paths) == 0 {
			errs = append(errs, field.Required(paths, "at least one path is required"))
		}
		for j := range r.HTTP.Paths {
			errs = append(errs, validatePath(&r.HTTP.Paths[j], paths.Index(j))...)
		}
	}
	return errs
}

func validateHost(at *field.Path, host string) field.ErrorList {
	if _, err := netip.ParseAddr(host); err == nil {
		return field.ErrorList{field.Invalid(at, host, "must be a DNS name, not an IP address")}
	}
	if strings.Contains(host, "*") {
		return invalid(nil, at, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return invalid(nil, at, host, validation.IsDNS1123Subdomain(host))
}

// Parts that no path may have, and ends that no path may have (the API server's lists).
var (
	invalidInPath = []string{"//", "/./", "/../", "%2f", "%2F"}
	invalidAtEnd  = []string{"/..", "/."}
)

func validatePath(p *networkingv1.HTTPIngressPath, at *field.Path) (errs field.ErrorList) {
	types := []string{string(networkingv1.PathTypeExact), string(networkingv1.PathTypePrefix),
		string(networkingv1.PathTypeImplementationSpecific)}
	switch kind := deref(p.PathType); {
	case kind == "":
		errs = append(errs, field.Required(at.Child("pathType"), "expected one of "+strings.Join(types, ", ")))
	case !slices.Contains(types, kind):
		errs = append(errs, field.NotSupported(at.Child("pathType"), kind, types))
	case kind == string(networkingv1.PathTypeImplementationSpecific):
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
		}
	default:
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
		}
		for _, x := range invalidInPath {
			if strings.Contains(p.Path, x) {
				errs = append(errs, field.Invalid(at.Child("path"), p.Path, fmt.Sprintf("must not contain %q", x)))
			}
		}
		for _, x := range invalidAtEnd {
			if strings.HasSuffix(p.Path, x) {
				errs = append(errs, field.Invalid(at.Child("path"), p.Path, fmt.Sprintf("must not end with %q", x)))
			}
		}
	}
	return append(errs, validateIngressBackend(&p.Backend, at.Child("backend"))...)
}

func validateIngressBackend(b *networkingv1.IngressBackend, at *field.Path) (errs field.ErrorList) {
	switch {
	case b.Service == nil && b.Resource == nil:
		return field.ErrorList{field.Required(at, "expected service or resource")}
	case b.Service != nil && b.Resource != nil:
		return field.ErrorList{field.Invalid(at, "", "expected either service or resource, not both")}
	case b.Resource != nil:
		for _, f := range []struct{ key, value string }{{"kind", b.Resource.Kind}, {"name", b.Resource.Name}} {
			if f.value == "" {
				errs = append(errs, field.Required(at.Child("resource", f.key), "is required"))
			}
		}
		return errs
	}
	s := at.Child("service")
	if b.Service.Name == "" {
		errs = append(errs, field.Required(s.Child("name"), "is required"))
	} else {
		errs = invalid(errs, s.Child("name"), b.Service.Name, validation.IsDNS1035Label(b.Service.Name))
	}
	port := s.Child("port")
	switch p := b.Service.Port; {
	case p.Name == "" && p.Number == 0:
		errs = append(errs, field.Required(port, "expected name or number"))
	case p.Name != "" && p.Number != 0:
		errs = append(errs, field.Invalid(port, p.Name, "expected either name or number, not both"))
	case p.Name != "":
		errs = invalid(errs, port.Child("name"), p.Name, validation.IsValidPortName(p.Name))
	default:
		errs = invalid(errs, port.Child("number"), p.Number, validation.IsValidPortNum(int(p.Number)))
	}
	return errs
}
