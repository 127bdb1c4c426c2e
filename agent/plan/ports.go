package plan

import (
	"slices"

	"github.com/warrennet/warren/internal/hostnet"
)

// masqueradePorts is the range of the source ports of egress masquerading, 17,000 of them. It is outside the ephemeral ports of
// Linux (32768 to 60999): a connection that the host had opened from a port of the range would break at once, because
// redirected packets never reach a socket of the host (docs/decisions/0004).
var masqueradePorts = [2]uint16{13000, 29999}

// nodePorts is the range of node ports.
var nodePorts = [2]uint16{30000, 32767}

// Redirected reports whether packets to a port of the node's own addresses are redirected to the TUN, unless it is reserved.
func Redirected(port uint16) bool {
	return port >= masqueradePorts[0] && port <= masqueradePorts[1] || port >= nodePorts[0] && port <= nodePorts[1]
}

// maxReservedPorts bounds the masquerade ports that are left to host programs: each costs a rule per protocol and family.
const maxReservedPorts = 16

// listeners decides which ports are left to the host programs that listen on them.
func (p *Plan) listeners(in *Input) {
	p.ReservedPorts = reservedFor(in.Listeners)
	p.UnreachablePorts = slices.DeleteFunc(slices.Clone(in.Listeners), func(n uint16) bool { return slices.Contains(p.ReservedPorts, n) })
}

// reservedFor are the masquerade ports among those of host programs.
func reservedFor(listeners []uint16) (out []uint16) {
	for _, n := range listeners {
		if n >= masqueradePorts[0] && n <= masqueradePorts[1] && len(out) < maxReservedPorts {
			out = append(out, n)
		}
	}
	return out
}

// except removes ports, in ascending order, from a range.
func except(all [2]uint16, ports []uint16) (out []hostnet.Ports) {
	lo := int(all[0])
	for _, n := range ports {
		if int(n) > lo {
			out = append(out, hostnet.Ports{Lo: uint16(lo), Hi: n - 1})
		}
		lo = int(n) + 1
	}
	if lo <= int(all[1]) {
		out = append(out, hostnet.Ports{Lo: uint16(lo), Hi: all[1]})
	}
	return out
}
