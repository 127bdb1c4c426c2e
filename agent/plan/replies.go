package plan

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
)

// The kernel evaluates rules one by one, twice per packet, about 15 ns each: 200 of them cost a third of the throughput between
// Pods of a node. So more than linearReplies ranges of ports are divided into groups. One rule at prefReplies covers the range
// of ports of a group, and a packet passes the rules of the ranges and those of one group (docs/decisions/0007).
const (
	linearReplies = 20
	maxGroups     = (prefICMP - prefGroups) / 2
)

// The number of rules does not grow with the ports of users' endpoints beyond these ranges per family. Ranges with the smallest gaps
// are merged then. Packets from ports in a gap pass the TUN, where the load balancer returns them or passes them to the peer.
const (
	maxReplyRanges     = maxGroups * maxGroups
	maxHostReplyRanges = 64
)

// lastPort is a port that no rule can name: the kernel refuses a range that ends in 65535 (fib_rule_port_range_valid). A rule
// for it names no ports and is behind one that exempts everyPort.
const lastPort = 65535

// everyPort is all ports that one rule can name.
var everyPort = hostnet.Ports{Lo: 1, Hi: lastPort - 1}

// nameable reports whether a rule can name a port. Port 0 is no port: a rule with it would match all packets.
func nameable(port uint16) bool { return port >= everyPort.Lo && port <= everyPort.Hi }

// portRange is consecutive target ports of one protocol.
type portRange struct {
	proto uint8
	ports hostnet.Ports
}

// replies redirects the replies of local backends, and ICMP to local Pods.
func (p *Plan) replies(in *Input, redirects servicelb.Redirects) {
	h := &p.Host
	for _, r := range in.Cluster.PodCIDRs {
		h.ObjectRules = append(h.ObjectRules, replyRules(r, redirects.PodPorts)...)
		h.ObjectRules = append(h.ObjectRules, hostReplyRules(r, redirects.HostPorts)...)
		h.ObjectRules = append(h.ObjectRules, fragmentRules(r, slices.Concat(in.Blocks, in.NonMasquerade), redirects.PodPorts)...)
	}
	p.lastPortProblems(in, redirects)
	p.mergedPortProblems("of Pods", redirects.PodPorts, maxReplyRanges)
	p.mergedPortProblems("of the node itself", redirects.HostPorts, maxHostReplyRanges)
	for _, b := range in.Blocks {
		icmp := [2]uint8{packet.ProtoICMP, packet.ProtoICMPv6}[model.FamilyOf(b.Addr())]
		h.Rules = append(h.Rules, hostnet.Rule{Pref: prefICMP, Family: model.FamilyOf(b.Addr()), To: b, Proto: icmp, Table: tableTUN})
	}
}

// replyRules are the rules that redirect replies of local backends to the TUN.
//
// The order matters: hostnet adds rules in it and removes them by preference. At every moment of a change each port that is in
// the old and in the new set stays redirected: the rules of a group are added before the rule that jumps to it, and removed
// after that one.
func replyRules(from netip.Prefix, targets []servicelb.Port) (out []hostnet.Rule) {
	rule := func(pref int, r portRange) hostnet.Rule {
		return hostnet.Rule{Pref: pref, Family: model.FamilyOf(from.Addr()), From: from, Proto: r.proto, Sport: r.ports}
	}
	ranges := coarsen(portRanges(targets), maxReplyRanges)
	if len(ranges) <= linearReplies {
		for _, r := range ranges {
			x := rule(prefReplies, r)
			x.Table = tableTUN
			out = append(out, x)
		}
		return out
	}
	out = append(out, hostnet.Rule{Pref: prefNoGroup, Family: model.FamilyOf(from.Addr()), Goto: prefICMP})
	var jumps []hostnet.Rule
	for i, g := range groupsOf(ranges) {
		pref := prefGroups + 2*i
		for _, r := range g {
			x := rule(pref, r)
			x.Table = tableTUN
			out = append(out, x)
		}
		out = append(out, hostnet.Rule{Pref: pref + 1, Family: model.FamilyOf(from.Addr()), Goto: prefICMP})
		x := rule(prefReplies, portRange{g[0].proto, hostnet.Ports{Lo: g[0].ports.Lo, Hi: g[len(g)-1].ports.Hi}})
		x.Goto = pref
		jumps = append(jumps, x)
	}
	return append(out, jumps...)
}

// hostReplyRules redirect the replies of backends that are the node itself. Only packets from the node to Pods pass the rules of the
// ports. These are added first and removed last.
func hostReplyRules(to netip.Prefix, targets []servicelb.Port) (out []hostnet.Rule) {
	f := model.FamilyOf(to.Addr())
	for _, r := range coarsen(portRanges(targets), maxHostReplyRanges) {
		out = append(out, hostnet.Rule{Pref: prefHostReplies, Family: f, IIF: "lo", To: to, Proto: r.proto, Sport: r.ports,
			Table: tableTUN})
	}
	if len(out) == 0 {
		return nil
	}
	return append(out, hostnet.Rule{Pref: prefNoHostReply, Family: f, Goto: prefPods},
		hostnet.Rule{Pref: prefFromHost, Family: f, IIF: "lo", To: to, Goto: prefHostReplies})
}

// coarsen merges ranges of the same protocol, those with the smallest gaps first, until there are at most that many.
func coarsen(ranges []portRange, most int) (out []portRange) {
	if len(ranges) <= most {
		return ranges
	}
	gap := func(i int) int { return int(ranges[i].ports.Lo) - int(ranges[i-1].ports.Hi) }
	var order []int // ranges that can be merged with the one before
	for i := 1; i < len(ranges); i++ {
		if ranges[i].proto == ranges[i-1].proto {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return gap(a) - gap(b) })
	merged := map[int]bool{}
	for _, i := range order[:min(len(order), len(ranges)-most)] {
		merged[i] = true
	}
	for i, r := range ranges {
		if merged[i] {
			out[len(out)-1].ports.Hi = r.ports.Hi
		} else {
			out = append(out, r)
		}
	}
	return out
}

// mergedPortProblems reports that ranges are merged.
func (p *Plan) mergedPortProblems(whose string, targets []servicelb.Port, most int) {
	if n := len(portRanges(targets)); n > most {
		p.problem("Services use %d separate target ports %s, and policy routing has rules for %d ranges: further packets pass the agent; "+
			"use fewer target ports", n, whose, most)
	}
}

// portRanges makes ranges of the sorted ports that rules can name; adjacent ports share one.
func portRanges(targets []servicelb.Port) (out []portRange) {
	for _, t := range targets {
		if !nameable(t.Port) {
			continue // 65535: fragmentRules
		}
		if n := len(out); n > 0 && out[n-1].proto == t.Proto && out[n-1].ports.Hi+1 == t.Port {
			out[n-1].ports.Hi = t.Port
			continue
		}
		out = append(out, portRange{t.Proto, hostnet.Ports{Lo: t.Port, Hi: t.Port}})
	}
	return out
}

// groupsOf divides ranges into about as many groups as each has ranges; no group has two protocols.
func groupsOf(ranges []portRange) (out [][]portRange) {
	var byProto [][]portRange
	for i, r := range ranges {
		if i == 0 || r.proto != ranges[i-1].proto {
			byProto = append(byProto, nil)
		}
		last := len(byProto) - 1
		byProto[last] = append(byProto[last], r)
	}
	groups := 1
	for groups < maxGroups-len(byProto) && groups*groups < len(ranges) {
		groups++
	}
	size := (len(ranges) + groups - 1) / groups
	for _, p := range byProto {
		n := (len(p) + size - 1) / size
		for i := range n {
			out = append(out, p[i*len(p)/n:(i+1)*len(p)/n])
		}
	}
	return out
}
