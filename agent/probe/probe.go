// Package probe asks Pods of this node whether they are ready: by a TCP connection or an HTTP request from the node.
//
// It owns one goroutine per probed Pod while Run is running, and what the answers amount to. Which Pods are probed is
// told by Set; what follows from an answer is for whoever asks Result. It keeps nothing on disk.
package probe

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// Target is a Pod's interface that is to be probed.
type Target struct {
	ID    api.Attachment
	Addr  netip.Addr
	Probe api.Probe
	// Ready is what the Pod counts as until there are answers that say otherwise: a restarted agent must not take a
	// Pod out of its Services.
	Ready bool
}

// Result is what the answers amount to.
type Result struct {
	Ready bool
	Error string // of the last attempt, "" when it succeeded
}

// Prober probes. The zero value is not ready: use New.
type Prober struct {
	changed func()
	wake    chan struct{}

	mu   sync.Mutex
	runs map[api.Attachment]*run
}

// New makes a Prober; changed is called after a Pod has become ready or stopped being so, and must not block.
func New(changed func()) *Prober {
	return &Prober{changed: changed, wake: make(chan struct{}, 1), runs: map[api.Attachment]*run{}}
}

// Set says what is to be probed from now on. A Pod whose probe is another one than before stays as ready as it was.
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

// Result returns what is known of a Pod; false for one that is not probed.
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
		for _, r := range p.fresh() {
			all.Go(func() { r.loop(ctx, p.changed) })
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
	}
}

// fresh returns the runs that have no goroutine yet, once.
func (p *Prober) fresh() (out []*run) {
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
	life    context.Context // until nobody wants it any more
	stop    context.CancelFunc
	started bool // guarded by Prober.mu

	mu       sync.Mutex
	now      Result
	failures int // since the last success
}

func newRun(t Target) *run {
	life, stop := context.WithCancel(context.Background())
	return &run{target: t, life: life, stop: stop, now: Result{Ready: t.Ready}}
}

func (r *run) same(t Target) bool { return r.target.Addr == t.Addr && r.target.Probe == t.Probe }

func (r *run) result() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *run) loop(ctx context.Context, changed func()) {
	defer context.AfterFunc(ctx, r.stop)()
	every := time.NewTicker(interval(r.target.Probe))
	defer every.Stop()
	for {
		err := ask(r.life, r.target)
		if r.life.Err() != nil {
			return
		}
		if r.note(err) {
			changed()
		}
		select {
		case <-r.life.Done():
			return
		case <-every.C:
		}
	}
}

// note counts an answer and reports whether the Pod's readiness has changed: one success makes it ready, as many
// failures in a row as the probe says make it not.
func (r *run) note(err error) bool {
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
