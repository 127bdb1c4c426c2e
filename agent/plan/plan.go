// Package plan computes what one node should look like: its WireGuard peers, addresses, routes, rules and sysctls, the table of
// the load balancer, the sockets that the agent opens on the host, the addresses that it announces and the record by which it
// registers.
//
// Make is a pure function of Input. The package has no goroutines, opens nothing, logs nothing and reads no clock. Everything
// that an apply does is a field of Plan, and nothing changes a Plan after Make has returned it.
package plan

import (
	"fmt"
	"net/netip"
	"sort"
	"time"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/ownership"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/tunnel"
)

// Input is everything that a plan depends on.
type Input struct {
	Self
	Host
	// Snapshot is nil before the first one.
	Snapshot *model.Snapshot
	// ServicesCached: the Services of Snapshot are those on the node's disk, not yet those of the running cluster.
	ServicesCached bool
	Pods           []Pod
	// ReportedPods are the Pods of the API server, those on this node included; nil without Kubernetes.
	ReportedPods []model.Pod
	// FallbackSNAT is that of the last plan, nil in the first one.
	FallbackSNAT map[netip.Prefix]netip.Addr
	// Compile makes the load balancer's table: servicelb.Build, or a cache that returns the same table.
	Compile func(servicelb.Self, *model.Snapshot) *servicelb.Table
}

// Self is this node's identity and settings.
type Self struct {
	Name, Identity string
	PublicKey      model.Key
	NextPublicKey  model.Key // replaces PublicKey; zero: none
	PresharedKey   model.Key // of all nodes; zero: none
	Blocks         []netip.Prefix
	Endpoints      []netip.AddrPort // configured; empty: the underlay's addresses
	Port           uint16
	MTU            int // configured, in bytes; 0: derived from the underlay
	Interface      string
	Zone, Version  string
	Keepalive      time.Duration
	Cluster        model.Cluster
	External       []tunnel.Peer  // external peers
	DNS            []netip.Addr   // cluster DNS addresses, which every node has itself
	DNSClients     []netip.Prefix // further networks that may query DNS
	NodePortRanges []netip.Prefix // the node's addresses in them serve node ports; empty: all
	NonMasquerade  []netip.Prefix // non-masquerade destinations
	ExternalIPs    []netip.Prefix // permitted externalIPs
	NodeRanges     []netip.Prefix // that other nodes' addresses must lie in; empty: any
	Control        []Control      // what the agent itself needs, by address
	ServiceClients []netip.Prefix // networks outside of the cluster that may send to ClusterIPs
	// Kubernetes: load balancer addresses may come from another controller, too.
	Kubernetes bool
	// Announce: this node may announce load balancer addresses. AnnounceLinks: on links that the configuration names.
	Announce, AnnounceLinks bool
}

// Host is what the agent observed of the host.
type Host struct {
	Underlay  hostnet.Underlay
	Listeners []Listener // host sockets inside the node port and masquerade port ranges, one per port
	KubeProxy bool       // a kube-proxy's rules are in the kernel
	// HealthPorts are the ports where the agent's listeners for health check node ports are open, by node port.
	HealthPorts map[uint16]uint16
	// Links are the links to announce load balancer addresses on.
	Links []announce.Link
	// PodLinks are the host's ends of Pods' veths by interface name.
	PodLinks map[string]PodLink
}

// Pod is a local Pod's attachment.
type Pod struct {
	Link  string // the host's end of its veth
	MAC   [6]byte
	Addrs []netip.Addr
	// HostPorts are the node's ports that belong to the Pod.
	HostPorts []model.HostPort
}

// Plan is what one node should look like for one Input.
type Plan struct {
	MTU   int // of the tunnel, in bytes
	Peers []tunnel.Peer
	// Host separates what the node itself needs from entries of objects and of other nodes' records, on which readiness must
	// not depend.
	Host hostnet.State
	Node model.Node // this node's record
	// Ownership is what no object may own.
	Ownership ownership.Rules
	Table     *servicelb.Table
	// Services is how an apply uses Table.
	Services Services

	HealthChecks map[uint16]HealthCheck // by health check node port
	Relays       map[Relay]bool
	UDPSinks     map[netip.AddrPort]bool
	// Reassembled are the UDP ports whose datagrams the agent takes over after the kernel has reassembled them.
	Reassembled []hostnet.Ports
	Offload     Offload
	Announce    announce.Desired

	// DNSClients may query this node's DNS server.
	DNSClients []netip.Prefix
	// Unmanaged are addresses of this node's blocks that IPAM must not allocate: those of unmanaged Pods, and FallbackSNAT.
	Unmanaged []netip.Addr
	// FallbackSNAT has, by block, the SNAT addresses that replace one of an unmanaged Pod.
	FallbackSNAT map[netip.Prefix]netip.Addr
	// ReservedPorts are masquerade ports that are left to host programs. UnreachablePorts are those of host programs that
	// cannot be reached from other machines, because packets to them are redirected.
	ReservedPorts, UnreachablePorts []uint16
	// Problems are records and settings that could not be used, each with the reason, sorted.
	Problems []string
}

// Services is how an apply uses a plan's Table.
type Services uint8

// The uses of a table.
const (
	// ServicesCurrent replaces the load balancer's table.
	ServicesCurrent Services = iota
	// ServicesCached replaces it, but ends no flow: the Services may be older than flows of the last run.
	ServicesCached
	// ServicesUnknown leaves it: the snapshot has no Services yet.
	ServicesUnknown
)

// noSnapshot replaces a snapshot that does not exist yet.
var noSnapshot = &model.Snapshot{}

// Make computes a plan. The same input gives the same plan. It returns false while the host's network must stay as it is: the
// host has routes to other nodes' Pods, and it is not known before the first snapshot which of those nodes warren serves.
func Make(in Input) (*Plan, bool) {
	if in.Snapshot == nil && len(in.Underlay.UnmanagedRemote) > 0 {
		return nil, false
	}
	if in.Snapshot == nil {
		in.Snapshot = noSnapshot
	}
	p := &Plan{MTU: in.TunnelMTU(), DNSClients: in.dnsClients()}
	p.snat(&in)
	p.listeners(&in)
	p.Node = registration(&in, p.MTU)
	p.peers(&in)
	p.Ownership = p.ownershipRules(&in)
	in.Pods = p.permittedHostPorts(in.Pods)
	p.host(&in)
	p.Table = in.Compile(p.balancer(&in), in.Snapshot)
	p.Services = servicesOf(&in)
	p.services(&in, p.Table.Redirects())
	p.refusedEndpoints()
	p.refusals()
	p.lanRules(&in)
	p.learnedRoutes(&in)
	p.coexist(&in)
	p.HealthChecks = healthChecks(in.Snapshot, in.Name)
	p.Relays = relays(&in)
	p.UDPSinks, p.Reassembled = udpSinks(&in), p.reassembled(&in)
	p.Offload = offloadOf(&in)
	p.Announce = p.announced(&in)
	p.Problems = append(p.Problems, p.Table.Problems()...)
	p.Problems = append(p.Problems, in.Snapshot.Problems...)
	sort.Strings(p.Problems)
	return p, true
}

func servicesOf(in *Input) Services {
	switch {
	case in.Snapshot.Partial:
		return ServicesUnknown
	case in.ServicesCached:
		return ServicesCached
	}
	return ServicesCurrent
}

func (p *Plan) problem(format string, args ...any) {
	p.Problems = append(p.Problems, fmt.Sprintf(format, args...))
}

// dnsClients are the sources that may query DNS: the node itself, by the server's addresses, its Pods and configured networks.
func (in *Input) dnsClients() (out []netip.Prefix) {
	for _, d := range in.DNS {
		out = append(out, host(d))
	}
	return append(append(out, in.Blocks...), in.DNSClients...)
}
