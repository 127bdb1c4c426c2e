package forward

import (
	"context"
	"time"

	"github.com/warrennet/warren/dns/wire"
)

// probeInterval is the time between two loop probes of an upstream. A change of the upstreams starts a probe at once.
const probeInterval = 30 * time.Second

// detectLoops sends each upstream a query for a random name below Config.LoopZone. When the query arrives at this server,
// that upstream forwards back to it and is not used until a later probe does not arrive.
func (f *Forwarder) detectLoops(ctx context.Context) error {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		for _, set := range f.routes.Load().sets() {
			for _, up := range set.members {
				f.cfg.Spawn(func(ctx context.Context) { f.probe(ctx, up) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-f.changed:
		}
	}
}

func (f *Forwarder) probe(ctx context.Context, up *upstream) {
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	up.probeSeen.Store(false)
	label, err := wire.AppendLabel(nil, up.probeLabel)
	if err != nil {
		return
	}
	_, _ = up.exchange(ctx, cacheKey{typ: wire.TypeTXT, name: string(label) + f.cfg.LoopZone})
	if was := up.looped.Swap(up.probeSeen.Load()); was && !up.probeSeen.Load() {
		f.cfg.Log.Info("DNS forwarding loop resolved; using the upstream again", "upstream", up.name)
	}
}

// LoopProbeReceived disables the upstream whose probe, a name with this first label, arrived at this server.
func (f *Forwarder) LoopProbeReceived(label string) {
	for _, set := range f.routes.Load().sets() {
		for _, up := range set.members {
			if up.probeLabel != label {
				continue
			}
			up.probeSeen.Store(true)
			if !up.looped.Swap(true) {
				f.cfg.Log.Error("DNS forwarding loop detected; upstream disabled", "upstream", up.name)
			}
		}
	}
}
