package membership

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/ipam"
)

// growTimeout bounds how long a CNI ADD waits for a further block.
const growTimeout = 5 * time.Second

// nearlyFull reports that a family should get a further block: a sixteenth of the largest one is free, or less than two addresses.
func nearlyFull(free, largest int) bool { return free < max(2, largest/16) }

// Grow claims a further block in each family without a free address. A CNI ADD that found no address calls it.
func (m *Member) Grow(ctx context.Context) error {
	ctx, end := context.WithTimeout(ctx, growTimeout)
	defer end()
	return m.grow(ctx, func(free, _ int) bool { return free == 0 })
}

// growEarly claims a further block before a CNI ADD has to wait for it. A failure is shown by the status and retried with the next
// Pod.
func (m *Member) growEarly(ctx context.Context) {
	err := m.grow(ctx, nearlyFull)
	switch {
	case errors.Is(err, ipam.ErrNoBlock) || ctx.Err() != nil:
	case err == nil:
		m.room.set("")
	default:
		if m.room.set(err.Error()) {
			m.log.Warn("this node's Pod CIDRs are nearly full and no further one can be claimed", "err", err)
		}
	}
}

// grow claims a further block in the families that need one.
func (m *Member) grow(ctx context.Context, needs func(free, largest int) bool) error {
	m.claiming.Lock()
	defer m.claiming.Unlock()
	held := m.Blocks()
	if held == nil {
		return ipam.ErrNoBlock
	}
	var ranges []netip.Prefix
	for _, r := range m.Cluster().PodCIDRs {
		free, largest, blocks := m.cfg.Pool().Room(model.FamilyOf(r.Addr()))
		switch {
		case blocks == 0 || !needs(free, largest):
		case blocks >= m.cfg.MaxBlocks:
			return fmt.Errorf("this node has %d blocks of %s already, which is its maxBlocks", blocks, r)
		default:
			ranges = append(ranges, r)
		}
	}
	if len(ranges) == 0 {
		return nil
	}
	more, rev, err := ipam.ClaimMore(ctx, m.cfg.Store, m.Cluster(), m.owner(), ranges)
	if err != nil {
		return fmt.Errorf("claim another block of %v: %w", ranges, err)
	}
	m.claimedAt = max(m.claimedAt, rev)
	return m.hold(append(slices.Clone(held), more...))
}
