// Package tundev is the TUN device as the WireGuard device uses it (tun.Device), with the hook, the routes to peers, segmentation
// (GSO) and coalescing (GRO).
//
// It owns the queues of the TUN, the frames that wait between them, and the virtio headers. It starts no goroutine: the tunnel runs
// RunQueue for every queue but the first, and the WireGuard device calls Read and Write. It never sends a packet without an owner.
//
// Segmentation and coalescing are files of this package rather than packages of their own: the reader fills the WireGuard device's
// buffers and the writer walks the chains of a batch through their fields, once per segment.
package tundev

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"github.com/warrennet/warren/tunnel/internal/backpressure"
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"github.com/warrennet/warren/tunnel/internal/pmtud"
	"github.com/warrennet/warren/tunnel/internal/route"
	"github.com/warrennet/warren/tunnel/internal/tunfd"
	"golang.zx2c4.com/wireguard/tun"
)

// ErrClosed is the result of operations on a closed Device.
var ErrClosed = os.ErrClosed

// Config is what a Device needs.
type Config struct {
	Name                       string // of the interface
	Kernel                     tunfd.Kernel
	Queues                     int
	DisableSegmentationOffload bool // no super-packets
	Hook                       Hook // nil: packets of the host to their owners, packets of peers to the host
	Log                        *slog.Logger
	Stats                      *counters.Set
	// Source4 and Source6 are the source addresses of ICMP errors; invalid: the destination of the packet that caused the error.
	Source4, Source6 netip.Addr
	// Echoes receives the answers to path MTU probes; nil: there are none.
	Echoes *pmtud.Echoes
	// Probe is set to the buffer that a path MTU probe was written into: udpbind sends its datagram with DF.
	Probe *atomic.Pointer[byte]
	// Out and In count the packets that the WireGuard device holds; udpbind shares them. nil: no limit.
	Out, In *backpressure.Gate
}

// Device is the TUN device. Its first queue is read by the WireGuard device's own goroutine, so that traffic for peers changes
// goroutines as rarely as possible. The other queues have their own readers. Those reflect local traffic themselves and pass
// packets for peers on to the reader of the first queue. The kernel keeps a flow on the queue that it was last written to, so
// the flows of peers gather on the first queue.
type Device struct {
	cfg     Config
	hook    Hook
	log     *slog.Logger
	stats   *counters.Set
	allowed feature // by the configuration

	feat    atomic.Uint32 // feature in use
	refusal [2]refusals   // of TCP and UDP super-packets

	mu     sync.Mutex // guards queues against reopening
	queues atomic.Pointer[[]tunfd.Queue]
	mtuNow atomic.Int32 // bytes
	table  atomic.Pointer[route.Table]

	frames  *frames
	asleep  atomic.Bool // the first queue's reader waits on its queue and must be woken for a frame
	reader  *reader     // of the first queue
	writers sync.Pool
	events  chan tun.Event
	once    sync.Once
	done    chan struct{}
}

var _ tun.Device = (*Device)(nil)

// New returns a Device; Open attaches its queues.
func New(c Config) *Device {
	if c.Hook == nil {
		c.Hook = passHook{}
	}
	if c.Probe == nil {
		c.Probe = &atomic.Pointer[byte]{}
	}
	c.Queues = max(1, c.Queues)
	d := &Device{cfg: c, hook: c.Hook, log: c.Log, stats: c.Stats, allowed: featAll, frames: newFrames(),
		events: make(chan tun.Event, 4), done: make(chan struct{})}
	if c.DisableSegmentationOffload {
		d.allowed = featVnet
	}
	d.table.Store(&route.Table{})
	d.writers.New = func() any { return newWriter(d) }
	return d
}

// SetRoutes replaces the owners of addresses. It may be called at any time from any goroutine.
func (d *Device) SetRoutes(t *route.Table) { d.table.Store(t) }

// Features names the kernel offloads in use.
func (d *Device) Features() []string { return feature(d.feat.Load()).names() }

// queue returns the open queue of that index; it changes when the device is recreated.
func (d *Device) queue(i int) tunfd.Queue { return (*d.queues.Load())[i] }

func (d *Device) has(f feature) bool { return feature(d.feat.Load())&f != 0 }

func (d *Device) mtu() int { return int(d.mtuNow.Load()) }

// File is part of tun.Device; the WireGuard device does not use it on Linux.
func (d *Device) File() *os.File { return nil }

// Name returns the interface name.
func (d *Device) Name() (string, error) { return d.cfg.Name, nil }

// MTU returns the MTU in bytes; the WireGuard device pads packets up to it.
func (d *Device) MTU() (int, error) { return d.mtu(), nil }

// Events reports MTU changes to the WireGuard device. Only the tunnel brings that device up and down: a link that another process
// sets down must not cost the handshakes.
func (d *Device) Events() <-chan tun.Event { return d.events }

// BatchSize is constant, as tun.Device demands.
func (d *Device) BatchSize() int { return limits.MaxBatch }

// Close ends all reads. The TUN itself stays: it is persistent.
func (d *Device) Close() error {
	var err error
	d.once.Do(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		close(d.done)
		close(d.events)
		for _, q := range *d.queues.Load() {
			err = errors.Join(err, q.Close())
		}
	})
	return err
}

func (d *Device) closed() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}
