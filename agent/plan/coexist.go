package plan

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
)

// While a cluster migrates to warren or away from it (docs/kubernetes.md), a plan leaves two things to other programs: Pods of
// nodes without an agent to the CNI plugin that has routes to them, and Services to a kube-proxy whose rules are in the kernel.

func (p *Plan) coexist(in *Input) {
	p.otherNetworks(in)
	if in.KubeProxy {
		p.kubeProxyRules(in)
		p.problem("a kube-proxy's rules are in the kernel: until they are removed, it serves the Services of this node")
	}
}

// otherNetworks lets packets to Pod CIDRs that no node of warren holds skip the tables with routes to the TUN, where the host's
// own routing table has a gateway for them. Packets to a CIDR that a node has claimed go through the tunnel or are dropped, also
// while that node is unreachable: they are never sent in clear. A claim counts from the moment when the node registers, which it
// does once its tunnel is up: when it claims its block, all its Pods are still unmanaged.
func (p *Plan) otherNetworks(in *Input) {
	if in.Snapshot == noSnapshot {
		return // no claim is known yet
	}
	held := p.heldRanges(in)
	for _, dst := range in.Underlay.UnmanagedRemote {
		if slices.ContainsFunc(held, dst.Overlaps) {
			continue
		}
		for _, table := range []int{tableTUN, tablePods, tableEgress} {
			p.Host.ObjectRoutes = append(p.Host.ObjectRoutes, hostnet.Route{Table: table, Type: hostnet.Throw, Dst: dst})
		}
	}
}

// heldRanges are the blocks and addresses of nodes that are registered, of peers and of this node.
func (p *Plan) heldRanges(in *Input) []netip.Prefix {
	held := slices.Clone(in.Blocks)
	for _, b := range in.Snapshot.Blocks {
		if _, registered := in.Snapshot.Node(b.Node); registered {
			held = append(held, b.CIDR)
		}
	}
	for _, peer := range p.Peers {
		held = append(held, peer.AllowedIPs...)
	}
	return held
}

// kubeProxyRules replaces the rules that redirect replies to the TUN. A kube-proxy translates packets before they are routed,
// and so before warren. Replies of its backends must not pass the TUN: packets from there have no entry in the kernel's
// connection tracking (ctstate INVALID).
//
//   - Between Pods no redirection is needed.
//   - Replies to external clients would match the rule for egress. Those from ports of local backends skip it.
//   - A packet from a Pod of another node to an external network is a reply, too: Pods' own packets leave the cluster at their
//     own node. So the rule for egress matches this node's blocks only.
func (p *Plan) kubeProxyRules(in *Input) {
	var rules, objectRules []hostnet.Rule
	for _, r := range p.Host.ObjectRules {
		switch {
		case r.Table == tableTUN && r.Pref >= prefReplies && r.Pref < prefICMP:
			r.Table, r.Goto = 0, prefPodsAgain
			objectRules = append(objectRules, r)
		case r.Table == tableTUN:
		default:
			objectRules = append(objectRules, r)
		}
	}
	for _, r := range p.Host.Rules {
		switch {
		case r.Table == tableTUN:
		case r.Pref == prefEgress:
			for _, b := range in.Blocks {
				if r.From.Overlaps(b) {
					rules = append(rules, hostnet.Rule{Pref: prefEgress, Family: r.Family, From: b, Table: tableEgress})
				}
			}
			again := hostnet.Rule{Pref: prefPodsAgain, Family: r.Family, Table: tablePods}
			if !slices.Contains(rules, again) {
				rules = append(rules, again)
			}
		default:
			rules = append(rules, r)
		}
	}
	p.Host.Rules, p.Host.ObjectRules = rules, objectRules
}
