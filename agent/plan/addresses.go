package plan

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
	"github.com/warrennet/warren/servicelb"
)

// PodNetAddr returns the node's own address inside a block: the first one.
func PodNetAddr(block netip.Prefix) netip.Addr { return block.Addr().Next() }

// SNATAddr returns the SNAT address of a block: the second one, which is not local to the host. It is the source of clients
// whose own address cannot be preserved.
func SNATAddr(block netip.Prefix) netip.Addr { return PodNetAddr(block).Next() }

// localhost serves node ports, too. ::1 cannot: the kernel accepts no packet with it on another link than lo.
var localhost = model.IPv4.Loopback()

// linkLocal are the addresses that are valid on one link alone (RFC 4291 section 2.5.6).
var linkLocal = netip.MustParsePrefix("fe80::/10")

// Families are the address families of the Pods.
func (in *Input) Families() (out []model.Family) {
	for _, f := range model.Families {
		if in.has(f) {
			out = append(out, f)
		}
	}
	return out
}

func (in *Input) has(f model.Family) bool {
	return slices.ContainsFunc(in.Cluster.PodCIDRs, func(r netip.Prefix) bool { return model.FamilyOf(r.Addr()) == f })
}

// PodNetAddrs are the node's own addresses inside its first block of each family, by family.
func (in *Input) PodNetAddrs() (out [2]netip.Addr) {
	for _, b := range in.Blocks {
		if f := model.FamilyOf(b.Addr()); !out[f].IsValid() {
			out[f] = PodNetAddr(b)
		}
	}
	return out
}

// nodeAddr is the node's first own address of a family.
func (in *Input) nodeAddr(f model.Family) netip.Addr {
	for _, a := range in.Underlay.Addrs {
		if model.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// nodePortAddrs are the addresses of this node that serve node ports: its own, 127.0.0.1 and its Pod-net addresses, or those of
// them that are in the configured ranges.
func (in *Input) nodePortAddrs() (out []netip.Addr) {
	all := slices.Clone(in.Underlay.Addrs)
	if in.has(model.IPv4) {
		all = append(all, localhost)
	}
	for _, b := range in.Blocks {
		all = append(all, PodNetAddr(b))
	}
	for _, a := range all {
		if len(in.NodePortRanges) == 0 || netx.Contains(in.NodePortRanges, a) {
			out = append(out, a)
		}
	}
	return out
}

// snat decides which addresses IPAM must not allocate and which SNAT addresses a fallback replaces. A fallback stays until the
// agent ends, because flows use it.
func (p *Plan) snat(in *Input) {
	p.Unmanaged = in.unmanaged()
	p.FallbackSNAT = map[netip.Prefix]netip.Addr{}
	maps.Copy(p.FallbackSNAT, in.FallbackSNAT)
	used := func(x netip.Addr) bool {
		return slices.Contains(p.Unmanaged, x) || slices.ContainsFunc(in.Pods, func(pod Pod) bool { return slices.Contains(pod.Addrs, x) })
	}
	for _, b := range in.Blocks {
		if _, done := p.FallbackSNAT[b]; done || !slices.Contains(p.Unmanaged, SNATAddr(b)) {
			continue
		}
		if x, ok := fallbackSNAT(b, used); ok {
			p.FallbackSNAT[b] = x
		}
	}
	for _, b := range in.Blocks {
		if x, ok := p.FallbackSNAT[b]; ok {
			p.Unmanaged = append(p.Unmanaged, x)
		}
	}
}

// unmanaged are the addresses of unmanaged Pods inside this node's blocks.
func (in *Input) unmanaged() (out []netip.Addr) {
	managed := map[netip.Addr]bool{}
	for _, p := range in.Pods {
		for _, x := range p.Addrs {
			managed[x] = true
		}
	}
	for _, p := range in.ReportedPods {
		for _, x := range p.Addrs {
			if !p.HostNetwork && !managed[x] && netx.Contains(in.Blocks, x) {
				out = append(out, x)
			}
		}
	}
	return out
}

// snatAddr is the SNAT address in use for a block.
func (p *Plan) snatAddr(block netip.Prefix) netip.Addr {
	if a, ok := p.FallbackSNAT[block]; ok {
		return a
	}
	return SNATAddr(block)
}

// fallbackSNAT chooses another SNAT address from the upper end of a block: other CNI plugins allocate from the lower end.
func fallbackSNAT(block netip.Prefix, used func(netip.Addr) bool) (netip.Addr, bool) {
	raw := block.Addr().AsSlice()
	for i := block.Bits(); i < len(raw)*8; i++ {
		raw[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(raw)
	for range 64 {
		if a = a.Prev(); !block.Contains(a) {
			break
		}
		if !used(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// balancer is the load balancer's description of this node, with every address that it may give a packet. For the source
// address of a Service's client see sourceFor in package servicelb. The receiver of other packets sees:
//
//	client \ destination  local Pod  remote Pod   this node  another node  external network  non-masquerade, external peer
//	local Pod             Pod        Pod          Pod        Pod           node address (1)  Pod
//	this node             node (2)   Pod-net (3)  -          node          node              node
//	remote Pod            Pod        -            Pod        -             - (4)             - (4)
//
//	(1) with a masquerade port; which node address, the host's routes decide (Underlay.Sources)
//	(2) the kernel's choice for IPv4, the source address of the Pod's route for IPv6 (routes.go)
//	(3) the source address of the Pod range's route: other nodes accept only a peer's own addresses
//	(4) Pods' packets leave the cluster at their own node
//
// A reply has the address that the client has sent to as its source, also a node port's or a load balancer's. The SNAT address
// replaces clients of Services alone.
func (p *Plan) balancer(in *Input) servicelb.Self {
	s := servicelb.Self{Node: in.Name, Zone: in.Zone, PodRanges: in.Cluster.PodCIDRs, PodCIDRs: in.Blocks, Addrs: in.Underlay.Addrs,
		HostServed: in.DNS, Peers: p.peerNodeAddrs(in), PeerSNAT: p.peerSNATAddrs(in), NodePortAddrs: in.nodePortAddrs(),
		MasqueradePorts: masqueradePorts,
		ReservedPorts:   p.ReservedPorts, HealthListeners: in.HealthPorts,
		NonMasquerade: slices.Clone(in.NonMasquerade), Ownership: p.Ownership}
	for _, x := range in.Underlay.Sources {
		s.Sources = append(s.Sources, servicelb.Source(x))
	}
	for _, f := range in.External { // an external peer receives Pods' packets with their own addresses
		s.NonMasquerade = append(s.NonMasquerade, f.AllowedIPs...)
		s.ExternalPeers = append(s.ExternalPeers, f.AllowedIPs...)
	}
	for _, b := range in.Blocks {
		switch f := model.FamilyOf(b.Addr()); {
		case f == model.IPv4 && !s.SNAT4.IsValid():
			s.PodNet4, s.SNAT4 = PodNetAddr(b), p.snatAddr(b)
		case f == model.IPv6 && !s.SNAT6.IsValid():
			s.PodNet6, s.SNAT6 = PodNetAddr(b), p.snatAddr(b)
		}
	}
	return s
}

// peerNodeAddrs are the other nodes' own addresses that are reached through the tunnel.
func (p *Plan) peerNodeAddrs(in *Input) (out []netip.Addr) {
	for _, peer := range p.Peers {
		for _, a := range peer.AllowedIPs {
			if a.IsSingleIP() && !peer.External && !netx.Contains(in.Cluster.PodCIDRs, a.Addr()) {
				out = append(out, a.Addr())
			}
		}
	}
	return out
}

// peerSNATAddrs are the SNAT addresses of the other nodes. A fallback SNAT address of another node is not known here.
func (p *Plan) peerSNATAddrs(in *Input) (out []netip.Addr) {
	for _, peer := range p.Peers {
		for _, a := range peer.AllowedIPs {
			if !peer.External && !a.IsSingleIP() && netx.Contains(in.Cluster.PodCIDRs, a.Addr()) {
				out = append(out, SNATAddr(a))
			}
		}
	}
	return out
}

// host is the prefix of a single address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// overTUN is a route over the TUN and the blackhole behind it.
func (in *Input) overTUN(table int, dst netip.Prefix, src netip.Addr) []hostnet.Route {
	return []hostnet.Route{
		{Table: table, Type: hostnet.Unicast, Dst: dst, Dev: in.Interface, Src: src},
		{Table: table, Type: hostnet.Blackhole, Dst: dst, Metric: blackholeMetric},
	}
}
