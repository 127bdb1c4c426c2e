// Package probe runs the readiness probes of this node's Pods: a TCP connection or an HTTP request from the node.
//
// It owns one goroutine per probed Pod while Run runs, and the aggregated probe result of each Pod. Set replaces the list of
// Pods to probe. The package never acts on a result: callers read it with Result. It persists nothing.
package probe

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// Target is one Pod interface to probe.
type Target struct {
	ID    api.Attachment
	Addr  netip.Addr
	Probe api.Probe
	// Ready is the Pod's readiness before the first result. A restarted agent must not remove a Pod from its Services.
	Ready bool
}

// Result is the aggregated probe result.
type Result struct {
	Ready bool
	Error string // of the last attempt, "" when it succeeded
}

// Prober runs probes. Make it with New.
type Prober struct {
	changed func()
	wake    chan struct{}

	mu   sync.Mutex
	runs map[api.Attachment]*run
}

// New makes a Prober. changed is called after the readiness of a Pod has changed; it must not block.
func New(changed func()) *Prober {
	return &Prober{changed: changed, wake: make(chan struct{}, 1), runs: map[api.Attachment]*run{}}
}

// Set replaces the list of Pods to probe. A Pod whose probe changed keeps its readiness until the new probe has a result.
func (p *Prober) Set(want []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := map[api.Attachment]*run{}
	for _, t := range want {
		old := p.runs[t.ID]
		switch {
		case old == nil:
			next[t.ID] = newRun(t)
		case old.same(t):
			next[t.ID] = old
		default:
			t.Ready = old.result().Ready
			next[t.ID] = newRun(t)
		}
	}
	for id, r := range p.runs {
		if next[id] != r {
			r.stop()
		}
	}
	p.runs = next
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Result returns the probe result of a Pod; false for a Pod that is not probed.
func (p *Prober) Result(id api.Attachment) (Result, bool) {
	p.mu.Lock()
	r := p.runs[id]
	p.mu.Unlock()
	if r == nil {
		return Result{}, false
	}
	return r.result(), true
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		for _, r := range p.unstarted() {
			all.Go(func() { r.loop(ctx, p.changed) })
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
	}
}

// unstarted returns the runs without a goroutine and marks them as started.
func (p *Prober) unstarted() (out []*run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.runs {
		if !r.started {
			r.started = true
			out = append(out, r)
		}
	}
	return out
}

// run is one probe of one Pod.
type run struct {
	target  Target
	ctx     context.Context // ends when Set removes the target
	stop    context.CancelFunc
	started bool // guarded by Prober.mu

	mu       sync.Mutex
	now      Result
	failures int // since the last success
}

func newRun(t Target) *run {
	ctx, stop := context.WithCancel(context.Background())
	return &run{target: t, ctx: ctx, stop: stop, now: Result{Ready: t.Ready}}
}

func (r *run) same(t Target) bool { return r.target.Addr == t.Addr && r.target.Probe == t.Probe }

func (r *run) result() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// loop makes one attempt per interval until ctx ends or Set removes the target.
func (r *run) loop(ctx context.Context, changed func()) {
	defer context.AfterFunc(ctx, r.stop)()
	every := time.NewTicker(interval(r.target.Probe))
	defer every.Stop()
	for {
		err := attempt(r.ctx, r.target)
		if r.ctx.Err() != nil {
			return
		}
		if r.record(err) {
			changed()
		}
		select {
		case <-r.ctx.Done():
			return
		case <-every.C:
		}
	}
}

// record adds the result of one attempt and reports whether the Pod's readiness changed. One success makes it ready;
// Probe.Failures consecutive failures make it not ready.
func (r *run) record(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.now.Ready
	if err == nil {
		r.failures, r.now = 0, Result{Ready: true}
		return !was
	}
	r.failures++
	r.now.Error = err.Error()
	r.now.Ready = was && r.failures < r.target.Probe.Failures
	return was != r.now.Ready
}
