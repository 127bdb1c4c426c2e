package membership

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
	"github.com/warrennet/warren/ipam"
)

// claim makes sure that the store has this node as the owner of its Pod CIDRs. Those on its disk are claimed again after the store
// lost them. If another node has claimed one meanwhile, this node claims a new one and logs an error.
func (m *Member) claim(ctx context.Context, snap *model.Snapshot) error {
	m.claiming.Lock()
	defer m.claiming.Unlock()
	held := m.Blocks()
	if held != nil && snap != nil && snap.Revision > m.claimedAt && ownsAll(snap, m.owner(), held) {
		return nil
	}
	prefer := held
	if held == nil {
		prefer = m.preferred(ctx)
	} else if keep, err := m.keepsUnreadable(ctx, held); keep || err != nil {
		return err
	}
	got, rev, err := ipam.ClaimBlocks(ctx, m.cfg.Store, m.Cluster(), m.owner(), prefer)
	if err != nil {
		return err
	}
	m.claimedAt = rev
	if held != nil {
		got = inOrder(held, got)
		if slices.Equal(held, got) {
			return nil
		}
	}
	for _, p := range held {
		if !slices.Contains(got, p) {
			m.log.Error("another node has claimed this node's Pod CIDR; its Pods must be recreated", "cidr", p)
		}
	}
	return m.hold(got)
}

// keepsUnreadable reports whether this node keeps its Pod CIDRs, although records of some of them cannot be read: no other node has
// claimed them. The watch reports the records.
func (m *Member) keepsUnreadable(ctx context.Context, held []netip.Prefix) (bool, error) {
	all, rev, err := m.cfg.Store.Blocks(ctx)
	if err != nil {
		return false, err
	}
	unreadable := false
	for _, p := range held {
		i := slices.IndexFunc(all, func(b model.Block) bool { return b.CIDR == p })
		switch {
		case i >= 0 && all[i].Node == "":
			unreadable = true
		case i < 0 || all[i].Node != m.cfg.Node || all[i].Identity != m.cfg.Identity:
			return false, nil
		}
	}
	if unreadable {
		m.claimedAt = rev
	}
	return unreadable, nil
}

// hold saves the Pod CIDRs and begins to use them. The first one of a family stays the first, because the node's own addresses are
// in it. claiming is held.
func (m *Member) hold(blocks []netip.Prefix) error {
	if err := m.cfg.Disk.SetBlocks(blocks); err != nil {
		return err
	}
	if err := m.cfg.Pool().SetBlocks(blocks); err != nil {
		return err
	}
	m.log.Info("claimed Pod CIDRs", "cidrs", blocks)
	m.setBlocks(blocks)
	m.cfg.Changed()
	return nil
}

// inOrder returns got with the elements of held first, in their order.
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

func (m *Member) owner() ipam.Owner { return ipam.Owner{Node: m.cfg.Node, Identity: m.cfg.Identity} }

func ownsAll(snap *model.Snapshot, o ipam.Owner, blocks []netip.Prefix) bool {
	mine := snap.Owned(o.Node, o.Identity)
	for _, b := range blocks {
		if !slices.Contains(mine, b) {
			return false
		}
	}
	return len(mine) == len(blocks)
}

// firstClaim bounds how long a new node waits for the API server before its first claim. It prefers the Pod CIDRs of its Node
// object to any other.
const firstClaim = 10 * time.Second

// preferred are the Pod CIDRs that Kubernetes allocated to this node (Node.spec.podCIDRs) and that warren can use: inside the Pod
// ranges and of the size of a block.
func (m *Member) preferred(ctx context.Context) (out []netip.Prefix) {
	if !m.cfg.Kubernetes {
		return nil
	}
	select {
	case <-ctx.Done():
	case <-m.cfg.Source.FirstObjects():
	case <-time.After(firstClaim):
	}
	c := m.Cluster()
	for _, p := range m.cfg.Source.Node().PodCIDRs {
		if netx.Contains(c.PodCIDRs, p.Addr()) && p.Bits() == c.Bits(p) {
			out = append(out, p)
			continue
		}
		m.log.Warn("cannot use the Pod CIDR of the Node object; claiming another one", "cidr", p, "cidrs", c.PodCIDRs, "size", c.Bits(p))
	}
	return out
}

// unclaimed are the Pod CIDRs of the Node object that are not among the node's blocks, each with the reason.
func unclaimed(want, have []netip.Prefix, c model.Cluster, blocks []model.Block) (out []api.Unclaimed) {
	for _, p := range want {
		if slices.Contains(have, p) {
			continue
		}
		why := "it was free only after this node had claimed another one"
		switch i := slices.IndexFunc(blocks, func(b model.Block) bool { return b.CIDR.Overlaps(p) }); {
		case !netx.Contains(c.PodCIDRs, p.Addr()):
			why = fmt.Sprintf("it is outside of the Pod ranges %v", c.PodCIDRs)
		case p.Bits() != c.Bits(p):
			why = fmt.Sprintf("blocks are /%d", c.Bits(p))
		case i >= 0:
			why = fmt.Sprintf("node %s has it", blocks[i].Node)
		}
		out = append(out, api.Unclaimed{CIDR: p, Why: why})
	}
	return out
}
