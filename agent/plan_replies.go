package agent

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
)

// The kernel walks rules one by one, twice for each packet, about 15 ns each: 200 of them cost a third of the throughput
// between Pods of a node. So beyond linearReplies the ports are cut into blocks, each behind one rule at prefReplies that covers
// the block's range of ports: a packet passes the rules of the ranges and those of one block.
const (
	linearReplies = 20
	prefElse      = 74 // what no range has passes over all blocks
	prefBlocks    = 75 // block i: its ports at 75+2i, at 76+2i the way out
	maxBlocks     = (prefICMP - prefBlocks) / 2

	prefHasPorts  = 71 // datagrams whose ports the kernel sees pass over
	prefFragments = 72 // the rule for those that it cannot see
)

// everyPort is all ports that one rule can name.
var everyPort = hostnet.Ports{Lo: 1, Hi: 65534}

// portRange is consecutive target ports of one protocol.
type portRange struct {
	proto uint8
	ports hostnet.Ports
}

// steerReplies makes the rules that bring what local backends answer to the TUN.
//
// The order matters: hostnet adds in it and removes by preference. At every moment of a change each port that was and
// is a target stays steered: what a block holds is there before a packet is sent to it, and stays until none is.
func steerReplies(from netip.Prefix, targets []servicelb.Port) (out []hostnet.Rule) {
	rule := func(pref int, r portRange) hostnet.Rule {
		return hostnet.Rule{Pref: pref, V6: from.Addr().Is6(), From: from, Proto: r.proto, Sport: r.ports}
	}
	ranges := joinPorts(targets)
	if len(ranges) <= linearReplies {
		for _, r := range ranges {
			x := rule(prefReplies, r)
			x.Table = tableSteer
			out = append(out, x)
		}
		return out
	}
	out = append(out, hostnet.Rule{Pref: prefElse, V6: from.Addr().Is6(), Goto: prefICMP})
	var dispatch []hostnet.Rule
	for i, b := range blocksOf(ranges) {
		pref := prefBlocks + 2*i
		for _, r := range b {
			x := rule(pref, r)
			x.Table = tableSteer
			out = append(out, x)
		}
		out = append(out, hostnet.Rule{Pref: pref + 1, V6: from.Addr().Is6(), Goto: prefICMP})
		x := rule(prefReplies, portRange{b[0].proto, hostnet.Ports{Lo: b[0].ports.Lo, Hi: b[len(b)-1].ports.Hi}})
		x.Goto = pref
		dispatch = append(dispatch, x)
	}
	return append(out, dispatch...)
}

// steerFragments brings the fragments of UDP and SCTP to other Pods of this node, and to what sees Pods as they are, to the TUN:
// no rule that names ports matches one, not even the first. So the rule names none, and whole datagrams pass over it. Towards
// everything else the TUN is on the fragments' way already. A whole one from port 65535 is taken along, which does it no harm.
func steerFragments(from netip.Prefix, past []netip.Prefix, targets []servicelb.Port) (out []hostnet.Rule) {
	six := from.Addr().Is6()
	for _, proto := range []uint8{packet.ProtoUDP, packet.ProtoSCTP} {
		if !slices.ContainsFunc(targets, func(t servicelb.Port) bool { return t.Proto == proto }) {
			continue
		}
		out = append(out, hostnet.Rule{Pref: prefHasPorts, V6: six, From: from, Proto: proto, Sport: everyPort, Goto: prefReplies})
		for _, b := range past {
			if b.Addr().Is6() == six {
				out = append(out, hostnet.Rule{Pref: prefFragments, V6: six, From: from, To: b, Proto: proto, Table: tableSteer})
			}
		}
	}
	return out
}

// joinPorts makes ranges of the sorted ports; neighbours share one.
func joinPorts(targets []servicelb.Port) (out []portRange) {
	for _, t := range targets {
		if n := len(out); n > 0 && out[n-1].proto == t.Proto && out[n-1].ports.Hi+1 == t.Port {
			out[n-1].ports.Hi = t.Port
			continue
		}
		out = append(out, portRange{t.Proto, hostnet.Ports{Lo: t.Port, Hi: t.Port}})
	}
	return out
}

// blocksOf cuts ranges into about as many blocks as each has ranges; no block has two protocols.
func blocksOf(ranges []portRange) (out [][]portRange) {
	var byProto [][]portRange
	for i, r := range ranges {
		if i == 0 || r.proto != ranges[i-1].proto {
			byProto = append(byProto, nil)
		}
		last := len(byProto) - 1
		byProto[last] = append(byProto[last], r)
	}
	want := 1
	for want < maxBlocks-len(byProto) && want*want < len(ranges) {
		want++
	}
	size := (len(ranges) + want - 1) / want
	for _, p := range byProto {
		n := (len(p) + size - 1) / size
		for i := range n {
			out = append(out, p[i*len(p)/n:(i+1)*len(p)/n])
		}
	}
	return out
}
