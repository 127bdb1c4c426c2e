package membership

import (
	"context"
	"time"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
)

// allocateEvery is how often Services without an address are looked for. stepIn is how long the other nodes wait for the node that
// goes first for a Service.
const (
	allocateEvery = 100 * time.Millisecond
	stepIn        = 3 * time.Second
)

// allocateLB allocates load balancer addresses to waiting Services, in clusters without Kubernetes: after a pool was added, or
// after another Service released an address. Every node may do it, because the store's transaction decides. To save requests, the
// alive node with the highest hash for a Service goes first, and the others follow after stepIn.
func (m *Member) allocateLB(ctx context.Context) {
	since := map[model.ObjectName]time.Time{}
	t := time.NewTicker(allocateEvery)
	defer t.Stop()
	var seen *model.Snapshot
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		snap := m.cfg.Source.Load()
		if snap == nil || len(snap.Pools) == 0 || snap == seen && len(since) == 0 || !m.cfg.Source.Store().State().Connected {
			continue
		}
		seen = snap
		waiting := waitingServices(snap)
		for n := range since {
			if !waiting[n] {
				delete(since, n)
			}
		}
		for n := range waiting {
			if since[n].IsZero() {
				since[n] = time.Now()
			}
			if !goesFirst(snap, m.cfg.Node, n) && time.Since(since[n]) < stepIn {
				continue
			}
			if err := m.cfg.Objects.Allocate(ctx, n); err != nil && ctx.Err() == nil {
				m.log.Debug("cannot allocate a load balancer address; retrying", "service", n, "err", err)
			}
		}
	}
}

// waitingServices are the Services that lack an address although one is free for them.
func waitingServices(snap *model.Snapshot) map[model.ObjectName]bool {
	out := map[model.ObjectName]bool{}
	var taken lbpool.Taken
	for i := range snap.Services {
		s := &snap.Services[i]
		if !lbpool.Ours(s) || len(s.LBAddresses) >= len(s.ClusterIPs) {
			continue
		}
		if taken == nil {
			taken = lbpool.TakenBy(snap.Services)
		}
		if r, err := lbpool.RequestOf(s); err == nil {
			if got, _ := lbpool.Choose(r, snap.Pools, taken); len(got) > len(s.LBAddresses) {
				out[s.ObjectName] = true
			}
		}
	}
	return out
}

// goesFirst reports whether this node allocates for a Service before the others: it has the highest hash of the nodes whose
// liveness key exists (model.Node.Alive).
func goesFirst(snap *model.Snapshot, self string, service model.ObjectName) bool {
	mine := lbpool.Rank(service.String(), self)
	for _, x := range snap.Nodes {
		if x.Alive && x.Name != self && lbpool.Rank(service.String(), x.Name) > mine {
			return false
		}
	}
	return true
}
