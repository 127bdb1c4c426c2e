// Package apply observes the host, makes a plan and brings the kernel, the tunnel, the load balancer, DNS and the agent's sockets
// to it, again and again.
//
// It owns the apply loop's goroutine and everything that only that goroutine uses: the applier with the last plan, the compiled
// table, the sockets and the offloaded Pods. Other goroutines wake the loop and read State. The package decides nothing: what an
// apply does is in the plan.
package apply

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/agent/clusterdns"
	"github.com/warrennet/warren/agent/hostio"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/agent/snapshot"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/ipam"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/servicelb/offload"
	"github.com/warrennet/warren/tunnel"
)

// Config is what a Loop works with.
type Config struct {
	// Self returns the node's identity and settings.
	Self   func() plan.Self
	Source *snapshot.Source
	// Pods returns this node's Pods as Services see them. Attachments returns them as the host has them, those included that
	// CNI ADD has not finished.
	Pods        func() map[model.ObjectName]model.Pod
	Attachments func() []plan.Pod
	Names       *clusterdns.Server
	Host        *hostnet.Host
	// NodeAddresses replace the addresses that the host has, AnnounceLinks the links with one of them.
	NodeAddresses []netip.Addr
	AnnounceLinks []string
	// BeforeReady and Ready are called once, when everything that the node itself needs is applied for the first time: before
	// and after State reports it.
	BeforeReady func()
	Ready       func(*State)
	// Record is called with the node's record when it changes.
	Record func(model.Node)
	// Measure receives the time from a change to its apply.
	Measure func(time.Duration)
	Log     *slog.Logger
}

// DataPath is what plans are applied to. It exists once the tunnel is up.
type DataPath struct {
	Tunnel    *tunnel.Tunnel
	Balancer  *servicelb.Balancer
	Offload   *offload.Program // nil: unavailable or disabled
	Announcer *announce.Announcer
	Pool      *ipam.Pool
	// Reassembled is shared with the goroutines that read its sockets.
	Reassembled *hostio.Reassembled
}

// State is what the last apply did. It is immutable.
type State struct {
	Plan     *plan.Plan
	Revision int64 // of the snapshot
	At       time.Time
	// Err joins the errors of what the node itself needs: its link, addresses, base routes and rules. Refused are those of single
	// entries that come from objects and from records of other nodes; the node is ready without them.
	Err     error
	Refused []error
	// Sockets are those of Services on the host that could not be opened.
	Sockets []error
	Ready   bool // at least one plan has been applied without Err
	// Succeeded is the time of the last apply without Err, zero before the first.
	Succeeded time.Time
}

// Loop is the apply loop. New prepares it, Run works.
type Loop struct {
	cfg     Config
	kicked  chan struct{}
	dirty   atomic.Bool // the kernel's network configuration has changed since the last look
	chains  atomic.Bool // the packet filter's chains have
	arrived arrival
	state   atomic.Pointer[State]
}

// New starts nothing and touches nothing.
func New(c Config) *Loop { return &Loop{cfg: c, kicked: make(chan struct{}, 1)} }

// State returns what the last apply did, nil before the first.
func (l *Loop) State() *State { return l.state.Load() }

// Kick wakes the loop; many calls cause one apply.
func (l *Loop) Kick() {
	select {
	case l.kicked <- struct{}{}:
	default:
	}
}

// SnapshotChanged wakes the loop for a new snapshot.
func (l *Loop) SnapshotChanged() {
	l.arrived.mark()
	l.Kick()
}

// KernelChanged wakes the loop to compare the whole plan with the kernel.
func (l *Loop) KernelChanged() {
	l.dirty.Store(true)
	l.Kick()
}

// ChainsChanged wakes the loop to look for a kube-proxy, too.
func (l *Loop) ChainsChanged() {
	l.chains.Store(true)
	l.KernelChanged()
}

// Constants of the loop.
const (
	// settle is how long the loop waits for further changes after an apply.
	settle = 20 * time.Millisecond
	// reassert is how often the loop compares what sends no notification: sysctls, and the peers that wg(8) can change.
	reassert = 3 * time.Second
	// applyShare caps CPU: after an apply the loop sleeps applyShare times its duration.
	applyShare = 4
)

// Run applies plans until ctx ends.
func (l *Loop) Run(ctx context.Context, d DataPath) error {
	x := newApplier(l, d)
	defer x.socks.close()
	for {
		start := time.Now()
		x.apply()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(settle, applyShare*time.Since(start))):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.kicked:
		case <-time.After(reassert):
		}
	}
}

// arrival is the time of the oldest change that is not applied yet. Watches mark it, the apply loop takes it.
type arrival struct{ ns atomic.Int64 } // Unix time, 0 for none

// mark notes that a change has arrived now.
func (t *arrival) mark() { t.ns.CompareAndSwap(0, time.Now().UnixNano()) }

// take returns the time and clears it; it is zero without a change.
func (t *arrival) take() time.Time {
	if ns := t.ns.Swap(0); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// restore puts a time back that take returned: its change was not applied.
func (t *arrival) restore(at time.Time) {
	if !at.IsZero() {
		t.ns.Store(at.UnixNano())
	}
}
