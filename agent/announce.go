package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/tunnel"
)

// announceLB announces load balancer addresses until ctx ends.
func (a *Agent) announceLB(ctx context.Context) error {
	x := announce.New(a.cfg.NodeName, announce.Timing{}, a.log)
	a.announcer.Store(x)
	a.kick()
	return x.Run(ctx)
}

// setAnnounced tells the announcer what a plan means for it.
func (a *Agent) setAnnounced(me self, snap *model.Snapshot, peers []tunnel.Peer) {
	x := a.announcer.Load()
	if x == nil {
		return
	}
	d := announced(me, snap, peers, a.kube != nil)
	// A node without links announces nothing, but the others hear of it and know what it sees.
	if len(d.Addresses) > 0 && a.cfg.LBAnnounce {
		d.Links, d.Any = a.lans(me.Underlay.Links, me.Underlay.Addrs), len(a.cfg.LBInterfaces) > 0
	}
	x.Set(d)
}

// announced is pure: which addresses the nodes of the cluster announce, and who they are. In clusters without Kubernetes
// the store gives out every address that a Service of warren's class has; elsewhere another controller may have, and
// only those that warren gave are announced.
func announced(me self, snap *model.Snapshot, peers []tunnel.Peer, others bool) (d announce.Desired) {
	if len(me.Blocks) == 0 {
		return d
	}
	d.Self = PodNetAddr(me.Blocks[0])
	for _, p := range peers {
		for _, c := range p.AllowedIPs {
			if !p.Foreign && inRanges(me.Cluster.PodCIDRs, c.Addr()) && c.Addr().Is4() == d.Self.Is4() {
				d.Peers = append(d.Peers, announce.Peer{Name: p.Name, Addr: PodNetAddr(c)})
				break
			}
		}
	}
	nodes := map[netip.Addr][]string{} // nil: all
	for i := range snap.Services {
		s := &snap.Services[i]
		if !lbpool.Ours(s) || s.Foreign || len(s.LBAddresses) == 0 {
			continue
		}
		var local []string
		if s.ExternalPolicy == model.PolicyLocal {
			local = readyNodes(snap, s.ObjectName)
		}
		for _, x := range s.LBAddresses {
			if reservedAddr(me, snap, x) || others && !lbpool.Given(s, x, snap.Pools) {
				continue
			}
			have, shared := nodes[x]
			switch {
			case shared && local != nil && have != nil:
				nodes[x] = slices.DeleteFunc(slices.Clone(have), func(n string) bool { return !slices.Contains(local, n) })
			case local != nil || !shared:
				nodes[x] = local
			}
		}
	}
	for x, list := range nodes {
		d.Addresses = append(d.Addresses, announce.Address{Addr: x, Nodes: list})
	}
	slices.SortFunc(d.Addresses, func(a, b announce.Address) int { return a.Addr.Compare(b.Addr) })
	return d
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

// reservedAddr: whatever a status says, the cluster's own addresses are not announced.
func reservedAddr(me self, snap *model.Snapshot, a netip.Addr) bool {
	if inRanges(me.Cluster.PodCIDRs, a) || inRanges(snap.ServiceCIDRs, a) || slices.Contains(me.Underlay.Addrs, a) {
		return true
	}
	return slices.ContainsFunc(snap.Nodes, func(n model.Node) bool { return slices.Contains(n.Addresses, a) })
}

// lans are the links to announce on: those named in the configuration, else those with an address of the node. Links
// without carrier count for nothing.
func (a *Agent) lans(links []string, addrs []netip.Addr) (out []announce.Link) {
	if len(a.cfg.LBInterfaces) > 0 {
		links = a.cfg.LBInterfaces
	}
	for _, name := range links {
		ifc, err := net.InterfaceByName(name)
		if err != nil || ifc.Flags&net.FlagUp == 0 || ifc.Flags&net.FlagRunning == 0 {
			continue
		}
		l := announce.Link{Name: name, Index: ifc.Index, MAC: ifc.HardwareAddr}
		own := len(a.cfg.LBInterfaces) > 0
		list, _ := ifc.Addrs() // a link that went away meanwhile has none
		for _, x := range list {
			p, err := netip.ParsePrefix(x.String())
			if err != nil {
				continue
			}
			own = own || slices.Contains(addrs, p.Addr())
			if !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() {
				l.Subnets = append(l.Subnets, p.Masked())
			}
		}
		if own {
			out = append(out, l)
		}
	}
	return out
}

// announceProblems are what stands between this node and its announcements.
func (a *Agent) announceProblems() (out []string) {
	x := a.announcer.Load()
	if x == nil {
		return nil
	}
	v := x.View()
	for _, s := range v.Addresses {
		if s.Note != "" && s.Owner == "" {
			out = append(out, fmt.Sprintf("load balancer address %s: %s", s.Addr, s.Note))
		} else if s.Note != "" && s.State == "announcing" {
			out = append(out, fmt.Sprintf("load balancer address %s, announced here: %s", s.Addr, s.Note))
		}
	}
	if len(v.Addresses) == 0 {
		return out
	}
	// With proxy ARP the kernel of every node would answer for an address that is routed to the tunnel.
	for _, l := range v.Links {
		for _, f := range []string{"ipv4/conf/all/proxy_arp", "ipv4/conf/" + l + "/proxy_arp"} {
			if raw, err := os.ReadFile(filepath.Join(a.cfg.ProcSysNet, f)); err == nil && strings.TrimSpace(string(raw)) == "1" {
				out = append(out, fmt.Sprintf("sysctl net/%s is 1: this node answers ARP for load balancer addresses that other nodes announce", f))
			}
		}
	}
	return out
}
