package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
	"github.com/warrennet/warren/internal/ownership"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/servicelb/announce"
)

// Control is an address that the agent itself connects to, such as a server of the store, or a port that it serves.
type Control struct {
	Addr netip.Addr // zero for a port that the agent serves
	Port uint16     // TCP port, 0 for none: no object may have it where Addr is zero or this node's own
	Use  string     // such as "address of an etcd server"
}

// ownPorts are ports of the node that warren uses or that Kubernetes tools expect, besides those that the configuration names.
var ownPorts = map[ownership.Port]string{
	{Proto: model.UDP, Port: announce.Port}: "used by warren for heartbeats of the nodes that announce addresses",
	{Proto: model.TCP, Port: 9551}:          "used by warren for metrics",
	{Proto: model.TCP, Port: 53}:            "used by warren for cluster DNS",
	{Proto: model.UDP, Port: 53}:            "used by warren for cluster DNS",
	{Proto: model.TCP, Port: 10249}:         "used by warren for the metrics of kube-proxy",
	{Proto: model.TCP, Port: 10256}:         "used by warren for the health of kube-proxy",
	{Proto: model.TCP, Port: 2379}:          "a port of etcd",
	{Proto: model.TCP, Port: 2380}:          "a port of etcd",
	{Proto: model.TCP, Port: 52379}:         "a port of warren's etcd",
	{Proto: model.TCP, Port: 52380}:         "a port of warren's etcd",
}

// loopbacks may be the hostIP of a host port.
var loopbacks = []netip.Addr{model.IPv4.Loopback(), model.IPv6.Loopback()}

// ownershipRules are what no object may own.
func (p *Plan) ownershipRules(in *Input) ownership.Rules {
	r := ownership.Rules{PodRanges: in.Cluster.PodCIDRs, ServiceRanges: in.Snapshot.ServiceCIDRs, ExternalIPs: in.ExternalIPs,
		NodeAddrs: slices.Concat(in.nodePortAddrs(), in.Underlay.Addrs, loopbacks), NodeUses: map[ownership.Port]string{},
		Needed: map[netip.Addr]string{}}
	for port, use := range ownPorts {
		r.NodeUses[port] = use
	}
	r.NodeUses[ownership.Port{Proto: model.UDP, Port: in.Port}] = "the port of warren's tunnel"
	need := func(a netip.Addr, use string) {
		if _, known := r.Needed[a]; !known && a.IsValid() {
			r.Needed[a] = use
		}
	}
	for _, a := range in.Underlay.Addrs {
		need(a, "address of this node")
	}
	assigned := slices.Concat(in.Cluster.PodCIDRs, in.Snapshot.ServiceCIDRs)
	for _, c := range in.Control {
		// An API server or a DNS server can be reached through a Service as well: such an address has the owner that the cluster
		// has assigned it to.
		if !netx.Contains(assigned, c.Addr) {
			need(c.Addr, c.Use)
		}
		if c.Port != 0 && (!c.Addr.IsValid() || slices.Contains(r.NodeAddrs, c.Addr)) {
			r.NodeUses[ownership.Port{Proto: model.TCP, Port: c.Port}] = "used as " + c.Use
		}
	}
	for _, a := range in.DNS {
		need(a, "address of cluster DNS")
	}
	for _, peer := range p.Peers {
		for _, a := range peer.AllowedIPs {
			if a.IsSingleIP() && !peer.External && !netx.Contains(in.Cluster.PodCIDRs, a.Addr()) {
				need(a.Addr(), "address of node "+peer.Name)
			}
		}
		for _, e := range peer.Endpoints {
			need(e.Addr(), "tunnel endpoint of peer "+peer.Name)
		}
	}
	for _, a := range in.Underlay.Gateways {
		need(a, "default gateway of this node")
	}
	return r
}

// permittedHostPorts returns the Pods without the host ports that they may not have. The table reports those.
func (p *Plan) permittedHostPorts(pods []Pod) []Pod {
	out := slices.Clone(pods)
	for i := range out {
		out[i].HostPorts = slices.DeleteFunc(slices.Clone(out[i].HostPorts), func(h model.HostPort) bool {
			return p.Ownership.RefuseNodePort(h.HostIP, ownership.Port{Proto: h.Protocol, Port: h.HostPort}) != ""
		})
	}
	return out
}

// maxRefusals is how many refusals of one object are named in its problem.
const maxRefusals = 3

// refusals reports the addresses and ports that objects claim and do not have, one problem for each object.
func (p *Plan) refusals() {
	list := p.Table.Refusals()
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].Object == list[0].Object && isPod(&list[n]) == isPod(&list[0]) {
			n++
		}
		p.problem("%s", refusalText(list[:n]))
		list = list[n:]
	}
}

func isPod(r *servicelb.Refusal) bool { return r.Class == ownership.HostPort }

// refusalText describes the refusals of one object.
func refusalText(list []servicelb.Refusal) string {
	kind := "Service"
	if isPod(&list[0]) {
		kind = "Pod"
	}
	var parts []string
	for i := range list[:min(len(list), maxRefusals)] {
		r := &list[i]
		parts = append(parts, fmt.Sprintf("%s %s is ignored: %s", r.Class, r.At(), r.Reason))
	}
	text := fmt.Sprintf("%s %s: %s", kind, list[0].Object, strings.Join(parts, "; "))
	if more := len(list) - maxRefusals; more > 0 {
		text += fmt.Sprintf("; and %d more (`warren services` lists them)", more)
	}
	return text
}
