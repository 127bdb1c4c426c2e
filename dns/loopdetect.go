package dns

import (
	"context"
	"time"
)

const probeInterval = 30 * time.Second

// detectLoops asks each upstream now and then for a name that only this server knows. When the question arrives here, that
// upstream leads back to us and is left out until a later probe does not come back.
func (s *Server) detectLoops(ctx context.Context) error {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		for _, set := range s.routes.Load().sets() {
			for _, up := range set.members {
				up := up
				s.spawn(func(ctx context.Context) { s.probeUpstream(ctx, up) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.reload:
		}
	}
}

func (s *Server) probeUpstream(ctx context.Context, up *upstream) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	up.probeSeen.Store(false)
	label, err := appendLabel(nil, up.probeLabel)
	if err != nil {
		return
	}
	_, _ = up.exchange(ctx, cacheKey{typ: typeTXT, name: string(label) + "\x04loop" + s.zone.domain})
	if was := up.looped.Swap(up.probeSeen.Load()); was && !up.probeSeen.Load() {
		s.cfg.Log.Info("upstream no longer leads back to this server", "upstream", up.name)
	}
}

// loopProbeReceived notes that a probe has come back.
func (s *Server) loopProbeReceived(label string) {
	for _, set := range s.routes.Load().sets() {
		for _, up := range set.members {
			if up.probeLabel != label {
				continue
			}
			up.probeSeen.Store(true)
			if !up.looped.Swap(true) {
				s.cfg.Log.Error("upstream leads back to this server: it is left out", "upstream", up.name)
			}
		}
	}
}
