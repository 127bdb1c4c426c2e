package model

import "time"

// PathType is networking.k8s.io/v1 PathType.
type PathType uint8

// The path types of Ingress rules.
const (
	PathPrefix PathType = iota // by path element
	PathExact
	PathImplementationSpecific
)

func (t PathType) String() string {
	switch t {
	case PathExact:
		return "Exact"
	case PathImplementationSpecific:
		return "ImplementationSpecific"
	}
	return "Prefix"
}

// Ingress is networking.k8s.io/v1 Ingress. It is immutable: a change makes a new one, so that equal pointers are equal content.
type Ingress struct {
	ObjectName
	UID     string
	Created time.Time
	// Class is spec.ingressClassName, "" without one; ClassAnnotation is the older annotation kubernetes.io/ingress.class.
	Class, ClassAnnotation string
	Annotations            map[string]string
	Default                *IngressBackend // spec.defaultBackend
	TLS                    []IngressTLS
	Rules                  []IngressRule
	Addresses              []string // status: IP addresses and host names
}

// IngressRule is one host of an Ingress; without paths the default backend serves it.
type IngressRule struct {
	Host  string // "": all hosts; "*.example.com": one label
	Paths []IngressPath
}

// IngressPath is one path of a rule.
type IngressPath struct {
	Path    string
	Type    PathType
	Backend IngressBackend
}

// IngressBackend is a port of a Service, or a resource of another kind.
type IngressBackend struct {
	Service  string
	PortName string // or Port
	Port     uint16
	Resource string // "kind name" of a resource backend
}

// IngressTLS names a Secret for hosts.
type IngressTLS struct {
	Hosts  []string
	Secret string // "": the default certificate
}

// IngressClass is networking.k8s.io/v1 IngressClass.
type IngressClass struct {
	Name       string
	Controller string
	Default    bool // annotation ingressclass.kubernetes.io/is-default-class
	Created    time.Time
	Parameters string // "kind name", "" without parameters
}

// TLSSecret is a Secret of type kubernetes.io/tls. It is immutable like Ingress.
type TLSSecret struct {
	ObjectName
	Certificate, Key []byte // PEM
}

// IngressObjects are all objects that routes are compiled from. The pointers of unchanged objects are the same as in the former
// state.
type IngressObjects struct {
	Revision  int64
	Ingresses []*Ingress
	Classes   []*IngressClass
	Secrets   []*TLSSecret
	Services  []*Service
	Slices    []*EndpointSlice
	// Problems are stored records that are invalid, each with its key and the reason.
	Problems []string
}
