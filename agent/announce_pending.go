package agent

import (
	"context"
	"time"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
)

// allocateLB gives waiting Services their addresses, in clusters without Kubernetes: when a pool comes, when another
// Service lets go of one. Every agent may do it, because the store's transaction decides; to spare the store, the others
// only step in when the alive node with the highest hash for a Service has not done it within stepIn.
func (a *Agent) allocateLB(ctx context.Context) {
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
		snap := a.source.Load()
		if snap == nil || len(snap.Pools) == 0 || snap == seen && len(since) == 0 || !a.source.Store().State().Connected {
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
			if !firstFor(snap, a.cfg.NodeName, n) && time.Since(since[n]) < stepIn {
				continue
			}
			if err := a.store.Allocate(ctx, n); err != nil && ctx.Err() == nil {
				a.log.Debug("no load balancer address yet; trying again", "service", n, "err", err)
			}
		}
	}
}

const (
	allocateEvery = 100 * time.Millisecond
	stepIn        = 3 * time.Second
)

// waitingServices lack an address that could be theirs.
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

// firstFor reports whether this node should try before the others.
func firstFor(snap *model.Snapshot, me string, n model.ObjectName) bool {
	mine := lbpool.Rank(n.String(), me)
	for _, x := range snap.Nodes {
		if x.Alive && x.Name != me && lbpool.Rank(n.String(), x.Name) > mine {
			return false
		}
	}
	return true
}
