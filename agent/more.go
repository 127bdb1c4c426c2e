package agent

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

// A node whose blocks fill claims another one, before an ADD has to wait for it.

// moreTimeout bounds how long an ADD waits for another block.
const moreTimeout = 5 * time.Second

// nearlyFull says that a family should get another block: a sixteenth of one is left, or less than two addresses.
func nearlyFull(free, largest int) bool { return free < max(2, largest/16) }

// roomForMore is what an ADD calls that found no address.
func (a *Agent) roomForMore(ctx context.Context) error {
	ctx, end := context.WithTimeout(ctx, moreTimeout)
	defer end()
	return a.extend(ctx, func(free, _ int) bool { return free == 0 })
}

// extend claims another block in the families that need one.
func (a *Agent) extend(ctx context.Context, needs func(free, largest int) bool) error {
	a.claiming.Lock()
	defer a.claiming.Unlock()
	held := a.blocks.Load()
	if held == nil {
		return ipam.ErrNoBlock
	}
	var ranges []netip.Prefix
	for _, r := range a.cluster().PodCIDRs {
		free, largest, blocks := a.pool.Room(model.FamilyOf(r.Addr()))
		switch {
		case blocks == 0 || !needs(free, largest):
		case blocks >= a.cfg.MaxBlocks:
			return fmt.Errorf("this node has %d blocks of %s already, which is its maxBlocks", blocks, r)
		default:
			ranges = append(ranges, r)
		}
	}
	if len(ranges) == 0 {
		return nil
	}
	more, rev, err := ipam.ClaimMore(ctx, a.store, a.cluster(), a.owner(), ranges)
	if err != nil {
		return fmt.Errorf("claim another block of %v: %w", ranges, err)
	}
	a.claimedAt = max(a.claimedAt, rev)
	return a.hold(append(slices.Clone(*held), more...))
}

// hold keeps the blocks on disk and begins to use them. The first of a family stays the first: the node's own addresses
// are its.
func (a *Agent) hold(blocks []netip.Prefix) error {
	if err := a.disk.SetBlocks(blocks); err != nil {
		return err
	}
	if err := a.pool.SetBlocks(blocks); err != nil {
		return err
	}
	a.log.Info("claimed", "podCIDRs", blocks)
	a.blocks.Store(&blocks)
	a.haveBlocks.Do(func() { close(a.claimed) })
	a.kick()
	return nil
}

// inOrder is got with those of held first, in their order.
func inOrder(held, got []netip.Prefix) (out []netip.Prefix) {
	for _, b := range held {
		if slices.Contains(got, b) {
			out = append(out, b)
		}
	}
	for _, b := range got {
		if !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// foresee claims a block ahead of need. What stands in the way is shown by the status and tried again with the next Pod.
func (a *Agent) foresee(ctx context.Context) {
	err := a.extend(ctx, nearlyFull)
	switch {
	case errors.Is(err, ipam.ErrNoBlock) || ctx.Err() != nil:
	case err == nil:
		a.roomProblem.Store("")
	default:
		if last := a.roomProblem.Swap(err.Error()); last != err.Error() {
			a.log.Warn("this node's blocks are nearly full and there is no other", "err", err)
		}
	}
}
