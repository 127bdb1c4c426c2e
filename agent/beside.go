package agent

import (
	"slices"
	"sort"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
)

// What a plan leaves to others while a cluster comes to warren or goes from it (docs/kubernetes.md): nodes without an agent
// to the network that knows the way to their Pods, and Services to a kube-proxy whose rules are in the kernel.

// prefPast leads to Pods once more, for what passes over the table of the world, and from there to the host's own tables.
const prefPast = 117

// tooEarly reports whether nothing can be planned yet: the host knows ways to other nodes' Pods, and which of those are
// warren's by now only a snapshot tells. Until there is one, these ways stand as they are.
func tooEarly(snap *model.Snapshot, under hostnet.Underlay) bool {
	return snap == noSnapshot && len(under.Elsewhere) > 0
}

func (p *plan) besideOthers(me self, snap *model.Snapshot, kubeProxy bool) {
	p.elsewhere(me, snap)
	if kubeProxy {
		p.leaveServices(me)
	}
}

// elsewhere lets what no node of warren's holds pass over the tables that lead to the TUN, where the host's own table has a
// gateway to it. What a node has claimed goes through the tunnel or nowhere, also while that node is away: it is never sent in
// clear. This begins when the node registers, which it does once its tunnel stands: at the moment of its claim all its Pods
// are still the other network's.
func (p *plan) elsewhere(me self, snap *model.Snapshot) {
	if snap == noSnapshot {
		return // nothing is known of claims
	}
	held := slices.Clone(me.Blocks)
	for _, b := range snap.Blocks {
		if _, registered := snap.Node(b.Node); registered {
			held = append(held, b.CIDR)
		}
	}
	for _, peer := range p.Peers {
		held = append(held, peer.AllowedIPs...)
	}
	for _, e := range me.Underlay.Elsewhere {
		if slices.ContainsFunc(held, e.Overlaps) {
			continue
		}
		for _, table := range []int{tableSteer, tablePods, tableWorld} {
			p.Host.Routes = append(p.Host.Routes, hostnet.Route{Table: table, Type: hostnet.Throw, Dst: e})
		}
	}
}

// leaveServices takes the steering of answers out of a plan. A kube-proxy translates before any routing, and so before
// warren. Its answers must stay out of the TUN: what comes out of there is a stranger to conntrack. Between Pods they do
// without steering; those to clients outside would meet the table of the world, which local backends' ports pass over. A
// packet from another node's Pod to the world is an answer, too: Pods' own go out at their own node.
func (p *plan) leaveServices(me self) {
	var rules []hostnet.Rule
	for _, r := range p.Host.Rules {
		switch {
		case r.Table == tableSteer && r.Pref >= prefReplies && r.Pref < prefICMP:
			r.Table, r.Goto = 0, prefPast
			rules = append(rules, r)
		case r.Table == tableSteer:
		case r.Pref == prefWorld:
			for _, b := range me.Blocks {
				if r.From.Overlaps(b) {
					rules = append(rules, hostnet.Rule{Pref: prefWorld, V6: r.V6, From: b, Table: tableWorld})
				}
			}
			past := hostnet.Rule{Pref: prefPast, V6: r.V6, Table: tablePods}
			if !slices.Contains(rules, past) {
				rules = append(rules, past)
			}
		default:
			rules = append(rules, r)
		}
	}
	p.Host.Rules = rules
	p.problem("a kube-proxy's rules are in the kernel: until they are removed, Services of this node are theirs")
	sort.Strings(p.Problems)
}

// seesKubeProxy looks for the chains of one. Where they cannot be listed there is none, as far as warren knows.
func (a *Agent) seesKubeProxy() bool {
	chains, err := hostnet.Chains()
	if err != nil {
		a.log.Warn("cannot look for a kube-proxy's rules", "err", err)
	}
	return slices.ContainsFunc(chains, hostnet.Chain.KubeProxy)
}
