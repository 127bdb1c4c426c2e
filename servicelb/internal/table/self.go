package table

import (
	"net/netip"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/ownership"
)

// Self describes the node that a table is for. Prefixes are masked, addresses unmapped.
type Self struct {
	Node, Zone string
	PodRanges  []netip.Prefix // of the cluster
	PodCIDRs   []netip.Prefix // of this node
	// SNAT4 and SNAT6 are the source addresses used when a client's own address cannot be preserved. They lie in this
	// node's Pod CIDRs and are not local to the host, so that replies return through the TUN.
	SNAT4, SNAT6 netip.Addr
	// PodNet4 and PodNet6 are the node's own addresses inside its Pod CIDRs.
	PodNet4, PodNet6 netip.Addr
	// Addrs are the node's own addresses. Peers are the other nodes' addresses, reached through the tunnel.
	Addrs []netip.Addr
	Peers []netip.Addr
	// PeerSNAT are the SNAT addresses of the other nodes.
	PeerSNAT []netip.Addr
	// NodePortAddrs are the addresses that serve node ports.
	NodePortAddrs []netip.Addr
	// NonMasquerade are destinations that receive packets with the Pod's own source address.
	NonMasquerade []netip.Prefix
	// ExternalPeers are the non-masquerade destinations whose route is the tunnel: WireGuard peers that are not nodes.
	ExternalPeers []netip.Prefix
	// MasqueradePorts is the range of source ports for egress, both ends included.
	MasqueradePorts [2]uint16
	// ReservedPorts are ports of that range that no flow may take, because host processes listen on them. Ascending.
	ReservedPorts []uint16
	// HealthListeners maps health check node ports to the ports of the agent's listeners on PodNet4 and PodNet6.
	HealthListeners map[uint16]uint16
	// Sources are the node's source addresses towards external destinations, the longest prefix first. For destinations
	// in none of them it is the first of Addrs.
	Sources []Source
	// HostServed are ClusterIPs that the host itself answers. A Service with one of them has no frontend here, whatever
	// endpoints it has.
	HostServed []netip.Addr
	// Ownership is what no object may own. The node's own addresses and those of its peers need not be in it.
	Ownership ownership.Rules
}

// Source is the node's source address towards a destination.
type Source struct {
	To   netip.Prefix
	From netip.Addr
}

// PodNet returns the node's own address inside its Pod CIDR of a family.
func (s *Self) PodNet(f model.Family) netip.Addr {
	if f == model.IPv4 {
		return s.PodNet4
	}
	return s.PodNet6
}

// SNAT returns the SNAT address of a family.
func (s *Self) SNAT(f model.Family) netip.Addr {
	if f == model.IPv4 {
		return s.SNAT4
	}
	return s.SNAT6
}
