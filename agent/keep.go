package agent

import (
	"context"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// keepPause is the least time between two writes of the snapshot, keepShare the most of the agent's time they may take:
// in a large cluster under constant change a snapshot of many megabytes must not be written for each endpoint.
const (
	keepPause = time.Second
	keepShare = 50
)

// fromDisk reports whether the snapshot is, in whole or in part, the one that was kept when the node last ran.
func (a *Agent) fromDisk() bool {
	if a.snapshot.Load() == nil {
		return false
	}
	if !a.heard.Load() || a.kube == nil {
		return !a.heard.Load()
	}
	a.kube.mu.Lock()
	defer a.kube.mu.Unlock()
	return a.kube.objects == nil && !a.snapshot.Load().Partial
}

// servicesKept reports whether the Services of a snapshot that is loaded later may be those that were kept when the node last
// ran, and so older than flows that the load balancer has adopted.
func (a *Agent) servicesKept() bool {
	if a.kube == nil {
		return !a.heard.Load()
	}
	a.kube.mu.Lock()
	defer a.kube.mu.Unlock()
	return a.kube.objects == nil
}

// offerSnapshot asks for the newest snapshot to be kept on disk.
func (a *Agent) offerSnapshot(s *model.Snapshot) {
	if s == nil || s.Partial {
		return
	}
	select {
	case <-a.keep: // an older one that nobody has taken yet
	default:
	}
	a.keep <- s // only the apply loop offers, so there is room
}

// keepSnapshots writes what is offered: the first at once, the others a little later, always the newest.
func (a *Agent) keepSnapshots(ctx context.Context) {
	var last *model.Snapshot
	for {
		var s *model.Snapshot
		select {
		case <-ctx.Done():
			select {
			case s = <-a.keep:
			default:
			}
		case s = <-a.keep:
		}
		if s == nil {
			return
		}
		if s == last {
			continue
		}
		start := time.Now()
		if err := a.disk.SetSnapshot(s); err != nil {
			a.log.Warn("cannot keep the snapshot on disk", "err", err)
		}
		last = s
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(keepPause, keepShare*time.Since(start))):
		}
	}
}
