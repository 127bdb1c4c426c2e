package api

import (
	"net/netip"
	"time"
)

// Paths of the calls that the command line makes.
const (
	StatusPath = "/v1/status" // GET -> Status
	ReadyPath  = "/v1/ready"  // GET -> 200, or 503 with an Error that names what is missing
	PodsPath   = "/v1/pods"   // GET -> []Pod
	PeersPath  = "/v1/peers"  // POST ExternalPeer adds, DELETE ?publicKey= removes, GET lists
	// KeyPath is the node's WireGuard key and its replacement.
	KeyPath = "/v1/key" // GET -> Key, POST ?force= begins a replacement -> Key
	// PodLabelsPath changes the labels of a Pod of this node, in clusters without Kubernetes.
	PodLabelsPath = "/v1/pods/labels" // POST PodLabels -> Pod
	// PodProbePath sets or removes a Pod's readiness probe, likewise.
	PodProbePath = "/v1/pods/probe" // POST PodProbe -> Pod
)

// EnvPath and the calls about Services.
const (
	EnvPath   = "/v1/env"   // GET ?namespace= -> Env
	FlowsPath = "/v1/flows" // GET -> []Flow
	DNSPath   = "/v1/dns"   // GET ?name=&type=&namespace= -> dns.Explanation
	// DNSLogPath switches the query log.
	DNSLogPath = "/v1/dns/log" // POST ?on=true|false
	// ServicesPath returns the frontends of this node's table.
	ServicesPath = "/v1/services" // GET -> []Frontend
	// EndpointsPath returns the endpoints of the newest snapshot.
	EndpointsPath = "/v1/endpoints" // GET -> []Endpoint
)

// Endpoint is an endpoint of a Service in any condition.
type Endpoint struct {
	Service   string     `json:"service"` // namespace/name
	Address   netip.Addr `json:"address"`
	Ports     []string   `json:"ports"`     // name:port/protocol
	Condition string     `json:"condition"` // ready, serving (and terminating), terminating, not ready
	Node      string     `json:"node,omitempty"`
	Zone      string     `json:"zone,omitempty"`
	Pod       string     `json:"pod,omitempty"` // namespace/name
	ZoneHints []string   `json:"zoneHints,omitempty"`
	NodeHints []string   `json:"nodeHints,omitempty"`
	// Ejected are the Service ports for which this node does not select the endpoint, because connections to it failed.
	Ejected []Ejection `json:"ejected,omitempty"`
}

// Ejection is the ejection of an endpoint for one port.
type Ejection struct {
	Port    string `json:"port"`    // name, or number of the endpoint's port
	Seconds int    `json:"seconds"` // until a connection probes it; 0: the next connection does
}

// Frontend is an address and port that the balancer of this node serves, with its backends.
type Frontend struct {
	Service  string         `json:"service"` // namespace/name
	Port     string         `json:"port,omitempty"`
	Kind     string         `json:"kind"` // ClusterIP, external, NodePort, hostPort
	Protocol string         `json:"protocol"`
	Address  netip.AddrPort `json:"address"`
	// Backends serve Pods and nodes. External are those of external clients, if they differ.
	Backends []netip.AddrPort `json:"backends"`
	External []netip.AddrPort `json:"external,omitempty"`
	// Refused is why the object does not have the address, "" if it has it. Requested is the address, the
	// port or both, as text; Address is then unset.
	Refused   string `json:"refused,omitempty"`
	Requested string `json:"requested,omitempty"`
}

// Env is the service variables of a namespace's Pods.
type Env struct {
	Variables []string `json:"variables"`
	Warning   string   `json:"warning,omitempty"`
}

// Flow is one translated connection.
type Flow struct {
	Protocol  string         `json:"protocol"`
	State     string         `json:"state"`
	Client    netip.AddrPort `json:"client"`
	Service   netip.AddrPort `json:"service"` // destination that the client used
	Source    netip.AddrPort `json:"source"`  // client address as seen by the backend
	Backend   netip.AddrPort `json:"backend"`
	Kind      string         `json:"kind"`                // service or masquerade
	Offloaded bool           `json:"offloaded,omitempty"` // the eBPF program forwards its packets now
	Age       int            `json:"age"`                 // seconds
	Idle      int            `json:"idle"`                // seconds
}

// Status is the output of `warren status` for one node.
type Status struct {
	Node     string   `json:"node"`
	Version  string   `json:"version"`
	Ready    bool     `json:"ready"`
	Problems []string `json:"problems,omitempty"`
	Cluster  string   `json:"cluster"`
	Store    Store    `json:"store"`
	// Kubernetes is the connection to the API server; absent in clusters without Kubernetes.
	Kubernetes *Store `json:"kubernetes,omitempty"`
	// Revision is that of the newest snapshot, Applied that of the snapshot in the kernel and the tunnel.
	Revision  int64          `json:"revision"`
	Applied   int64          `json:"applied"`
	PublicKey string         `json:"publicKey"`
	Port      uint16         `json:"port"`
	Interface string         `json:"interface"`
	MTU       int            `json:"mtu"` // bytes, of the tunnel
	PodCIDRs  []netip.Prefix `json:"podCIDRs"`
	Addresses []netip.Addr   `json:"addresses"` // the node's own
	// Unclaimed are the Pod CIDRs of the Node object that the node has not claimed.
	Unclaimed []Unclaimed `json:"unclaimed,omitempty"`
	// PodRanges and ServiceCIDRs are those of the cluster. DNS are the cluster DNS addresses that this node answers.
	PodRanges    []netip.Prefix `json:"podRanges,omitempty"`
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs,omitempty"`
	DNS          []netip.Addr   `json:"dns,omitempty"`
	Pods         int            `json:"pods"`
	// Offload is "active" while the eBPF program forwards flows between Pods of this node, otherwise the reason why not.
	Offload string `json:"offload"`
	Peers   []Peer `json:"peers"`
	Tunnel  any    `json:"tunnel,omitempty"` // counters
}

// Store is the state of a connection to etcd or the API server: whether it answers, since when, and the last error.
type Store struct {
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
}

// Peer is a WireGuard peer of this node.
type Peer struct {
	Name          string           `json:"name"`
	PublicKey     string           `json:"publicKey"`
	Alive         bool             `json:"alive"` // renews its lease in the store
	Endpoint      string           `json:"endpoint,omitempty"`
	Endpoints     []netip.AddrPort `json:"endpoints"`
	AllowedIPs    []netip.Prefix   `json:"allowedIPs"`
	PodCIDRs      []netip.Prefix   `json:"podCIDRs"`
	LastHandshake time.Time        `json:"lastHandshake,omitzero"`
	RxBytes       uint64           `json:"rxBytes"`
	TxBytes       uint64           `json:"txBytes"`
	MTU           int              `json:"mtu"` // bytes, of the peer's tunnel
	// PathMTU is the measured path MTU to the peer in bytes, if it is below the MTU of both ends.
	PathMTU int    `json:"pathMTU,omitempty"`
	Version string `json:"version,omitempty"`
	// External: an external peer, no node of the cluster.
	External bool `json:"external,omitempty"`
}

// Pod is a Pod of this node.
type Pod struct {
	Attachment
	Namespace string            `json:"namespace,omitempty"`
	Name      string            `json:"name,omitempty"`
	UID       string            `json:"uid,omitempty"`
	Addresses []netip.Addr      `json:"addresses"`
	Link      string            `json:"link"`
	Labels    map[string]string `json:"labels,omitempty"`
	Ready     bool              `json:"ready"`
	Probe     *Probe            `json:"probe,omitempty"`
	// ProbeError is why the last attempt of the probe failed.
	ProbeError string `json:"probeError,omitempty"`
}

// Probe is a readiness probe. One success makes the Pod ready, that many consecutive Failures make it not ready.
type Probe struct {
	Kind           string `json:"kind"` // tcp: a connection; http: a GET that is answered with 200 to 399
	Port           uint16 `json:"port"`
	Path           string `json:"path,omitempty"` // of http
	IntervalMillis int    `json:"intervalMillis"`
	Failures       int    `json:"failures"`
}

// PodProbe sets the probe of a Pod. Without a probe it removes the Pod's, which makes the Pod ready.
type PodProbe struct {
	Pod   string `json:"pod"`
	Probe *Probe `json:"probe,omitempty"`
}

// PodLabels changes labels of a Pod: those in Set get these values, those in Remove are deleted.
type PodLabels struct {
	Pod    string            `json:"pod"` // namespace/name, as GET of PodsPath shows it
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// Unclaimed is a Pod CIDR of the Node object that is not one of the node's blocks.
type Unclaimed struct {
	CIDR netip.Prefix `json:"cidr"`
	Why  string       `json:"why"`
}

// ExternalPeer is a WireGuard peer that is not a node of the cluster: a laptop, a router, a stock wireguard-go.
type ExternalPeer struct {
	Name       string           `json:"name"`
	PublicKey  string           `json:"publicKey"`
	Endpoints  []netip.AddrPort `json:"endpoints,omitempty"`
	AllowedIPs []netip.Prefix   `json:"allowedIPs"`
	Keepalive  int              `json:"keepalive,omitempty"` // seconds
}

// Key is the state of the node's WireGuard key.
type Key struct {
	Current   string `json:"current"`        // public key of the WireGuard device
	Published string `json:"published"`      // public key in the node's record
	Next      string `json:"next,omitempty"` // next public key in the node's record
	Rotating  bool   `json:"rotating"`       // a replacement has begun and not ended
	Problem   string `json:"problem,omitempty"`
}
