package servicelb

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// Self is what the balancer knows of the node it runs on. Prefixes are masked, addresses unmapped.
type Self struct {
	Node, Zone string
	PodRanges  []netip.Prefix // of the cluster
	Blocks     []netip.Prefix // of this node
	// SNAT4 and SNAT6 are the sources of clients that cannot be kept: addresses of this node's blocks that are not
	// local to the host, so that replies to them come back through the TUN.
	SNAT4, SNAT6 netip.Addr
	// PodNet4 and PodNet6 are the node's own addresses inside its blocks.
	PodNet4, PodNet6 netip.Addr
	// Addrs are the node's own addresses, Peers the other nodes': those are reached through the tunnel.
	Addrs []netip.Addr
	Peers []netip.Addr
	// NodePortAddrs are the addresses that serve node ports.
	NodePortAddrs []netip.Addr
	// NonMasquerade are destinations that Pods reach with their own address.
	NonMasquerade []netip.Prefix
	// Foreign are those of them that the tunnel leads to: WireGuard hosts that are no nodes.
	Foreign []netip.Prefix
	// MasqueradePorts is the range of source ports for what leaves the cluster, both ends included.
	MasqueradePorts [2]uint16
	// Spared are ports of that range that no flow may take, because programs of the host listen on them; in ascending order.
	Spared []uint16
	// Health leads from health check node ports to the ports of the agent's listeners on PodNet4 and PodNet6.
	Health map[uint16]uint16
	// Sources are the own addresses that destinations outside the cluster see, the longest prefix first; towards the rest
	// it is the first of Addrs.
	Sources []Source
	// Own are cluster addresses that the host itself answers: a Service that has one is none of the balancer's, whatever
	// endpoints it shows to others.
	Own []netip.Addr
	// ClusterOnly refuses clients outside of the cluster at cluster addresses.
	ClusterOnly bool
}

// Source is the own address that stands for the node towards a destination.
type Source struct {
	To   netip.Prefix
	From netip.Addr
}

// podNet returns the node's own address inside its blocks.
func (s *Self) podNet(v4 bool) netip.Addr {
	if v4 {
		return s.PodNet4
	}
	return s.PodNet6
}

// snat returns the SNAT address of a family.
func (s *Self) snat(v4 bool) netip.Addr {
	if v4 {
		return s.SNAT4
	}
	return s.SNAT6
}

// frontKey is where clients send to.
type frontKey struct {
	addr  netip.Addr
	port  uint16
	proto uint8
}

func (k *frontKey) hash() uint64 { return stable(k.addr, uint64(k.port)<<8|uint64(k.proto)) }

// kind says what sort of address a frontend is.
type kind uint8

const (
	kindCluster  kind = iota
	kindExternal      // externalIP or LoadBalancer address
	kindNodePort
	kindHostPort
)

// frontend is one address, port and protocol of a Service. What a new flow reads stands first, in a cache line.
type frontend struct {
	// internal serves Pods and nodes, external clients from outside.
	internal, external *pool
	meter              *meter // nil for health check ports
	affinity           time.Duration
	id                 uint64 // of the Service port, the same on every node and after a restart
	kind               kind
	pick               picker
	// ejectAfter is the number of failures that eject a backend, 0: none does.
	ejectAfter uint16
	sources    []netip.Prefix // loadBalancerSourceRanges; empty: everybody
	// all are the endpoints in any condition, sorted: a connection goes on while its backend is one of them.
	all  []backend
	name model.ObjectName
	port string // name of the Service port
}

// pool is a set of backends to choose from.
type pool struct {
	backends []backend // sorted
	records  []*record // of backends, nil without ejection
	// drop: a policy forbids every backend that there is. An empty pool without it rejects.
	drop bool
	turn atomic.Uint32 // of round robin
	// maglev is the lookup table of that algorithm, nil for the others.
	maglev []uint16
	// few holds the backends of a small pool, so that who has the one has the other in its cache.
	few [4]backend
}

// backend is an endpoint with its port.
type backend struct {
	addr netip.Addr
	port uint16
}

func (b backend) addrPort() netip.AddrPort { return netip.AddrPortFrom(b.addr, b.port) }

// Table is everything the packet path looks up. It is immutable.
type Table struct {
	self     Self
	fronts   cow[frontKey, *frontend]
	vips     cow[netip.Addr, int] // Service addresses, how often: an unknown port on one is rejected
	ranges   []netip.Prefix       // Service ranges: likewise
	local    map[netip.Addr]bool  // the node's own addresses
	peers    map[netip.Addr]bool  // other nodes' addresses
	steering Steering
	ejecting int // Services that eject backends
}

// Port is a port of a protocol.
type Port struct {
	Proto uint8
	Port  uint16
}

// Steering is what the host must route to the TUN for the table to work.
type Steering struct {
	// VIPs are Service addresses outside the Service ranges.
	VIPs []netip.Addr
	// Targets are the target ports of backends in Pods of this node: their replies pass the TUN.
	Targets []Port
	// HostTargets are those of backends that are this node itself.
	HostTargets []Port
}

// Steering returns what the host must route to the TUN.
func (t *Table) Steering() Steering { return t.steering }

// Len returns the number of frontends.
func (t *Table) Len() int { return t.fronts.len() }

func (t *Table) front(k frontKey) *frontend { return t.fronts.get(k.hash(), k) }

// vip reports whether an address is one of a Service's.
func (t *Table) vip(a netip.Addr) bool { return t.vips.get(stable(a, 0), a) > 0 }

// meters lists the meters of all Services, each once.
func (t *Table) meters() (out []*meter) {
	seen := map[*meter]bool{nil: true}
	for _, f := range t.fronts.all {
		if !seen[f.meter] {
			seen[f.meter] = true
			out = append(out, f.meter)
		}
	}
	return out
}

// inPods reports whether an address belongs to the Pod network.
func (t *Table) inPods(a netip.Addr) bool { return within(t.self.PodRanges, a) }

// here reports whether a Pod address belongs to this node.
func (t *Table) here(a netip.Addr) bool { return within(t.self.Blocks, a) }

// remote reports whether an address is reached through the tunnel.
func (t *Table) remote(a netip.Addr) bool { return t.inPods(a) && !t.here(a) || t.peers[a] }

func within(ranges []netip.Prefix, a netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}
