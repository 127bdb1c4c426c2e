package snapshot

import (
	"context"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// saveInterval is the least time between two writes of the snapshot. saveShare caps their share of the time: after a write the
// goroutine sleeps saveShare times its duration. In a large cluster a snapshot of many megabytes must not be written for each
// change of an endpoint.
const (
	saveInterval = time.Second
	saveShare    = 50
)

// Save requests that a snapshot is written to the disk. nil and partial snapshots are ignored. One goroutine calls it, the apply
// loop: what was applied is what serves after a restart.
func (s *Source) Save(snap *model.Snapshot) {
	if snap == nil || snap.Partial {
		return
	}
	select {
	case <-s.toSave: // an older one that was not written yet
	default:
	}
	s.toSave <- snap // this goroutine is the only sender, so there is room
}

// save writes the newest requested snapshot, the first one at once. At the end of ctx it writes the last one.
func (s *Source) save(ctx context.Context) {
	var last *model.Snapshot
	for {
		var snap *model.Snapshot
		select {
		case <-ctx.Done():
			select {
			case snap = <-s.toSave:
			default:
			}
		case snap = <-s.toSave:
		}
		if snap == nil {
			return
		}
		if snap == last {
			continue
		}
		start := time.Now()
		if err := s.cfg.Disk.SetSnapshot(snap); err != nil {
			s.log.Warn("cannot save the snapshot", "err", err)
		}
		last = snap
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(saveInterval, saveShare*time.Since(start))):
		}
	}
}
