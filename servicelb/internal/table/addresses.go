package table

import (
	"net/netip"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
	"github.com/warrennet/warren/servicelb/internal/stable"
)

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// IsPod reports whether an address lies in the Pod ranges of the cluster.
func (t *Table) IsPod(a netip.Addr) bool { return netx.Contains(t.self.PodRanges, a) }

// IsLocalPod reports whether an address lies in a Pod CIDR of this node.
func (t *Table) IsLocalPod(a netip.Addr) bool { return netx.Contains(t.self.PodCIDRs, a) }

// IsNodeAddr reports whether an address is this node's own.
func (t *Table) IsNodeAddr(a netip.Addr) bool { return t.local[a] }

// IsPeerAddr reports whether an address is another node's.
func (t *Table) IsPeerAddr(a netip.Addr) bool { return t.peers[a] }

// IsPeerSNAT reports whether an address is the SNAT address of another node.
func (t *Table) IsPeerSNAT(a netip.Addr) bool { return t.peerSNAT[a] }

// IsRemote reports whether an address is reached through the tunnel: a Pod of another node, or another node.
func (t *Table) IsRemote(a netip.Addr) bool { return t.IsPod(a) && !t.IsLocalPod(a) || t.peers[a] }

// HasService reports whether the address belongs to a Service: a ClusterIP or a load balancer address.
func (t *Table) HasService(a netip.Addr) bool {
	return t.serviceAddrs.get(stable.Hash(a, 0), a) != holders{}
}

// IsServiceAddr reports whether an address is a Service's or lies in the Service CIDRs.
func (t *Table) IsServiceAddr(a netip.Addr) bool {
	return t.HasService(a) || netx.Contains(t.ranges, a)
}

func (t *Table) inCluster(a netip.Addr) bool {
	return t.IsPod(a) || t.local[a] || t.peers[a] || t.IsServiceAddr(a)
}

// IsExternal reports whether an address belongs to an external network that must not see the Pods' own addresses.
func (t *Table) IsExternal(a netip.Addr) bool {
	return !t.inCluster(a) && !netx.Contains(t.self.NonMasquerade, a) && !a.IsMulticast() && !a.IsLinkLocalUnicast() &&
		!a.IsLoopback() && !a.IsUnspecified() && a != broadcast
}

// IsNonMasquerade reports whether an address belongs to an external network that sees the Pods' own addresses and is
// not reached through the tunnel.
func (t *Table) IsNonMasquerade(a netip.Addr) bool {
	return len(t.self.NonMasquerade) > 0 && !t.inCluster(a) && netx.Contains(t.self.NonMasquerade, a) && !t.IsExternalPeer(a)
}

// IsExternalPeer reports whether an address belongs to a WireGuard peer that is not a node.
func (t *Table) IsExternalPeer(a netip.Addr) bool { return netx.Contains(t.self.ExternalPeers, a) }

// NodeAddr returns the node's source address towards a destination outside of the cluster, or the zero address.
func (t *Table) NodeAddr(to netip.Addr) netip.Addr {
	for i := range t.self.Sources {
		if s := &t.self.Sources[i]; s.To.Contains(to) {
			return s.From
		}
	}
	family := model.FamilyOf(to)
	for _, a := range t.self.Addrs {
		if model.FamilyOf(a) == family && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return a
		}
	}
	return netip.Addr{}
}
