package servicelb

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/affinity"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/table"
	"github.com/warrennet/warren/servicelb/internal/traffic"
	"github.com/warrennet/warren/servicelb/offload"
)

// Config configures a Balancer.
type Config struct {
	// FlowFile preserves the flows for the next process; "" means anonymous memory.
	FlowFile string
	// MaxFlows is the capacity of the flow table; 0 means 262,144.
	MaxFlows int
	// Offload forwards flows between Pods of this node; nil means no offload. The Balancer does not close it.
	Offload *offload.Program
	Log     *slog.Logger
}

// Balancer translates packets. Outbound, Inbound and FromHost may be called from any number of goroutines.
type Balancer struct {
	flows    *conntrack.Table
	clock    atomic.Uint32 // seconds of CLOCK_BOOTTIME at the last tick
	started  uint32        // when the Balancer was made; older flows were restored
	view     atomic.Pointer[view]
	setting  sync.Mutex // held by Set and SetPods
	send     atomic.Pointer[func(pkt []byte, to packet.Verdict)]
	offloads *offload.Slots

	sessions  *affinity.Sessions
	fragments fragmentCache
	udpCalls  udpCallCache
	sctpHeads sctpHeads
	counters  counters
	answers   answerLimit
	ledger    traffic.Ledger
}

// view is a table with its generation, which flows store as the last one that has confirmed them.
type view struct {
	*table.Table
	gen uint32
	// keepUntil: the table may be older than the flows created up to then, and ends none of them. 0: it is current.
	keepUntil uint32
}

const (
	tick          = 250 * time.Millisecond // interval at which the coarse clock is read
	sweepInterval = 5                      // seconds between two sweeps of the flow table
)

// New opens the flow file and restores the flows of the previous process. It starts no goroutine.
func New(c Config) (*Balancer, error) {
	if c.MaxFlows == 0 {
		c.MaxFlows = 1 << 18
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	b := &Balancer{sessions: affinity.New(), started: bootSeconds()}
	b.clock.Store(b.started)
	b.view.Store(&view{Table: &table.Table{}})
	b.offloads = offload.NewSlots(c.Offload, c.MaxFlows, c.Log)
	var err error
	b.flows, err = conntrack.Open(conntrack.Config{Path: c.FlowFile, Capacity: c.MaxFlows, Now: b.started, Ended: b.flowEnded, Log: c.Log})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Run reads the clock and ends idle flows until ctx is done.
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
		if now-swept >= sweepInterval || b.flows.NearCapacity() && now != swept {
			b.flows.Sweep(now)
			swept = now
		}
	}
}

// Close closes the flow file. No packet may be in the balancer, and no caller may list flows, from then on.
func (b *Balancer) Close() error { return b.flows.Close() }

// Set makes t the table for all packets from now on. Each flow is compared with it at its next packet.
func (b *Balancer) Set(t *Table) { b.setView(t, 0) }

// SetKept is Set with a table that may be older than the restored flows. Until the next Set it ends none of them.
func (b *Balancer) SetKept(t *Table) { b.setView(t, b.started) }

func (b *Balancer) setView(t *Table, keepUntil uint32) {
	b.setting.Lock()
	defer b.setting.Unlock()
	old := b.view.Load()
	if old.Table == t && old.keepUntil == keepUntil {
		return
	}
	v := &view{Table: t, gen: old.gen + 1, keepUntil: keepUntil}
	var restored []restoredFlow
	if old.gen == 0 { // no packet has passed yet
		b.restoreSessions(t)
		restored = b.restoredFlows()
	}
	b.view.Store(v)
	b.confirmOffloads()
	b.offloadRestored(v, restored)
}

// restoreSessions derives sessions from the restored flows: a client's newest flow to a Service port has its backend.
func (b *Balancer) restoreSessions(t *Table) {
	type sessionKey struct {
		service uint64
		client  netip.Addr
	}
	youngest := map[sessionKey]time.Duration{} // age
	var part []Flow
	for shard := range conntrack.Shards {
		part = b.flows.AppendFlows(part[:0], shard, b.now(), nil)
		for _, x := range part {
			f := t.Frontend(table.Key{Addr: x.Service.Addr(), Port: x.Service.Port(), Proto: x.Proto})
			if x.Masquerade || f == nil || f.Affinity == 0 {
				continue
			}
			k := sessionKey{f.ID, x.Client.Addr()}
			if age, ok := youngest[k]; !ok || x.Age < age {
				youngest[k] = x.Age
				b.sessions.Put(affinity.Session{Service: k.service, Client: k.client, Backend: x.Backend,
					Seen: b.now() - uint32(x.Idle/time.Second)})
			}
		}
	}
}

func (b *Balancer) now() uint32 { return b.clock.Load() }

// bootSeconds reads CLOCK_BOOTTIME, which includes suspend and is never stepped. The result is never zero.
func bootSeconds() uint32 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 1
	}
	return uint32(ts.Sec) + 1
}
