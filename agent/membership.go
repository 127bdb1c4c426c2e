package agent

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/agent/snapshot"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/ipam"
)

// leaseTTL bounds how long status still calls a dead node alive.
const leaseTTL = 10 * time.Second

// alive renews the node's leased key, again and again.
func (a *Agent) alive(ctx context.Context) {
	var b snapshot.Backoff
	for ctx.Err() == nil {
		start := time.Now()
		if err := a.store.KeepAlive(ctx, a.cfg.NodeName, a.identity, leaseTTL); err != nil && ctx.Err() == nil {
			a.log.Debug("liveness key lost", "err", err)
		}
		if time.Since(start) > leaseTTL {
			b.Reset()
		}
		b.Wait(ctx, nil)
	}
}

// member makes this node a member and keeps it one: the cluster's configuration verified, blocks claimed, the node's
// record as planned. It runs whenever something changed and repeats what failed.
func (a *Agent) member(ctx context.Context) error {
	var b snapshot.Backoff
	joined := false
	for ctx.Err() == nil {
		err := a.join(ctx)
		var mismatch *config.MismatchError
		if errors.As(err, &mismatch) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			if last := a.joinProblem.Swap(err.Error()); last != err.Error() {
				what := "cannot join yet; trying again"
				if joined {
					what = "cannot look after this node's records in the store; trying again"
				}
				a.log.Warn(what, "err", err)
			}
			b.Wait(ctx, nil)
			continue
		}
		if last := a.joinProblem.Swap(""); last != "" {
			a.log.Info("the trouble with this node's records in the store is over")
		}
		joined = true
		b.Reset()
		select {
		case <-ctx.Done():
		case <-a.rejoin:
		}
	}
	return nil
}

// join does what is missing, in order; it does nothing when nothing is.
func (a *Agent) join(ctx context.Context) error {
	if !a.verified {
		have, err := a.store.EnsureCluster(ctx, a.cfg.Cluster)
		if err != nil {
			return err
		}
		if err := a.cfg.Agree(have); err != nil {
			return err
		}
		if a.kube == nil {
			if err := a.store.EnsureServiceCIDR(ctx, serviceRanges(a.cfg.ServiceCIDRs, have)); err != nil {
				return err
			}
		}
		a.verified = true
		a.setCluster(have)
	}
	if a.blocks.Load() == nil { // or a machine that is refused below would leave its claims behind
		if err := a.store.CheckName(ctx, a.cfg.NodeName, a.identity); err != nil {
			return err
		}
	}
	snap := a.source.Load()
	if err := a.claim(ctx, snap); err != nil {
		return err
	}
	a.foresee(ctx)
	if snap == nil {
		return nil
	}
	if err := a.register(ctx, snap); err != nil {
		return err
	}
	if a.kube != nil {
		return nil // the API server knows the Pods
	}
	return a.publish(ctx, snap)
}

// serviceRanges are those of the families that Pods have.
func serviceRanges(all []netip.Prefix, c model.Cluster) (out []netip.Prefix) {
	for _, r := range c.PodCIDRs {
		for _, s := range all {
			if s.Addr().Is4() == r.Addr().Is4() {
				out = append(out, s)
			}
		}
	}
	return out
}

// register writes the node's record when it differs from the plan.
func (a *Agent) register(ctx context.Context, snap *model.Snapshot) error {
	want := a.wanted.Load()
	if want == nil || snap.Revision < a.registeredAt {
		return nil // no plan yet, or the watch has not shown our last write
	}
	have, ok := snap.Node(want.Name)
	have.Alive = false
	if ok && reflect.DeepEqual(normal(have), normal(*want)) {
		return nil
	}
	rev, err := a.store.PutNode(ctx, *want)
	if err == nil {
		a.registeredAt = rev
		a.log.Info("registered", "node", want.Name, "podCIDRs", want.PodCIDRs, "endpoints", want.Endpoints)
	}
	return err
}

// normal makes empty and nil lists equal.
func normal(n model.Node) model.Node {
	if len(n.Endpoints) == 0 {
		n.Endpoints = nil
	}
	if len(n.Addresses) == 0 {
		n.Addresses = nil
	}
	if len(n.PodCIDRs) == 0 {
		n.PodCIDRs = nil
	}
	return n
}

// claim makes sure that the blocks this node uses are its own in the store. The blocks on its disk are claimed again
// when the store lost them; if another node has one by now, this node takes a new one and says so.
func (a *Agent) claim(ctx context.Context, snap *model.Snapshot) error {
	a.claiming.Lock()
	defer a.claiming.Unlock()
	held := a.blocks.Load()
	if held != nil && snap != nil && snap.Revision > a.claimedAt && ownsAll(snap, a.owner(), *held) {
		return nil
	}
	var prefer []netip.Prefix
	if held != nil {
		prefer = *held
	} else {
		prefer = a.preferred(ctx)
	}
	got, rev, err := ipam.ClaimBlocks(ctx, a.store, a.cluster(), a.owner(), prefer)
	if err != nil {
		return err
	}
	a.claimedAt = rev
	if held != nil {
		got = inOrder(*held, got)
		if slices.Equal(*held, got) {
			return nil
		}
	}
	for _, p := range prefer {
		if held != nil && !slices.Contains(got, p) {
			a.log.Error("this node's block now belongs to another node; its running Pods must be recreated", "block", p)
		}
	}
	return a.hold(got)
}

func (a *Agent) owner() ipam.Owner { return ipam.Owner{Node: a.cfg.NodeName, Identity: a.identity} }

func ownsAll(snap *model.Snapshot, o ipam.Owner, blocks []netip.Prefix) bool {
	mine := snap.Owned(o.Node, o.Identity)
	for _, b := range blocks {
		if !slices.Contains(mine, b) {
			return false
		}
	}
	return len(mine) == len(blocks)
}
