package servicelb

import (
	"math/rand/v2"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// portRange is a range of ports, both ends included.
type portRange [2]uint16

func (r *portRange) random() uint16 {
	if r.size() == 0 {
		return 0
	}
	return r[0] + uint16(rand.Uint32N(uint32(r.size())))
}

// size returns the number of ports: 0 without a range.
func (r *portRange) size() int32 {
	if r[0] == 0 || r[1] < r[0] {
		return 0
	}
	return int32(r[1]-r[0]) + 1
}

// sourcePorts are the source ports that a new flow may have.
type sourcePorts struct {
	portRange
	reserved []uint16
	first    uint16 // to try
}

// Shares of one client in the masquerade ports of one destination: a half, or an eighth while fewer than an eighth are free.
// A range with fewer ports than minPortShare is not shared.
const (
	portShare       = 2
	scarcePortShare = 8
	minPortShare    = 64
)

// portsFor returns the source ports of a flow, or why it has none. A flow from a node address has a masquerade port,
// and its client a share of those of one destination: the address and port of the backend.
func (b *Balancer) portsFor(v *view, p *packet.Packet, o *opening) (sourcePorts, dropReason) {
	if o.Flags&conntrack.FlagNodeSource == 0 {
		return sourcePorts{portRange{1024, 65535}, nil, o.Tuples[conntrack.Original].SrcPort}, notDropped
	}
	s := sourcePorts{portRange(v.Self().MasqueradePorts), v.Self().ReservedPorts, 0}
	size := s.size()
	if size == 0 {
		return s, dropNoSource
	}
	to := replyTuple(p, o.backend, o.backend)
	all, own := b.flows.PortsHeld(o.Proto, to.Source(), o.Client)
	share := size / portShare
	if all >= size-size/scarcePortShare {
		share = size / scarcePortShare
	}
	if own >= max(share, minPortShare) {
		return s, dropNoPort
	}
	s.first = s.random()
	return s, notDropped
}
