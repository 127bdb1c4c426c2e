// Package snapshot owns the newest snapshot of everything that the node watches.
//
// It merges three sources: the cluster's records in etcd, on Kubernetes the objects of the API server, and the Pods that are
// attached to this node. It owns the goroutines of both watches and of the persistence on disk, the state of both connections, and
// the copy on disk that serves until a source has answered after a start. Snapshots are immutable. The package makes no plan, and
// writes nothing to a store.
package snapshot

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
	"github.com/warrennet/warren/internal/store/kube"
)

// Store is the cluster's records in etcd.
type Store interface {
	// Watch calls on with each new snapshot, and answered every few seconds while the store answers, until ctx ends or the
	// connection fails.
	Watch(ctx context.Context, on func(*model.Snapshot), answered func()) error
}

// Config is what a Source works with.
type Config struct {
	Store   Store
	Kube    *kube.Connection // nil in clusters without Kubernetes
	Node    string
	AllPods bool // watch the Pods of all nodes
	Disk    disk.Dir
	// Changed is called after each new snapshot; it must not block.
	Changed func()
	Log     *slog.Logger
}

// Source has the newest snapshot.
type Source struct {
	cfg Config
	log *slog.Logger

	newest   atomic.Pointer[model.Snapshot]
	received atomic.Bool // the store has answered since the start
	store    Connectivity
	api      Connectivity

	mu          sync.Mutex
	records     *model.Snapshot   // newest of etcd, nil before the first
	objects     *kube.Objects     // newest of the API server, nil before the first
	first       chan struct{}     // closed with the first objects
	nameservers model.Nameservers // of the last run, until the first objects
	revoked     revocations

	pods   withPods
	toSave chan *model.Snapshot // newest that is not saved yet
}

// New loads the snapshot and the upstreams of the last run from the disk. An unreadable copy is ignored, because it only bridges an
// outage. A copy that a newer version wrote is an error (model.ErrNewer): this version must not run then.
func New(c Config) (*Source, error) {
	s := &Source{cfg: c, log: c.Log, store: Connectivity{name: "etcd", log: c.Log, limit: AnswerLimit},
		api:   Connectivity{name: "API server", log: c.Log},
		first: make(chan struct{}), toSave: make(chan *model.Snapshot, 1)}
	snap, err := c.Disk.Snapshot()
	var newer *model.ErrNewer
	switch {
	case errors.As(err, &newer):
		return nil, err
	case err != nil:
		s.log.Warn("ignoring unreadable cached snapshot", "err", err)
	}
	if snap, err = s.loadRevocations(snap); err != nil {
		return nil, err
	}
	if snap != nil {
		s.newest.Store(snap)
	}
	if c.Kube == nil {
		return s, nil
	}
	if s.nameservers, err = c.Disk.Nameservers(); err != nil {
		s.log.Warn("ignoring unreadable cached upstreams", "err", err)
	}
	return s, nil
}

// Run watches the sources and saves snapshots until ctx ends.
func (s *Source) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { s.watchStore(ctx) })
	all.Go(func() { s.store.watchAge(ctx) })
	all.Go(func() { s.save(ctx) })
	if s.cfg.Kube != nil {
		all.Go(func() { s.watchKubernetes(ctx) })
	}
	all.Wait()
}

// Load returns the newest snapshot, nil before the first one.
func (s *Source) Load() *model.Snapshot { return s.newest.Load() }

// Store returns the state of the connection to etcd, API that to the API server.
func (s *Source) Store() *Connectivity { return &s.store }

// API is the state of the connection to the API server; nil without Kubernetes.
func (s *Source) API() *Connectivity {
	if s.cfg.Kube == nil {
		return nil
	}
	return &s.api
}

// watchStore follows etcd. During an outage the last snapshot stays.
func (s *Source) watchStore(ctx context.Context) {
	var b Backoff
	for ctx.Err() == nil {
		err := s.cfg.Store.Watch(ctx, func(snap *model.Snapshot) {
			b.Reset()
			s.setRecords(snap)
		}, s.store.ok)
		if ctx.Err() != nil {
			return
		}
		s.store.failed(err)
		b.Wait(ctx, nil)
	}
}

// watchKubernetes follows the API server.
func (s *Source) watchKubernetes(ctx context.Context) {
	w := kube.New(s.cfg.Kube, s.cfg.Node, s.log)
	w.AllPods = s.cfg.AllPods
	w.Watch(ctx, s.setObjects, func(err error) {
		if err == nil {
			s.api.ok()
		} else if ctx.Err() == nil {
			s.api.failed(err)
		}
	})
}

// setRecords merges a new snapshot of etcd.
func (s *Source) setRecords(snap *model.Snapshot) {
	defer s.cfg.Changed()
	defer s.received.Store(true) // not before the snapshot is stored: see ServicesCached
	s.mu.Lock()
	defer s.mu.Unlock()
	snap = s.exclude(snap)
	if s.cfg.Kube == nil {
		s.newest.Store(snap)
		return
	}
	s.records = snap
	s.newest.Store(merge(snap, s.objects, s.newest.Load()))
}

// setObjects merges new objects of the API server.
func (s *Source) setObjects(o *kube.Objects) {
	defer s.cfg.Changed()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		close(s.first)
	}
	s.objects = o
	base := s.records
	if base == nil {
		base = s.newest.Load()
	}
	if base != nil {
		s.newest.Store(merge(base, o, nil))
	}
}

// merge returns a snapshot with the nodes and blocks of base and the objects of o. Without o the objects are those of last, which
// may come from the node's disk; without either the snapshot is partial.
func merge(base *model.Snapshot, o *kube.Objects, last *model.Snapshot) *model.Snapshot {
	s := *base
	switch {
	case o != nil:
		s.Services, s.Slices, s.Pods, s.ServiceCIDRs = o.Services, o.Slices, o.Pods, o.ServiceCIDRs
		s.Partial = false
		setPools(&s, o.Pools, o.PoolProblems)
	case last != nil:
		s.Services, s.Slices, s.Pods, s.ServiceCIDRs, s.Partial = last.Services, last.Slices, last.Pods, last.ServiceCIDRs, last.Partial
		copyPools(&s, last)
	default:
		s.Services, s.Slices, s.Pods, s.ServiceCIDRs, s.Pools, s.Partial = nil, nil, nil, nil, nil, true
	}
	return &s
}

// Objects returns the newest objects of the API server; nil without Kubernetes and before its first answer.
func (s *Source) Objects() *kube.Objects {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects
}

// FirstObjects is closed with the first answer of the API server.
func (s *Source) FirstObjects() <-chan struct{} { return s.first }

// Node returns this node's Node object; it is empty without Kubernetes and before the first answer of the API server.
func (s *Source) Node() kube.Node {
	if o := s.Objects(); o != nil {
		return o.Node
	}
	return kube.Node{}
}

// ReportedPods returns the Pods of the API server, those on this node included; nil without Kubernetes and before its first answer.
func (s *Source) ReportedPods() []model.Pod {
	if o := s.Objects(); o != nil {
		return o.Pods
	}
	return nil
}

// Nameservers returns the upstreams that the cluster names. fresh means that they come from the API server and not from the disk.
func (s *Source) Nameservers() (named model.Nameservers, fresh bool) {
	if o := s.Objects(); o != nil && o.Nameservers != nil {
		return *o.Nameservers, true
	}
	return s.nameservers, false
}

// OrderAddresses puts the addresses of the Node object first, in its order.
func (s *Source) OrderAddresses(addrs []netip.Addr) []netip.Addr {
	first := s.Node().Addresses
	rank := func(x netip.Addr) int {
		if i := slices.Index(first, x); i >= 0 {
			return i
		}
		return len(first)
	}
	out := slices.Clone(addrs)
	slices.SortStableFunc(out, func(x, y netip.Addr) int { return rank(x) - rank(y) })
	return out
}

// FromDisk reports whether the snapshot is, in whole or in part, the one of the last run.
func (s *Source) FromDisk() bool {
	snap := s.newest.Load()
	if snap == nil {
		return false
	}
	if !s.received.Load() || s.cfg.Kube == nil {
		return !s.received.Load()
	}
	return s.Objects() == nil && !snap.Partial
}

// ServicesCached reports whether the Services of a snapshot that is loaded later may be those of the last run, and so older than
// flows that the load balancer has restored.
func (s *Source) ServicesCached() bool {
	if s.cfg.Kube == nil {
		return !s.received.Load()
	}
	return s.Objects() == nil
}
