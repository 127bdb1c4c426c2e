package model

import (
	"cmp"
	"net/netip"
	"strings"
	"time"
)

// Protocol is an IANA IP protocol number of a Service port.
type Protocol uint8

// The protocols of Service ports (core/v1 Protocol).
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "unknown"
}

// ServiceType is core/v1 ServiceType; a headless Service is a ClusterIP one without addresses.
type ServiceType uint8

// The types of Services.
const (
	ClusterIP ServiceType = iota
	NodePort
	LoadBalancer
	ExternalName
)

// TrafficPolicy is core/v1's internal or external traffic policy.
type TrafficPolicy uint8

// The traffic policies.
const (
	PolicyCluster TrafficPolicy = iota
	PolicyLocal
)

// Distribution is core/v1 Service.spec.trafficDistribution.
type Distribution uint8

// The traffic distributions; PreferClose is the older name of PreferSameZone.
const (
	DistributionAny Distribution = iota
	PreferSameZone
	PreferSameNode
)

// ObjectName names an object of a namespace.
type ObjectName struct{ Namespace, Name string }

func (n ObjectName) String() string { return n.Namespace + "/" + n.Name }

// Compare orders by namespace, then by name; the result is that of cmp.Compare.
func (n ObjectName) Compare(o ObjectName) int {
	return cmp.Or(strings.Compare(n.Namespace, o.Namespace), strings.Compare(n.Name, o.Name))
}

// Service is core/v1 Service, reduced to the fields that warren uses, with addresses parsed.
type Service struct {
	ObjectName
	UID     string
	Type    ServiceType
	Created time.Time
	// Headless Services have no ClusterIP (clusterIP: None); DNS returns their endpoints.
	Headless   bool
	ClusterIPs []netip.Addr // at most one per family, the preferred one first
	Ports      []ServicePort
	Selector   map[string]string

	ExternalIPs []netip.Addr
	// LBAddresses are the addresses in status.loadBalancer with ipMode VIP.
	LBAddresses []netip.Addr
	// LBExternal: another controller wrote status.loadBalancer, and it has host names or addresses with ipMode Proxy.
	LBExternal bool
	// LBRequested is spec.loadBalancerIP, the zero value for none.
	LBRequested netip.Addr
	// LBClass is spec.loadBalancerClass, "" for the default class.
	LBClass           string
	LBSourceRanges    []netip.Prefix // empty: all clients, unless LBSourceInvalid has entries
	LBSourceInvalid   []string       // source ranges that are no CIDR; they admit no client
	AllocateNodePorts bool
	// HealthCheckNodePort serves the health of externalTrafficPolicy Local, 0 for none.
	HealthCheckNodePort uint16
	ExternalPolicy      TrafficPolicy
	InternalPolicy      TrafficPolicy
	Distribution        Distribution
	// Affinity is the timeout of sessionAffinity ClientIP, 0 for none.
	Affinity        time.Duration
	PublishNotReady bool
	ExternalName    string // target of an ExternalName Service
	// OtherProxy: the Service has the label service.kubernetes.io/service-proxy-name: another proxy serves them, warren only their
	// DNS names.
	OtherProxy  bool
	Labels      map[string]string
	Annotations map[string]string
}

// Restricted reports whether only the clients of LBSourceRanges may use the load balancer addresses.
func (s *Service) Restricted() bool { return len(s.LBSourceRanges)+len(s.LBSourceInvalid) > 0 }

// ServicePort is core/v1 ServicePort.
type ServicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16 // 0 for none
	// TargetPort is a number, or 0 with a name that each endpoint slice resolves.
	TargetPort     uint16
	TargetPortName string
	AppProtocol    string
}

// EndpointSlice is discovery/v1 EndpointSlice of one address family. Slices of type FQDN are not converted.
type EndpointSlice struct {
	ObjectName
	UID     string
	Service string // name of the Service in the same namespace, label kubernetes.io/service-name
	Family  Family
	// OtherProxy: the slice has the label for headless Services or that of another proxy; the balancer ignores them, DNS does not.
	OtherProxy bool
	Ports      []EndpointPort
	Endpoints  []Endpoint
}

// EndpointPort is discovery/v1 EndpointPort: Name is that of the Service port it belongs to.
type EndpointPort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Endpoint is discovery/v1 Endpoint with its conditions resolved as the API defines them: a nil ready is true, a nil
// serving is ready, a nil terminating is false.
type Endpoint struct {
	Addr        netip.Addr
	Ready       bool
	Serving     bool
	Terminating bool
	Node        string // nodeName, "" when unknown
	Zone        string
	ZoneHints   []string // hints.forZones
	NodeHints   []string // hints.forNodes
	Hostname    string
	Pod         ObjectName // targetRef, zero for endpoints that are no Pods
}

// Pod is a Pod from the Kubernetes API, or in clusters without Kubernetes as its node's agent published it.
type Pod struct {
	ObjectName
	UID         string
	Created     time.Time // zero: unknown
	Node        string
	Zone        string
	Addrs       []netip.Addr
	HostNetwork bool
	Ready       bool
	Terminating bool
	Labels      map[string]string
	Hostname    string
	Subdomain   string
	// NamedPorts are container ports by name, for targetPort names.
	NamedPorts []EndpointPort
	HostPorts  []HostPort
}

// HostPort is a port of the node that belongs to a Pod (capability portMappings of the CNI conventions).
type HostPort struct {
	Protocol      Protocol
	HostPort      uint16
	ContainerPort uint16
	HostIP        netip.Addr // invalid or unspecified: every address of the node
}
