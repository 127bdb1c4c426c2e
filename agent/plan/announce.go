package plan

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
	"github.com/warrennet/warren/internal/ownership"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/tunnel"
)

// announced decides which load balancer addresses the nodes announce, and on which links this node does. Without Kubernetes
// the store allocates every address of a Service of warren's class. With Kubernetes another controller may have allocated
// some; only those that warren allocated are announced.
//
// A node without links announces nothing. It takes part all the same: it receives the other nodes' heartbeats and shows which
// node announces an address.
func (p *Plan) announced(in *Input) (d announce.Desired) {
	if len(in.Blocks) == 0 {
		return d
	}
	d.Self, d.Device = PodNetAddr(in.Blocks[0]), in.Interface
	d.Peers = announcePeers(in, p.Peers, model.FamilyOf(d.Self))
	for x, nodes := range p.announcedAddrs(in) {
		d.Addresses = append(d.Addresses, announce.Address{Addr: x, Nodes: nodes})
	}
	slices.SortFunc(d.Addresses, func(a, b announce.Address) int { return a.Addr.Compare(b.Addr) })
	if len(d.Addresses) > 0 && in.Announce {
		d.Links, d.AnyLink = in.Links, in.AnnounceLinks
	}
	return d
}

// announcePeers are the other nodes, each with its Pod-net address of a family.
func announcePeers(in *Input, peers []tunnel.Peer, f model.Family) (out []announce.Peer) {
	for _, p := range peers {
		for _, c := range p.AllowedIPs {
			if !p.External && netx.Contains(in.Cluster.PodCIDRs, c.Addr()) && model.FamilyOf(c.Addr()) == f {
				out = append(out, announce.Peer{Name: p.Name, Addr: PodNetAddr(c), Key: p.PublicKey, NextKey: p.NextKey})
				break
			}
		}
	}
	return out
}

// announcedAddrs has the nodes that may announce each address; nil means every node. With externalTrafficPolicy Local these
// are the nodes with a ready endpoint, and for an address that several such Services share the nodes that have one of each.
func (p *Plan) announcedAddrs(in *Input) map[netip.Addr][]string {
	snap := in.Snapshot
	out := map[netip.Addr][]string{}
	for i := range snap.Services {
		s := &snap.Services[i]
		if !lbpool.Ours(s) || s.OtherProxy || len(s.LBAddresses) == 0 {
			continue
		}
		var local []string
		if s.ExternalPolicy == model.PolicyLocal {
			local = readyNodes(snap, s.ObjectName)
		}
		for _, x := range s.LBAddresses {
			if p.Ownership.RefuseAddress(ownership.LoadBalancer, x) != "" || in.Kubernetes && !lbpool.Given(s, x, snap.Pools) {
				continue
			}
			have, shared := out[x]
			switch {
			case shared && local != nil && have != nil:
				out[x] = slices.DeleteFunc(slices.Clone(have), func(n string) bool { return !slices.Contains(local, n) })
			case local != nil || !shared:
				out[x] = local
			}
		}
	}
	return out
}

// readyNodes are the nodes with a ready endpoint of a Service; never nil.
func readyNodes(snap *model.Snapshot, service model.ObjectName) []string {
	out := []string{}
	for i := range snap.Slices {
		x := &snap.Slices[i]
		if x.Namespace != service.Namespace || x.Service != service.Name {
			continue
		}
		for _, e := range x.Endpoints {
			if e.Ready && e.Node != "" && !slices.Contains(out, e.Node) {
				out = append(out, e.Node)
			}
		}
	}
	slices.Sort(out)
	return out
}
