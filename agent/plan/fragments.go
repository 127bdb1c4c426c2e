package plan

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
)

// fragmentRules redirect fragments of UDP and SCTP between Pods of this node, and from Pods to non-masquerade destinations. No
// rule that names ports matches a fragment, not even the first one of a datagram. So the rule at prefFragments names no ports,
// and the rule at prefWholeDatagrams exempts whole datagrams. A whole datagram from port 65535 is redirected, too, and passes
// unchanged. To all other destinations fragments are routed over the TUN anyway.
func fragmentRules(from netip.Prefix, to []netip.Prefix, targets []servicelb.Port) (out []hostnet.Rule) {
	f := model.FamilyOf(from.Addr())
	for _, proto := range []uint8{packet.ProtoUDP, packet.ProtoSCTP} {
		if !slices.ContainsFunc(targets, func(t servicelb.Port) bool { return t.Proto == proto }) {
			continue
		}
		out = append(out, hostnet.Rule{Pref: prefWholeDatagrams, Family: f, From: from, Proto: proto, Sport: everyPort, Goto: prefReplies})
		for _, b := range to {
			if model.FamilyOf(b.Addr()) == f {
				out = append(out, hostnet.Rule{Pref: prefFragments, Family: f, From: from, To: b, Proto: proto, Table: tableTUN})
			}
		}
	}
	return out
}

// reassembled are the UDP ports of the node that rules redirect to the TUN; no host program has one of them. Fragments to
// them reach the node's own stack instead, which reassembles them: a rule for fragments would redirect the host's own ones,
// too, those of the tunnel among them.
func (p *Plan) reassembled(in *Input) []hostnet.Ports {
	out := append(except(masqueradePorts, p.ReservedPorts), hostnet.Ports{Lo: nodePorts[0], Hi: nodePorts[1]})
	var further []uint16
	for _, x := range in.Pods {
		for _, h := range x.HostPorts {
			covered := slices.ContainsFunc(out, func(r hostnet.Ports) bool { return r.Lo <= h.HostPort && h.HostPort <= r.Hi })
			if h.Protocol == model.UDP && !covered {
				further = append(further, h.HostPort)
			}
		}
	}
	slices.Sort(further)
	for _, n := range slices.Compact(further) {
		out = append(out, hostnet.Ports{Lo: n, Hi: n})
	}
	return out
}
