package apply

import (
	"errors"
	"log/slog"
	"net/netip"

	"github.com/warrennet/warren/agent/hostio"
	"github.com/warrennet/warren/agent/plan"
)

// sockets are the agent's sockets on the host that follow the plan. The apply loop holds them; the raw sockets have goroutines of
// the data plane.
type sockets struct {
	log         *slog.Logger
	checks      *hostio.HealthChecks
	relays      *hostio.Loopback6
	sinks       *hostio.UDPSinks
	reassembled *hostio.Reassembled
	failed      bool // reassembled.Set has failed, and that was logged
}

func newSockets(ranges func() []netip.Prefix, reassembled *hostio.Reassembled, log *slog.Logger) *sockets {
	return &sockets{log: log, checks: hostio.NewHealthChecks(ranges, log), relays: hostio.NewLoopback6(log), sinks: hostio.NewUDPSinks(log),
		reassembled: reassembled}
}

// set opens and closes sockets. It reports whether listeners were opened whose ports the next plan needs, and which sockets are
// missing; the next apply tries again.
func (s *sockets) set(p *plan.Plan) (opened bool, missing []error) {
	opened, checks := s.checks.Set(p.HealthChecks)
	relays := s.relays.Set(p.Relays)
	s.sinks.Set(p.UDPSinks)
	err := s.reassembled.Set(p.Reassembled)
	if err != nil && !s.failed {
		s.log.Warn("cannot receive fragmented datagrams to the node's ports; retrying", "err", err)
	}
	s.failed = err != nil
	return opened, split(errors.Join(checks, relays, err))
}

func (s *sockets) close() {
	s.checks.Close()
	s.relays.Close()
	s.sinks.Close()
}
