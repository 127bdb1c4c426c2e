// Package model has the types that all packages share: clusters, nodes, blocks, Services, endpoints and Pods.
//
// A Snapshot is immutable: the store builds a new one for each change, and its readers never write to it. The package
// owns no goroutine, no file and no kernel object, and imports the standard library only.
package model

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// Key is a Curve25519 public or private key as WireGuard uses it: 32 bytes, written in standard base64.
type Key [32]byte

// ParseKey reads the base64 form of a key that `wg` prints.
func ParseKey(s string) (Key, error) {
	var k Key
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != len(k) {
		return Key{}, fmt.Errorf("key %q: expected 32 bytes in base64 (44 characters)", s)
	}
	copy(k[:], b)
	return k, nil
}

func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero reports whether the key is unset.
func (k Key) IsZero() bool { return k == Key{} }

// MarshalText writes the base64 form.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the base64 form.
func (k *Key) UnmarshalText(b []byte) error {
	v, err := ParseKey(string(b))
	if err == nil {
		*k = v
	}
	return err
}

// Cluster is the configuration that all nodes of a cluster share. It is written once and verified by every agent.
type Cluster struct {
	Name string `json:"name"`
	// PodCIDRs are the Pod ranges that blocks are claimed from: at most one per family, the preferred one first.
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// BlockBits is the prefix length of a node's block: [IPv4, IPv6], for instance [24, 64].
	BlockBits [2]int `json:"blockBits"`
	Domain    string `json:"domain"`
	// Port is the WireGuard UDP port of a node whose own configuration sets none.
	Port uint16 `json:"port"`
}

// LongestBlock is the longest prefix of a block by family: a block needs addresses for the node, for SNAT and for Pods.
var LongestBlock = [2]int{IPv4: 29, IPv6: 120}

// Bits returns the block length that applies to a Pod range.
func (c Cluster) Bits(p netip.Prefix) int {
	if p.Addr().Is4() {
		return c.BlockBits[0]
	}
	return c.BlockBits[1]
}

// OfPodFamilies returns the elements of all whose family the Pod ranges have, in the order of the Pod ranges.
func OfPodFamilies[T any](c Cluster, all []T, family func(T) Family) (out []T) {
	for _, r := range c.PodCIDRs {
		for _, x := range all {
			if family(x) == FamilyOf(r.Addr()) {
				out = append(out, x)
			}
		}
	}
	return out
}

// Node is the record that a machine of the cluster publishes about itself.
type Node struct {
	Name string `json:"name"`
	// Identity is made once and stored on the node's disk. It distinguishes a node that restarts from another machine with
	// the same name.
	Identity  string `json:"identity"`
	PublicKey Key    `json:"publicKey"`
	// NextPublicKey replaces PublicKey as soon as all other nodes have configured it.
	NextPublicKey Key `json:"nextPublicKey,omitzero"`
	// AcceptedKeys are the next public keys of other nodes that this node has configured.
	AcceptedKeys []Key `json:"acceptedKeys,omitempty"`
	// Endpoints are the UDP addresses of the node's WireGuard device, the preferred one first.
	Endpoints []netip.AddrPort `json:"endpoints"`
	// Addresses are the node's own underlay addresses; Pods reach them through the tunnel.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// PodCIDRs are the blocks that the node publishes as its own; a reader checks them against Snapshot.Blocks.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
	// MTU is the size in bytes of the largest inner packet that the node's tunnel accepts.
	MTU     int    `json:"mtu,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Version string `json:"version,omitempty"`
	// Alive is true while the node renews the lease of its key alive/<name> in etcd, with its identity. It decides which node
	// allocates load balancer addresses without Kubernetes, which peers the doctor probes, and a problem in `warren status`.
	// It removes no tunnel, route, Pod or backend.
	Alive bool `json:"-"`
}

// Block is a Pod CIDR and its owner. Only an explicit release ends the ownership.
type Block struct {
	CIDR     netip.Prefix `json:"cidr"`
	Node     string       `json:"node"`
	Identity string       `json:"identity"`
	Claimed  time.Time    `json:"claimed"`
}

// Snapshot is the immutable state of all watched objects at one revision.
type Snapshot struct {
	// Revision is the store's counter (etcd: the revision of the newest change). It never decreases.
	Revision int64   `json:"revision"`
	Cluster  Cluster `json:"cluster"`
	Nodes    []Node  `json:"nodes"`  // sorted by name
	Blocks   []Block `json:"blocks"` // sorted by CIDR
	// Revoked are the machines that were excluded from the cluster; the snapshot has no records of them.
	Revoked Revocations `json:"revoked,omitempty"`
	// Lost are those of Revoked that were deleted from the store, which no command does. They are written again.
	Lost Revocations `json:"-"`
	// KeyRotation identifies the newest request to replace the WireGuard keys of all nodes, "" if there was none.
	KeyRotation string `json:"-"`
	// KeyRotationForced: the request holds for nodes with external peers as well.
	KeyRotationForced bool `json:"-"`
	// ServiceCIDRs are the ranges of ClusterIPs. They may change at any time.
	ServiceCIDRs []netip.Prefix  `json:"serviceCIDRs,omitempty"`
	Pools        []AddressPool   `json:"pools,omitempty"`    // sorted by name
	Services     []Service       `json:"services,omitempty"` // sorted by namespace and name
	Slices       []EndpointSlice `json:"slices,omitempty"`   // sorted by namespace and name
	Pods         []Pod           `json:"pods,omitempty"`     // sorted by namespace and name
	// Partial is true while Services, endpoints and Pods have not been received yet. DNS must not answer NXDOMAIN from a
	// partial snapshot, and the balancer must not end flows because of it.
	Partial bool `json:"-"`
	// Problems are stored records that are invalid, each with its key and the reason.
	Problems []string `json:"problems,omitempty"`
}

// Node returns the node of that name.
func (s *Snapshot) Node(name string) (Node, bool) {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Owned returns the blocks that the node of that name and identity holds.
func (s *Snapshot) Owned(name, identity string) []netip.Prefix {
	var out []netip.Prefix
	for _, b := range s.Blocks {
		if b.Node == name && b.Identity == identity {
			out = append(out, b.CIDR)
		}
	}
	return out
}

// Record wraps a stored value with the version of its layout, so that an older program refuses a newer record.
type Record struct {
	Version int             `json:"v"`
	Value   json.RawMessage `json:"value"`
}

// Encode writes value as a record of that layout version.
func Encode(version int, value any) ([]byte, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return json.Marshal(Record{Version: version, Value: raw})
}

// ErrNewer reports a record that a newer version of warren wrote.
type ErrNewer struct{ Have, Know int }

func (e *ErrNewer) Error() string {
	return fmt.Sprintf("record layout version %d is newer than this warren knows (%d): upgrade warren on this node", e.Have, e.Know)
}

// Decode reads a record written by Encode into value. A layout newer than know is refused with *ErrNewer.
func Decode(data []byte, know int, value any) error {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("not a warren record: %w", err)
	}
	if r.Version < 1 {
		return fmt.Errorf("not a warren record: layout version %d, expected 1 to %d", r.Version, know)
	}
	if r.Version > know {
		return &ErrNewer{Have: r.Version, Know: know}
	}
	return json.Unmarshal(r.Value, value)
}
