package agent

import (
	"log/slog"
	"net/netip"

	"github.com/warrennet/warren/agent/hostio"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/packet"
)

// sockets are the agent's sockets on the host that follow the plan. The apply loop holds them; the raw sockets have goroutines of
// the data plane.
type sockets struct {
	log         *slog.Logger
	checks      *hostio.HealthChecks
	relays      *hostio.Loopback6
	sinks       *hostio.UDPSinks
	reassembled *hostio.Reassembled
}

func newSockets(ranges func() []netip.Prefix, log *slog.Logger) *sockets {
	return &sockets{log: log, checks: hostio.NewHealthChecks(ranges, log), relays: hostio.NewLoopback6(log), sinks: hostio.NewUDPSinks(log),
		reassembled: hostio.NewReassembled()}
}

// set opens and closes sockets. It reports whether listeners were opened whose ports the next plan needs.
func (s *sockets) set(p *plan.Plan) (opened bool) {
	opened = s.checks.Set(p.HealthChecks)
	s.relays.Set(p.Relays)
	s.sinks.Set(p.UDPSinks)
	if err := s.reassembled.Set(p.Reassembled); err != nil {
		s.log.Warn("cannot receive fragmented datagrams to the node's ports", "err", err)
	}
	return opened
}

func (s *sockets) close() {
	s.checks.Close()
	s.relays.Close()
	s.sinks.Close()
}

// fromHost translates a packet that a raw socket received for one of the node's own addresses, and sends it on if it belongs to a
// flow.
func (a *Agent) fromHost(pkt []byte) {
	var p packet.Packet
	if p.Parse(pkt) == packet.OK {
		a.inject(p.Buf, a.lb.FromHost(&p))
	}
}

// inject sends a packet that the load balancer built or translated.
func (a *Agent) inject(pkt []byte, to packet.Verdict) {
	var err error
	switch to {
	case packet.VerdictReflect, packet.VerdictReply:
		err = a.tun.InjectHost(pkt)
	case packet.VerdictPeer:
		err = a.tun.InjectPeer(pkt)
	}
	if err != nil {
		a.log.Debug("cannot send a packet of the load balancer", "err", err)
	}
}
