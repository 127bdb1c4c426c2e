// Package membership makes this node a member of the cluster and keeps it one.
//
// It owns this node's records in the store: its claims of Pod CIDRs, its Node record, its leased liveness key and, in clusters
// without Kubernetes, the records of its Pods and its part in the allocation of load balancer addresses. It owns the copy of its
// Pod CIDRs on disk. Run starts and joins all goroutines. The package never releases a claim, and never changes the kernel or the
// WireGuard device.
package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/agent/snapshot"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
	"github.com/warrennet/warren/ipam"
	"golang.org/x/sync/errgroup"
)

// Store is where the records are.
type Store interface {
	ipam.BlockStore
	EnsureCluster(ctx context.Context, want model.Cluster) (model.Cluster, error)
	CheckName(ctx context.Context, name, identity string) error
	PutNode(ctx context.Context, n model.Node) (revision int64, err error)
	PutPod(ctx context.Context, p model.Pod) (revision int64, err error)
	DeletePod(ctx context.Context, n model.ObjectName, node string) error
	KeepAlive(ctx context.Context, name, identity string, ttl time.Duration) error
	KeepRevocation(ctx context.Context, r model.Revocation) error
}

// Objects is the object store of clusters without Kubernetes.
type Objects interface {
	EnsureServiceCIDR(ctx context.Context, ranges []netip.Prefix) error
	Allocate(ctx context.Context, service model.ObjectName) error
}

// Pool is the addresses of this node's Pod CIDRs.
type Pool interface {
	// Room returns the free addresses of a family, the size of its largest block and the number of its blocks.
	Room(f model.Family) (free, largest, blocks int)
	SetBlocks(blocks []netip.Prefix) error
}

// Config is what a Member works with.
type Config struct {
	Node, Identity string
	// Cluster has this node's settings of the cluster; they create it if this node is the first. Agree compares them with the
	// cluster's.
	Cluster      model.Cluster
	Agree        func(model.Cluster) error
	ServiceCIDRs []netip.Prefix // of a new cluster
	MaxBlocks    int            // per family
	// Kubernetes: the Node object proposes Pod CIDRs, and the API server has the Services and Pods.
	Kubernetes bool
	Store      Store
	Objects    Objects
	Disk       disk.Dir
	Source     *snapshot.Source
	// Pool returns the address pool; it is called by Run and Grow only.
	Pool func() Pool
	// Pods returns the records that this node's Pods should have.
	Pods func() map[model.ObjectName]model.Pod
	// Changed is called after the node's Pod CIDRs changed; it must not block.
	Changed func()
	Log     *slog.Logger
}

// Member is this node's membership.
type Member struct {
	cfg Config
	log *slog.Logger

	cluster atomic.Pointer[model.Cluster]  // nil: not known yet
	blocks  atomic.Pointer[[]netip.Prefix] // nil: none yet
	record  atomic.Pointer[model.Node]     // desired Node record
	claimed chan struct{}                  // closed with the first blocks
	wake    chan struct{}                  // wakes the member loop
	join    problem
	room    problem

	claiming  sync.Mutex // one claim at a time
	claimedAt int64      // store revision of the last claim; claiming guards it
}

// problem is the reason of a failure, "" for none.
type problem struct{ text atomic.Pointer[string] }

func (p *problem) get() string {
	if s := p.text.Load(); s != nil {
		return *s
	}
	return ""
}

// set returns whether the reason is a new one.
func (p *problem) set(text string) (changed bool) {
	last := p.text.Swap(&text)
	return last == nil && text != "" || last != nil && *last != text
}

// New loads the Pod CIDRs of the last run from the disk.
func New(c Config) (*Member, error) {
	m := &Member{cfg: c, log: c.Log, claimed: make(chan struct{}), wake: make(chan struct{}, 1)}
	blocks, err := c.Disk.Blocks()
	if err != nil {
		return nil, err
	}
	if len(blocks) > 0 {
		m.setBlocks(blocks)
	}
	if snap := c.Source.Load(); snap != nil {
		m.setCluster(snap.Cluster)
	}
	return m, nil
}

// Cluster returns the cluster's settings: the store's, or this node's until they are known.
func (m *Member) Cluster() model.Cluster {
	if c := m.cluster.Load(); c != nil {
		return *c
	}
	return m.cfg.Cluster
}

func (m *Member) setCluster(c model.Cluster) {
	if len(c.PodCIDRs) > 0 {
		m.cluster.Store(&c)
	}
}

// Blocks returns this node's Pod CIDRs, none before the first claim. The first one of a family stays the first.
func (m *Member) Blocks() []netip.Prefix {
	if b := m.blocks.Load(); b != nil {
		return *b
	}
	return nil
}

// setBlocks is called by New and, with claiming held, by hold.
func (m *Member) setBlocks(blocks []netip.Prefix) {
	if m.blocks.Swap(&blocks) == nil {
		close(m.claimed)
	}
}

// Claimed is closed once the node has Pod CIDRs.
func (m *Member) Claimed() <-chan struct{} { return m.claimed }

// JoinProblem returns why the records cannot be written, "" if they can.
func (m *Member) JoinProblem() string { return m.join.get() }

// RoomProblem returns why a node whose Pod CIDRs are nearly full gets no further one, "" if it does or has room.
func (m *Member) RoomProblem() string { return m.room.get() }

// SetRecord sets how the node should be registered.
func (m *Member) SetRecord(n model.Node) {
	m.record.Store(&n)
	m.Wake()
}

// Wake makes the member loop compare the records with the desired ones.
func (m *Member) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run keeps the records as desired until ctx ends. It returns an error only if this node's settings contradict the cluster's.
func (m *Member) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { m.keepAlive(ctx); return nil })
	g.Go(func() error { return m.loop(ctx) })
	if !m.cfg.Kubernetes {
		g.Go(func() error { m.allocateLB(ctx); return nil })
	}
	return g.Wait()
}

// leaseTTL is the time after which the liveness key of a stopped agent expires; a clean stop revokes it at once. Then
// model.Node.Alive is false in the snapshots of all nodes, with these effects: the allocation of load balancer addresses passes to
// another node (goesFirst), `warren status` of the others reports a problem, the doctor does not probe the peer, and another machine
// may take the node's name. Tunnels, routes, Pods and backends stay.
const leaseTTL = 10 * time.Second

// keepAlive renews the node's leased liveness key.
func (m *Member) keepAlive(ctx context.Context) {
	var b snapshot.Backoff
	for ctx.Err() == nil {
		start := time.Now()
		if err := m.cfg.Store.KeepAlive(ctx, m.cfg.Node, m.cfg.Identity, leaseTTL); err != nil && ctx.Err() == nil {
			m.log.Debug("lost the lease of the liveness key", "err", err)
		}
		if time.Since(start) > leaseTTL {
			b.Reset()
		}
		b.Wait(ctx, nil)
	}
}

// loop joins the cluster and then compares the records whenever something changes. It retries what failed.
func (m *Member) loop(ctx context.Context) error {
	j := joiner{Member: m}
	var b snapshot.Backoff
	joined := false
	for ctx.Err() == nil {
		err := j.join(ctx)
		var mismatch *config.MismatchError
		if errors.As(err, &mismatch) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			if m.join.set(err.Error()) {
				if joined {
					m.log.Warn("cannot update this node's records; retrying", "err", err)
				} else {
					m.log.Warn("cannot join the cluster; retrying", "err", err)
				}
			}
			b.Wait(ctx, nil)
			continue
		}
		if m.join.set("") {
			m.log.Info("node registration recovered")
		}
		joined = true
		b.Reset()
		select {
		case <-ctx.Done():
		case <-m.wake:
		}
	}
	return nil
}

// joiner is the state of the member loop alone.
type joiner struct {
	*Member
	verified     bool  // the cluster's settings were compared
	registeredAt int64 // store revision of the last write of the Node record
	publishedAt  int64 // store revision of the last write of a Pod record
}

// join does what is missing, in order. Last, it restores revocations that the store has lost.
func (j *joiner) join(ctx context.Context) error {
	if err := j.own(ctx); err != nil {
		return err
	}
	for _, r := range j.cfg.Source.Unstored() {
		if err := j.cfg.Store.KeepRevocation(ctx, r); err != nil {
			return fmt.Errorf("restore the revocation of node %s: %w", r.Node, err)
		}
	}
	return nil
}

// own writes this node's own records.
func (j *joiner) own(ctx context.Context) error {
	if err := j.verify(ctx); err != nil {
		return err
	}
	if j.Blocks() == nil { // before the claim, or a machine with a name in use would leave its claims in the store
		if err := j.cfg.Store.CheckName(ctx, j.cfg.Node, j.cfg.Identity); err != nil {
			return err
		}
	}
	snap := j.cfg.Source.Load()
	if err := j.claim(ctx, snap); err != nil {
		return err
	}
	j.growEarly(ctx)
	if snap == nil {
		return nil
	}
	if err := j.register(ctx, snap); err != nil {
		return err
	}
	if j.cfg.Kubernetes {
		return nil // the API server has the Pods
	}
	return j.publish(ctx, snap)
}

// verify compares this node's settings with the cluster's, once.
func (j *joiner) verify(ctx context.Context) error {
	if j.verified {
		return nil
	}
	have, err := j.cfg.Store.EnsureCluster(ctx, j.cfg.Cluster)
	if err != nil {
		return err
	}
	if err := j.cfg.Agree(have); err != nil {
		return err
	}
	if !j.cfg.Kubernetes {
		if err := j.cfg.Objects.EnsureServiceCIDR(ctx, serviceRanges(j.cfg.ServiceCIDRs, have)); err != nil {
			return err
		}
	}
	j.verified = true
	j.setCluster(have)
	return nil
}

// serviceRanges are the ranges of the families that Pods have.
func serviceRanges(all []netip.Prefix, c model.Cluster) []netip.Prefix {
	return model.OfPodFamilies(c, all, func(p netip.Prefix) model.Family { return model.FamilyOf(p.Addr()) })
}

// Unclaimed returns the Pod CIDRs of the Node object that this node has not claimed, each with the reason.
func (m *Member) Unclaimed(snap *model.Snapshot) []api.Unclaimed {
	if len(m.Blocks()) == 0 || snap == nil {
		return nil
	}
	return unclaimed(m.cfg.Source.Node().PodCIDRs, slices.Clone(m.Blocks()), m.Cluster(), snap.Blocks)
}
