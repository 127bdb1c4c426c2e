package table

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/ownership"
	"github.com/warrennet/warren/servicelb/internal/stable"
	"github.com/warrennet/warren/servicelb/internal/traffic"
)

// Key is the address, port and protocol that clients send to.
type Key struct {
	Addr  netip.Addr
	Port  uint16
	Proto uint8
}

func (k *Key) hash() uint64 { return stable.Hash(k.Addr, uint64(k.Port)<<8|uint64(k.Proto)) }

// Kind is the kind of address that a frontend has.
type Kind uint8

// The kinds.
const (
	KindClusterIP Kind = iota
	KindExternal       // externalIPs or a load balancer address
	KindNodePort
	KindHostPort
)

var kindNames = [...]string{KindClusterIP: "ClusterIP", KindExternal: "external", KindNodePort: "NodePort", KindHostPort: "hostPort"}

// Frontend is one address, port and protocol of a Service. The fields that a new flow reads come first, in one cache
// line.
type Frontend struct {
	// Internal serves Pods and nodes, External serves clients outside of the cluster.
	Internal, External *Pool
	Meter              *traffic.Meter // nil for health check ports
	Affinity           time.Duration  // of sessionAffinity ClientIP; 0: none
	ID                 uint64         // of the Service port, the same on every node and after a restart
	Kind               Kind
	Algorithm          Algorithm
	// EjectAfter is the number of failed connections in a row that eject a backend; 0: never.
	EjectAfter   uint16
	SourceRanges []netip.Prefix // loadBalancerSourceRanges
	Restricted   bool           // only clients in SourceRanges are admitted; false: all
	// Endpoints are the endpoints in any condition, sorted. A connection continues while its backend is one of them.
	Endpoints []Backend
	Service   model.ObjectName
	PortName  string // of the Service port
	Claim     *ownership.Claim
}

// Pool is a set of backends that new flows are distributed to.
type Pool struct {
	Backends []Backend // sorted
	Records  []*Record // of Backends; nil without ejection
	// PolicyDrops is set when a traffic policy excludes every usable endpoint: packets are dropped. An empty pool
	// without it is answered by a RST or an ICMP error.
	PolicyDrops bool
	Turn        atomic.Uint32 // of round robin
	Maglev      []uint16      // lookup table of that algorithm; nil for the others
	// few stores the backends of a small pool, so that both are in the same cache lines.
	few [4]Backend
}

// Backend is the address and target port of an endpoint.
type Backend struct {
	Addr netip.Addr
	Port uint16
}

// AddrPort returns the backend in the form of netip.
func (b Backend) AddrPort() netip.AddrPort { return netip.AddrPortFrom(b.Addr, b.Port) }

// Table is everything that the packet path looks up. It is immutable.
type Table struct {
	self         Self
	frontends    persistentMap[Key, *Frontend]
	serviceAddrs persistentMap[netip.Addr, holders] // addresses that belong to Services as a whole
	ranges       []netip.Prefix                     // Service CIDRs
	local        map[netip.Addr]bool                // the node's own addresses
	peers        map[netip.Addr]bool                // the other nodes' addresses
	peerSNAT     map[netip.Addr]bool                // the other nodes' SNAT addresses
	redirects    Redirects
	balanced     *balanced
	refused      []RefusedEndpoint
	refusals     []Refusal
	ejecting     int // number of Services that eject backends
	problems     []string
}

// Self returns what the table was built with. The caller must not change it.
func (t *Table) Self() *Self { return &t.self }

// Problems returns what is not compiled as the objects specify, because they exceed a bound.
func (t *Table) Problems() []string { return t.problems }

// Len returns the number of frontends.
func (t *Table) Len() int { return t.frontends.len() }

// Frontend returns the frontend at an address, port and protocol, or nil.
func (t *Table) Frontend(k Key) *Frontend { return t.frontends.get(k.hash(), k) }

// All calls yield for every frontend, in no order.
func (t *Table) All(yield func(Key, *Frontend) bool) { t.frontends.all(yield) }

// Ejects reports whether any Service ejects backends.
func (t *Table) Ejects() bool { return t.ejecting > 0 }

// Meters returns the meters of all Services, each once.
func (t *Table) Meters() (out []*traffic.Meter) {
	seen := map[*traffic.Meter]bool{nil: true}
	for _, f := range t.frontends.all {
		if !seen[f.Meter] {
			seen[f.Meter] = true
			out = append(out, f.Meter)
		}
	}
	return out
}
