package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
	"github.com/warrennet/warren/tunnel"
)

// registration is this node's record.
func registration(in *Input, mtu int) model.Node {
	n := model.Node{Name: in.Name, Identity: in.Identity, PublicKey: in.PublicKey, NextPublicKey: in.NextPublicKey, Endpoints: in.Endpoints,
		AcceptedKeys: acceptedKeys(in),
		Addresses:    in.Underlay.Addrs, PodCIDRs: in.Blocks, MTU: mtu, Zone: in.Zone, Version: in.Version}
	if len(n.Endpoints) == 0 {
		for _, a := range in.Underlay.Addrs {
			n.Endpoints = append(n.Endpoints, netip.AddrPortFrom(a, in.Port))
		}
	}
	return n
}

// maxAccepted bounds the next keys that this node confirms; one node replaces its key at a time.
const maxAccepted = 64

// keyUses counts the records and external peers that have a key, for all keys.
func keyUses(in *Input) map[model.Key]int {
	uses := map[model.Key]int{in.PublicKey: 1}
	if in.NextPublicKey != in.PublicKey {
		uses[in.NextPublicKey]++
	}
	for _, n := range in.Snapshot.Nodes {
		if n.Name == in.Name {
			continue
		}
		uses[n.PublicKey]++
		if n.NextPublicKey != n.PublicKey {
			uses[n.NextPublicKey]++
		}
	}
	for _, p := range in.External {
		uses[p.PublicKey]++
	}
	return uses
}

// acceptedKeys are the next keys of other nodes that the tunnel has: those that only one record has. The record is published after
// the peers of the same plan were configured.
func acceptedKeys(in *Input) (out []model.Key) {
	uses := keyUses(in)
	for _, n := range in.Snapshot.Nodes {
		if n.Name != in.Name && !n.NextPublicKey.IsZero() && uses[n.NextPublicKey] == 1 && len(out) < maxAccepted {
			out = append(out, n.NextPublicKey)
		}
	}
	return out
}

// peers turns the other nodes' records into WireGuard peers. A node's claims are checked against the blocks that it owns, so
// that a compromised node cannot take over other nodes' Pods by writing its own record.
func (p *Plan) peers(in *Input) {
	held := newClaims(in)
	uses := keyUses(in)
	for _, n := range byAge(in.Snapshot) {
		if n.Name == in.Name {
			if n.Identity != in.Identity {
				p.problem("node %s: its record belongs to another machine (identity %s)", n.Name, n.Identity)
			}
			continue
		}
		if owner, dup := held.keys[n.PublicKey]; dup {
			p.problem("node %s: has the public key of %s; no tunnel to it", n.Name, owner)
			continue
		}
		held.keys[n.PublicKey] = n.Name
		if !n.NextPublicKey.IsZero() && uses[n.NextPublicKey] > 1 {
			p.problem("node %s: its next public key %s is also the key of another node or peer; it is ignored", n.Name, n.NextPublicKey)
			n.NextPublicKey = model.Key{}
		}
		peer := tunnel.Peer{Name: n.Name, PublicKey: n.PublicKey, NextKey: n.NextPublicKey, PresharedKey: in.PresharedKey,
			Endpoints: n.Endpoints,
			Keepalive: in.Keepalive, MTU: n.MTU}
		for _, c := range n.PodCIDRs {
			if err := checkBlock(n, c, in.Snapshot); err != nil {
				p.problem("node %s: %v", n.Name, err)
				continue
			}
			peer.AllowedIPs = append(peer.AllowedIPs, c)
			if !peer.Probe.IsValid() {
				peer.Probe = PodNetAddr(c)
			}
		}
		for _, a := range n.Addresses {
			if err := held.address(n, a, in); err != nil {
				p.problem("node %s: %v", n.Name, err)
				continue
			}
			peer.AllowedIPs = append(peer.AllowedIPs, host(a))
		}
		if len(n.Endpoints) == 0 {
			p.problem("node %s: has no endpoint; it can only reach us", n.Name)
		}
		p.Peers = append(p.Peers, peer)
	}
	slices.SortStableFunc(p.Peers, func(a, b tunnel.Peer) int { return strings.Compare(a.Name, b.Name) })
	p.Peers = append(p.Peers, in.External...)
}

// byAge lists the nodes by the time of their oldest block. So a node that joins, or that changes its record, takes no key and no
// address of a node before it, whatever its name.
func byAge(snap *model.Snapshot) []model.Node {
	first := map[string]time.Time{} // by identity
	for _, b := range snap.Blocks {
		if t, known := first[b.Identity]; !known || b.Claimed.Before(t) {
			first[b.Identity] = b.Claimed
		}
	}
	out := slices.Clone(snap.Nodes)
	slices.SortStableFunc(out, func(a, b model.Node) int {
		ta, known := first[a.Identity]
		tb, both := first[b.Identity]
		if known != both { // a node without a block is the youngest
			if known {
				return -1
			}
			return 1
		}
		return ta.Compare(tb)
	})
	return out
}

// claims are the keys and addresses that nodes hold already while peers are made: the oldest node holds them.
type claims struct {
	keys  map[model.Key]string
	addrs map[netip.Addr]string
}

func newClaims(in *Input) *claims {
	c := &claims{keys: map[model.Key]string{in.PublicKey: in.Name}, addrs: map[netip.Addr]string{}}
	for _, a := range in.Underlay.Addrs {
		c.addrs[a] = in.Name
	}
	return c
}

// checkBlock reports why a node may not use a block that its record names.
func checkBlock(n model.Node, cidr netip.Prefix, snap *model.Snapshot) error {
	for _, b := range snap.Blocks {
		if b.CIDR != cidr {
			continue
		}
		if b.Node != n.Name || b.Identity != n.Identity {
			return fmt.Errorf("claims %s, which belongs to %s", cidr, b.Node)
		}
		for _, r := range snap.Cluster.PodCIDRs {
			if r.Contains(cidr.Addr()) && cidr.Bits() >= r.Bits() {
				return nil
			}
		}
		return fmt.Errorf("claims %s, which is outside the Pod ranges %v", cidr, snap.Cluster.PodCIDRs)
	}
	return fmt.Errorf("claims %s, which has no owner", cidr)
}

// address holds an address for a node, or reports why the node may not have it.
func (c *claims) address(n model.Node, a netip.Addr, in *Input) error {
	if !a.IsGlobalUnicast() || a.IsLinkLocalUnicast() {
		return fmt.Errorf("address %s is not a unicast address", a)
	}
	for _, r := range in.Cluster.PodCIDRs {
		if r.Contains(a) {
			return fmt.Errorf("address %s lies in the Pod range %s", a, r)
		}
	}
	switch {
	case netx.Contains(in.Snapshot.ServiceCIDRs, a):
		return fmt.Errorf("address %s lies in the Service ranges", a)
	case slices.Contains(in.Underlay.Gateways, a):
		return fmt.Errorf("address %s is the default gateway of this node", a)
	case len(in.NodeRanges) > 0 && !netx.Contains(in.NodeRanges, a):
		return fmt.Errorf("address %s lies outside of the setting nodeRanges %v", a, in.NodeRanges)
	}
	if owner, dup := c.addrs[a]; dup {
		return fmt.Errorf("address %s is also %s's", a, owner)
	}
	c.addrs[a] = n.Name
	return nil
}
