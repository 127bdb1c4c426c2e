package servicelb

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/offload"
	"golang.org/x/sys/unix"
)

// Config is what a Balancer is made from.
type Config struct {
	// FlowFile keeps the flows for the next process; "" means anonymous memory.
	FlowFile string
	// MaxFlows bounds the flow table, 0 means 262,144.
	MaxFlows int
	// Offload carries flows between Pods of this node, nil: nothing does. The Balancer does not close it.
	Offload *offload.Program
	Log     *slog.Logger
}

// Balancer translates packets. Outbound, Inbound and FromHost may be called from any number of goroutines.
type Balancer struct {
	log   *slog.Logger
	flows *flows
	file  *flowFile
	clock atomic.Uint32 // seconds of CLOCK_BOOTTIME, as of the last tick
	began uint32        // when the Balancer was made; what is older was adopted
	view  atomic.Pointer[view]
	set   sync.Mutex // one Set at a time

	offloads *offloads
	sender   atomic.Pointer[func([]byte, packet.Verdict)]
	affinity affinity
	pieces   pieces
	calls    calls
	heads    sctpHeads
	counters counters
	ledger   ledger
}

// view is a table and its number, which flows remember as the last one that has confirmed them.
type view struct {
	*Table
	gen uint32
	// since: flows that began up to then are newer than the table, which ends none of them. 0: the table knows all.
	since uint32
}

// tick is how often the coarse clock is read; sweepEvery how many seconds pass between walks over all flows.
const (
	tick       = 250 * time.Millisecond
	sweepEvery = 5
)

// New opens the flow file, or adopts the flows that an earlier process has left there. It starts no goroutine.
func New(c Config) (*Balancer, error) {
	if c.MaxFlows == 0 {
		c.MaxFlows = 1 << 18
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	b := &Balancer{log: c.Log}
	b.began = bootSeconds()
	b.clock.Store(b.began)
	if err := b.openFlows(c); err != nil {
		return nil, err
	}
	b.offloads = newOffloads(c.Offload, len(b.flows.slots), c.Log)
	b.flows.ended = b.settle
	b.affinity.init()
	b.view.Store(&view{Table: &Table{}})
	return b, nil
}

// Run keeps the clock and ends flows that are idle for too long, until ctx is done.
func (b *Balancer) Run(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	swept := b.now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := bootSeconds()
		b.clock.Store(now)
		b.watchOffloads()
		if now-swept >= sweepEvery || b.flows.pressed() && now != swept {
			b.flows.sweep(now)
			swept = now
		}
	}
}

// Close gives the flow file back. No packet may be in the balancer's hands any more.
func (b *Balancer) Close() error { return b.file.close() }

// Set makes t the table for all packets from now on. Flows are compared with it when their next packet comes.
func (b *Balancer) Set(t *Table) { b.setView(t, 0) }

// SetKept is Set with a table that may be older than the adopted flows: until the next Set they go on as they are.
func (b *Balancer) SetKept(t *Table) { b.setView(t, b.began) }

func (b *Balancer) setView(t *Table, since uint32) {
	b.set.Lock()
	defer b.set.Unlock()
	old := b.view.Load()
	if old.Table == t && old.since == since {
		return
	}
	v := &view{Table: t, gen: old.gen + 1, since: since}
	var adopted []candidate
	if old.gen == 0 { // until now no packet has passed
		b.affinity.recall(t, b.flows, b.now())
		adopted = b.adopted()
	}
	b.view.Store(v)
	b.confirmOffloads()
	b.readmit(v, adopted)
}

func (b *Balancer) now() uint32 { return b.clock.Load() }

// bootSeconds reads the clock that goes on through suspend and that steps for nobody. It is never zero.
func bootSeconds() uint32 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 1
	}
	return uint32(ts.Sec) + 1
}
