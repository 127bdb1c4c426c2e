package snapshot

import (
	"errors"

	"github.com/warrennet/warren/internal/model"
)

// revocations are the machines that were excluded from the cluster. The list only grows: a deletion in the store, which a
// compromised node or a loss of data may cause, readmits no machine. Source.mu guards it.
type revocations struct {
	list     model.Revocations
	unstored model.Revocations // those that the store lacks
}

// loadRevocations reads the list of the last run and applies it to the snapshot of that run, which may be nil. The list is in
// the snapshot, too, so that one unreadable file readmits no machine.
func (s *Source) loadRevocations(snap *model.Snapshot) (*model.Snapshot, error) {
	list, err := s.cfg.Disk.Revocations()
	var newer *model.ErrNewer
	switch {
	case errors.As(err, &newer):
		return nil, err
	case err != nil:
		s.log.Error("ignoring unreadable list of revoked nodes; those of the cached snapshot and of the store remain revoked", "err", err)
	}
	s.revoked.list = list
	if snap == nil {
		return nil, nil
	}
	s.revoked.list, _ = list.Merge(snap.Revoked)
	return s.revoked.list.Filter(snap), nil
}

// exclude adds the revocations of a snapshot to the list, on the disk as well, and returns the snapshot without the records of
// revoked machines.
func (s *Source) exclude(snap *model.Snapshot) *model.Snapshot {
	list, changed := s.revoked.list.Merge(snap.Revoked)
	if changed {
		for _, r := range list.Missing(s.revoked.list) {
			if r.NameAllowed {
				s.log.Info("another machine may use the name of a revoked node", "node", r.Node)
			} else {
				s.log.Warn("a node was revoked; its records, claims and keys are ignored", "node", r.Node)
			}
		}
		if err := s.cfg.Disk.SetRevocations(list); err != nil {
			s.log.Error("cannot save the list of revoked nodes", "err", err)
		}
	}
	lost, _ := list.Missing(snap.Revoked).Merge(snap.Lost)
	s.revoked.list, s.revoked.unstored = list, lost
	return list.Filter(snap)
}

// Unstored returns the revocations that the store has lost.
func (s *Source) Unstored() model.Revocations {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked.unstored
}
