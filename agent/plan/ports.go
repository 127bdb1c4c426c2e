package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

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

// Listener is a port that a host program listens on.
type Listener struct {
	Port  uint16
	UID   uint32 // of the socket's owner
	Inode uint64 // of the socket; of two that are equally old, the lower one is usually the older one
	Since uint64 // order in which the agent has seen the listeners
}

// Compare orders listeners by precedence: those of root, then the older ones, so that no process takes a port from a
// program that was there before it.
func (l Listener) Compare(o Listener) int {
	root := func(l Listener) int {
		if l.UID == 0 {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(root(l), root(o)), cmp.Compare(l.Since, o.Since), cmp.Compare(l.Inode, o.Inode), cmp.Compare(l.Port, o.Port))
}

// listeners decides which ports are left to the host programs that listen on them.
func (p *Plan) listeners(in *Input) {
	p.ReservedPorts = reservedFor(in.Listeners)
	var masqueraded []Listener
	for _, l := range in.Listeners {
		if slices.Contains(p.ReservedPorts, l.Port) {
			continue
		}
		p.UnreachablePorts = append(p.UnreachablePorts, l.Port)
		if isMasqueradePort(l.Port) {
			masqueraded = append(masqueraded, l)
		}
	}
	slices.Sort(p.UnreachablePorts)
	if len(masqueraded) > 0 {
		p.problem("host programs are unreachable from outside of the node at %s: %d-%d are the source ports of masqueraded connections, "+
			"and %d of them are left to host programs, first to those of root, then to the oldest; move the programs to other ports",
			describe(masqueraded), masqueradePorts[0], masqueradePorts[1], maxReservedPorts)
	}
}

// describe names the first listeners by precedence, and how many there are besides.
func describe(listeners []Listener) string {
	const most = 5
	slices.SortFunc(listeners, Listener.Compare)
	var parts []string
	for _, l := range listeners[:min(most, len(listeners))] {
		parts = append(parts, fmt.Sprintf("port %d (uid %d)", l.Port, l.UID))
	}
	text := strings.Join(parts, ", ")
	if more := len(listeners) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func isMasqueradePort(n uint16) bool { return n >= masqueradePorts[0] && n <= masqueradePorts[1] }

// reservedFor are the masquerade ports that are left to host programs, in ascending order.
func reservedFor(listeners []Listener) (out []uint16) {
	sorted := slices.Clone(listeners)
	slices.SortFunc(sorted, Listener.Compare)
	for _, l := range sorted {
		if isMasqueradePort(l.Port) && len(out) < maxReservedPorts {
			out = append(out, l.Port)
		}
	}
	slices.Sort(out)
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
