package dns

import (
	"context"
	"time"
)

const probeEvery = 30 * time.Second

// probe asks each upstream now and then for a name that only this server knows. When the question arrives here, that
// upstream leads back to us and is left out until a later probe does not come back.
func (s *Server) probe(ctx context.Context) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		for _, set := range s.routes.Load().sets() {
			for _, up := range set.list {
				up := up
				s.spawn(func(ctx context.Context) { s.probeOne(ctx, up) })
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

func (s *Server) probeOne(ctx context.Context, up *upstream) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	up.seen.Store(false)
	label, err := appendLabel(nil, up.nonce)
	if err != nil {
		return
	}
	_, _ = up.exchange(ctx, cacheKey{typ: typeTXT, name: string(label) + "\x04loop" + s.z.domain})
	if was := up.looped.Swap(up.seen.Load()); was && !up.seen.Load() {
		s.cfg.Log.Info("upstream no longer leads back to this server", "upstream", up.name)
	}
}

// probeSeen notes that a probe has come back.
func (s *Server) probeSeen(label string) {
	for _, set := range s.routes.Load().sets() {
		for _, up := range set.list {
			if up.nonce != label {
				continue
			}
			up.seen.Store(true)
			if !up.looped.Swap(true) {
				s.cfg.Log.Error("upstream leads back to this server: it is left out", "upstream", up.name)
			}
		}
	}
}
