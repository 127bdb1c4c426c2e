package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
)

// services adds the rules and routes that redirect Service traffic and egress to the TUN.
func (p *Plan) services(in *Input, redirects servicelb.Redirects) {
	h := &p.Host
	h.LocalPref = prefLocal
	for _, f := range in.Families() {
		p.portRules(in, f)
		h.Rules = append(h.Rules, hostErrorRules(f)...)
		// The source address: a UDP server of the host that is bound to the unspecified address answers from the one that
		// the route prefers. It must be the address that other nodes and endpoints have for this node.
		h.Routes = append(h.Routes, in.overTUN(tableTUN, f.Default(), in.nodeAddr(f))...)
		h.Routes = append(h.Routes, in.overTUN(tableEgress, f.Default(), netip.Addr{})...)
	}
	for _, b := range in.Blocks {
		h.Routes = append(h.Routes, in.blockRoutes(b)...)
		h.Routes = append(h.Routes, in.overTUN(tablePods, host(p.snatAddr(b)), netip.Addr{})...)
	}
	p.replies(in, redirects)
	p.hostPorts(in)
	p.externalIPs(in, redirects.ExternalPorts)
	p.serviceRoutes(in, redirects.ServiceAddrs)
	h.Sysctls = append(h.Sysctls, in.serviceSysctls()...)
}

// portRules redirect node ports and masquerade ports.
func (p *Plan) portRules(in *Input, f model.Family) {
	served := hostnet.Ports{Lo: nodePorts[0], Hi: nodePorts[1]}
	p.Host.Rules = append(p.Host.Rules,
		hostnet.Rule{Pref: prefFromTUNLocal, Family: f, IIF: in.Interface, Table: tableLocal},
		hostnet.Rule{Pref: prefFromTUNSkip, Family: f, IIF: in.Interface, Goto: prefPods},
		hostnet.Rule{Pref: prefOwnDatagrams, Family: f, IIF: "lo", Proto: packet.ProtoUDP, Dport: served, Table: tableOwnDatagrams})
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
		p.Host.Rules = append(p.Host.Rules, hostnet.Rule{Pref: prefPorts, Family: f, Proto: proto, Dport: served, Table: tableNodePorts})
		for _, ports := range except(masqueradePorts, p.ReservedPorts) {
			p.Host.Rules = append(p.Host.Rules, hostnet.Rule{Pref: prefPorts, Family: f, Proto: proto, Dport: ports,
				Table: tableMasquerade})
		}
	}
}

// hostErrorRules redirect two kinds of ICMP errors that the node's kernel makes for external clients:
//
//   - Packet-too-big about a translated packet that is too large for a Pod's link. It must name the address that the client
//     used.
//   - Port unreachable about a datagram that the kernel has reassembled and the agent has taken over. The load balancer drops
//     it.
//
// For a route lookup of its own ICMP the kernel stores type and code where other protocols have the destination port, the type
// in the upper byte.
func hostErrorRules(f model.Family) []hostnet.Rule {
	r := hostnet.Rule{Pref: prefHostErrors, IIF: "lo", Proto: packet.ProtoICMP, Table: tableTUN,
		Dport: hostnet.Ports{Lo: 3<<8 | 3, Hi: 3<<8 | 4}} // destination unreachable: port, fragmentation needed
	if f == model.IPv4 {
		return []hostnet.Rule{r}
	}
	r.Family, r.Proto = model.IPv6, packet.ProtoICMPv6
	r.Dport = hostnet.Ports{Lo: 1<<8 | 4, Hi: 2 << 8} // from port unreachable (1, 4) to packet too big (2, 0)
	link := r
	link.Pref, link.From, link.Table = prefLinkLocalErrors, linkLocal, tableMain
	return []hostnet.Rule{link, r}
}

// maxHostPorts bounds the host ports of this node's Pods: all packets of the node pass their rules.
const maxHostPorts = 256

// hostPorts redirects the host ports of local Pods like node ports.
func (p *Plan) hostPorts(in *Input) {
	seen := map[servicelb.Port]bool{}
	for _, x := range in.Pods {
		excess := 0
		for _, m := range x.HostPorts {
			port := servicelb.Port{Proto: uint8(m.Protocol), Port: m.HostPort}
			switch {
			case m.HostPort == 0 || seen[port] || m.HostPort >= nodePorts[0] && m.HostPort <= nodePorts[1]: // redirected already
			case m.HostPort == lastPort && m.Protocol == model.UDP:
				p.problem("Pod %s: hostPort 65535/UDP cannot be redirected: the kernel has no rule for it that spares fragments; "+
					"use another hostPort", in.podName(x))
			case len(seen) == maxHostPorts:
				excess++
			default:
				seen[port] = true
				if in.has(model.IPv4) {
					p.Host.LocalPorts = append(p.Host.LocalPorts, hostnet.LocalPort{Proto: uint8(m.Protocol), Port: m.HostPort})
				}
			}
		}
		if excess > 0 {
			p.problem("Pod %s: %d of its host ports are not redirected: Pods of this node have %d host ports already; use a Service",
				in.podName(x), excess, maxHostPorts)
		}
	}
	ports := slices.SortedFunc(maps.Keys(seen), servicelb.Port.Compare)
	ranges := portRanges(ports)
	for _, t := range ports {
		if t.Port == lastPort {
			ranges = append(ranges, portRange{t.Proto, hostnet.Ports{Lo: lastPort, Hi: lastPort}})
		}
	}
	for _, r := range ranges {
		for _, f := range in.Families() {
			p.Host.ObjectRules = append(p.Host.ObjectRules, hostPortRules(hostnet.Rule{Pref: prefPorts, Family: f, Proto: r.proto,
				Dport: r.ports, Table: tableNodePorts})...)
		}
	}
}

// hostPortRules are the rules that redirect one host port. Port 65535, which no rule can name, takes two: one that exempts all
// other ports, and one that names none. The second also redirects fragments, which the load balancer returns to the node.
func hostPortRules(r hostnet.Rule) []hostnet.Rule {
	if nameable(r.Dport.Lo) {
		return []hostnet.Rule{r}
	}
	exempt := r
	exempt.Pref, exempt.Dport, exempt.Table, exempt.Goto = prefOtherPorts, everyPort, 0, prefLocal
	r.Pref, r.Dport = prefLastPort, hostnet.Ports{}
	return []hostnet.Rule{exempt, r}
}

// refusedEndpoints reports the endpoints that the table does not use, one problem per Service.
func (p *Plan) refusedEndpoints() {
	list := p.Table.Refused()
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].Service == list[0].Service {
			n++
		}
		more := ""
		if n > 1 {
			more = fmt.Sprintf(" (and %d more)", n-1)
		}
		p.problem("Service %s: the endpoint %s%s is not used, because it %s: a packet to it would be load-balanced a second time; "+
			"use the addresses of its backends", list[0].Service, list[0].Endpoint, more, list[0].Reason)
		list = list[n:]
	}
}

// podName is the name of a local Pod, or its first address if the snapshot has no such Pod.
func (in *Input) podName(x Pod) string {
	if len(x.Addrs) == 0 {
		return x.Link
	}
	for i := range in.Snapshot.Pods {
		if slices.Contains(in.Snapshot.Pods[i].Addrs, x.Addrs[0]) {
			return in.Snapshot.Pods[i].String()
		}
	}
	return x.Addrs[0].String()
}

// lastPortProblems reports what cannot be served at port 65535. The load balancer excludes such backends on the node itself:
// a rule for all their replies would also match lookups without a port, and so change the source address of connections that
// the host opens.
func (p *Plan) lastPortProblems(in *Input, redirects servicelb.Redirects) {
	if in.KubeProxy && slices.ContainsFunc(redirects.PodPorts, func(t servicelb.Port) bool { return t.Port == lastPort }) {
		p.problem("a local Pod serves target port 65535: while a kube-proxy's rules are in the kernel, its replies to clients outside " +
			"of the cluster are lost; use another port")
	}
	for i := range in.Snapshot.Slices {
		x := &in.Snapshot.Slices[i]
		if x.OtherProxy || !slices.ContainsFunc(x.Ports, func(n model.EndpointPort) bool { return n.Port == lastPort }) {
			continue
		}
		for _, e := range x.Endpoints {
			if slices.Contains(in.Underlay.Addrs, e.Addr) {
				p.problem("Service %s/%s: this node does not use the endpoint %s:65535 on itself, because the kernel has no rule for "+
					"replies from that port; use another port", x.Namespace, x.Service, e.Addr)
			}
		}
	}
}
