package tunnel

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/tun"
)

// tunDevice is the TUN as the engine sees it: tun.Device with the hook inside. Its first queue is read by the engine's
// own goroutine, so that traffic for peers changes goroutines no more often than it must; the others have readers
// of their own, which turn local traffic around by themselves and put what is for a peer in the line of the first.
// The kernel keeps a flow on the queue it was last written to, so flows of peers gather on the first by themselves.
type tunDevice struct {
	name    string
	kernel  kernel
	log     *slog.Logger
	hook    Hook
	stats   *counters
	want    feature // what the configuration allows
	nqueues int

	feat    atomic.Uint32 // feature in use
	refusal [2]refusals   // of TCP and UDP super-packets

	mu      sync.Mutex // guards queues against reopening
	queues  atomic.Pointer[[]queue]
	mtuNow  atomic.Int32
	table   atomic.Pointer[routes]
	source4 netip.Addr // sender of ICMP errors; invalid: the address the packet was sent to
	source6 netip.Addr

	probes probes
	whole  atomic.Pointer[byte] // the buffer that a probe was cut into: its datagram goes with DF

	out, in *backlog // of the engine, shared with the bind; nil: no limit

	frames  *frames
	asleep  atomic.Bool // the engine's reader waits on its queue and must be woken for the line
	reader  *reader
	writers sync.Pool
	events  chan tun.Event
	once    sync.Once
	done    chan struct{}
}

var _ tun.Device = (*tunDevice)(nil)

func newTunDevice(name string, k kernel, queues int, want feature, h Hook, log *slog.Logger, stats *counters) *tunDevice {
	if h == nil {
		h = passHook{}
	}
	d := &tunDevice{name: name, kernel: k, log: log, hook: h, stats: stats, want: want, nqueues: max(1, queues),
		frames: newFrames(), events: make(chan tun.Event, 4), done: make(chan struct{})}
	d.table.Store(&routes{})
	d.writers.New = func() any { return newWriter(d) }
	return d
}

// queue returns the open queue of that index; it may change when the device is made anew.
func (d *tunDevice) queue(i int) queue { return (*d.queues.Load())[i] }

func (d *tunDevice) has(f feature) bool { return feature(d.feat.Load())&f != 0 }

// File is part of tun.Device; the engine does not use it on Linux.
func (d *tunDevice) File() *os.File { return nil }

// Name returns the interface name.
func (d *tunDevice) Name() (string, error) { return d.name, nil }

// MTU returns the device's MTU in bytes; the engine pads packets up to it.
func (d *tunDevice) MTU() (int, error) { return int(d.mtuNow.Load()), nil }

// Events tells the engine about MTU changes. The engine is brought up and down by Tunnel alone: a link that
// somebody sets down must not cost the handshakes.
func (d *tunDevice) Events() <-chan tun.Event { return d.events }

// BatchSize is constant, as tun.Device demands.
func (d *tunDevice) BatchSize() int { return maxBatch }

// Close ends all reads. The TUN itself stays: it is persistent.
func (d *tunDevice) Close() error {
	var err error
	d.once.Do(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		close(d.done)
		close(d.events)
		for _, q := range *d.queues.Load() {
			err = errors.Join(err, q.close())
		}
	})
	return err
}

func (d *tunDevice) closed() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}
