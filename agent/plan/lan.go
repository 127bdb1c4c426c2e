package plan

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// The interface that a packet has arrived on decides which addresses it may have. Pods are verified at their veths and peers by
// the tunnel. On every other link, a packet from the Pod and Service ranges is forged, and one to them is refused unless a
// setting opens the range to its source. The Pod ranges contain the SNAT and Pod-net addresses.
//
// Packets of Pods and of the node pass one rule per link of Underlay.Outside, and two more. New links are covered by the apply that
// follows their notification.
func (p *Plan) lanRules(in *Input) {
	links := in.lanLinks()
	if len(links) == 0 {
		return
	}
	for _, f := range in.Families() {
		add := func(r hostnet.Rule) {
			r.Family = f
			p.Host.Rules = append(p.Host.Rules, r)
		}
		other, first := p.otherCNIRules(in, f), prefLANSource
		if len(other) > 0 {
			first = prefOtherCNI // the kernel skips a goto without a target
		}
		add(hostnet.Rule{Pref: prefLANEnd, IIF: in.Interface, Goto: prefPods})
		add(hostnet.Rule{Pref: prefNotLAN, Goto: prefLANEnd})
		for _, l := range links {
			add(hostnet.Rule{Pref: prefLAN, IIF: l, Goto: first})
		}
		p.Host.Rules = append(p.Host.Rules, other...)
		for _, r := range in.protectedRanges(f) {
			p.lanRule(in, hostnet.Rule{Pref: prefLANSource, Family: f, From: r, Type: hostnet.Blackhole})
		}
		p.openRules(in, f)
		for _, r := range in.protectedRanges(f) {
			if !in.otherNAT() || !slices.Contains(in.Cluster.PodCIDRs, r) {
				p.lanRule(in, hostnet.Rule{Pref: prefLANDestination, Family: f, To: r, Type: hostnet.Blackhole})
			}
		}
	}
	if in.otherNAT() {
		p.problem("another CNI plugin or a kube-proxy serves this node: packets from other machines to Pod addresses are not refused, " +
			"because its address translation cannot be distinguished from them")
	}
}

// lanRule adds a rule for a range. The Service ranges come from objects.
func (p *Plan) lanRule(in *Input, r hostnet.Rule) {
	if slices.Contains(in.Cluster.PodCIDRs, r.From) || slices.Contains(in.Cluster.PodCIDRs, r.To) {
		p.Host.Rules = append(p.Host.Rules, r)
		return
	}
	p.Host.ObjectRules = append(p.Host.ObjectRules, r)
}

func (in *Input) protectedRanges(f model.Family) (out []netip.Prefix) {
	for _, r := range slices.Concat(in.Cluster.PodCIDRs, in.Snapshot.ServiceCIDRs) {
		if model.FamilyOf(r.Addr()) == f && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// lanLinks are the links whose packets are verified: all but those of another CNI plugin.
func (in *Input) lanLinks() (out []string) {
	other := in.otherCNILinks()
	for _, l := range in.Underlay.Outside {
		if l != in.Interface && !slices.Contains(other, l) {
			out = append(out, l)
		}
	}
	return out
}

// otherCNILinks are the links of another CNI plugin: those with its names, and those that its routes use, unless the node's own
// addresses are on them.
func (in *Input) otherCNILinks() (out []string) {
	for _, l := range in.Underlay.Outside {
		routed := slices.Contains(in.Underlay.UnmanagedPodLinks, l) ||
			slices.ContainsFunc(in.Underlay.UnmanagedVia, func(v hostnet.Via) bool { return v.Link == l })
		if hostnet.IsCNILink(l) || routed && !slices.Contains(in.Underlay.AddressLinks, l) {
			out = append(out, l)
		}
	}
	return out
}

// otherCNIRules exempt the packets that another CNI plugin routes over the node's own links without a tunnel: those of its Pods
// on other nodes, and those of the nodes that it has as gateways.
func (p *Plan) otherCNIRules(in *Input, f model.Family) (rules []hostnet.Rule) {
	held := p.heldRanges(in)
	for _, v := range in.Underlay.UnmanagedVia {
		if model.FamilyOf(v.To.Addr()) != f || slices.ContainsFunc(held, v.To.Overlaps) || !slices.Contains(in.lanLinks(), v.Link) {
			continue
		}
		for _, from := range []netip.Prefix{v.To, host(v.Gateway)} {
			r := hostnet.Rule{Pref: prefOtherCNI, Family: f, From: from, IIF: v.Link, Goto: prefLANEnd}
			if !slices.Contains(rules, r) {
				rules = append(rules, r)
			}
		}
	}
	return rules
}

// openRules let packets to the ranges that settings open pass. Non-masquerade destinations reply to Pods' own addresses, and
// routers on the path to them send ICMP errors.
func (p *Plan) openRules(in *Input, f model.Family) {
	icmp := [2]uint8{packet.ProtoICMP, packet.ProtoICMPv6}[f]
	for _, r := range in.protectedRanges(f) {
		clients := in.ServiceClients
		if slices.Contains(in.Cluster.PodCIDRs, r) {
			clients = in.NonMasquerade
			if slices.ContainsFunc(in.NonMasquerade, func(n netip.Prefix) bool { return model.FamilyOf(n.Addr()) == f }) {
				p.lanRule(in, hostnet.Rule{Pref: prefLANOpen, Family: f, To: r, Proto: icmp, Goto: prefLANEnd})
			}
		}
		for _, c := range clients {
			if model.FamilyOf(c.Addr()) == f {
				p.lanRule(in, hostnet.Rule{Pref: prefLANOpen, Family: f, From: c, To: r, Goto: prefLANEnd})
			}
		}
	}
}

// otherNAT reports whether another program may translate packets to Pod addresses before they are routed: a kube-proxy, or the
// masquerading of another CNI plugin.
func (in *Input) otherNAT() bool {
	return in.KubeProxy || len(in.Underlay.UnmanagedPods) > 0 || len(in.Underlay.UnmanagedRemote) > 0
}

// learnedRoutes reports routes inside the Pod ranges that belong to no other CNI plugin: they have no effect.
func (p *Plan) learnedRoutes(in *Input) {
	for _, r := range in.Underlay.IgnoredRoutes {
		p.problem("the host has a route %s inside the Pod ranges that is not of another CNI plugin: it is not used; delete it, and "+
			"refuse routes from router advertisements and DHCP on that link", r)
	}
	if links := in.otherCNILinks(); len(links) > 0 && in.otherNAT() {
		p.problem("another CNI plugin has the links %s: the addresses of packets from them are not verified; remove the plugin after the "+
			"migration", strings.Join(links, ", "))
	}
}
