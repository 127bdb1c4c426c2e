package plan

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
)

// fragmentRules redirect two kinds of packets between Pods of this node, and from Pods to non-masquerade destinations:
//
//   - Fragments of UDP and SCTP. No rule that names ports matches a fragment, not even the first one of a datagram.
//   - Packets from port 65535, which no rule can name (lastPort).
//
// So the rule at prefFragments names no ports, and the rule at prefWholeDatagrams exempts whole packets from all other ports. A
// packet from port 65535 that is no reply passes unchanged. To all other destinations both kinds are routed over the TUN anyway.
//
// The exemption continues at the reply rules, or behind them if there are none: the kernel skips a goto without a target.
func fragmentRules(from netip.Prefix, to []netip.Prefix, targets []servicelb.Port) (out []hostnet.Rule) {
	f, next := model.FamilyOf(from.Addr()), prefReplies
	if len(portRanges(targets)) == 0 {
		next = prefICMP
	}
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
		needed := func(t servicelb.Port) bool {
			return t.Proto == proto && (proto != packet.ProtoTCP || t.Port == lastPort)
		}
		if !slices.ContainsFunc(targets, needed) {
			continue
		}
		out = append(out, hostnet.Rule{Pref: prefWholeDatagrams, Family: f, From: from, Proto: proto, Sport: everyPort, Goto: next})
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
