package tunnel

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/backpressure"
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/pmtud"
	"github.com/warrennet/warren/tunnel/internal/tundev"
	"github.com/warrennet/warren/tunnel/internal/tunfd"
	"github.com/warrennet/warren/tunnel/internal/udpbind"
	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// Tunnel is the node's end of all tunnels. Its methods may be called from any goroutine.
type Tunnel struct {
	cfg      Config
	public   model.Key
	stats    *counters.Set
	sockets  *listen.Sockets
	bind     conn.Bind
	hold     func(ctx context.Context, port uint16) error // opens the UDP sockets before the WireGuard device does
	offloads func() []string                              // of the UDP sockets
	dev      *tundev.Device
	surveyor *pmtud.Surveyor
	ready    chan struct{}

	stale     chan *device.Peer   // peers whose handshakes are refused because their timestamps went backwards
	responder chan []*device.Peer // new peers that initiate the handshake themselves
	crossings chan string         // addresses that answered handshakes which crossed

	sessionGone func(handshake time.Time) bool

	mu      sync.Mutex // guards the fields below, public and the key of cfg, and orders SetPeers calls
	wg      *device.Device
	desired []Peer             // valid ones of the last SetPeers
	moved   map[model.Key]bool // next keys of desired that their peers use
	want    []Peer             // of the WireGuard device: desired, and the standby keys
	states  map[model.Key]*peerState
	byPeer  sync.Map // *device.Peer -> *peerState, for events of the WireGuard device
}

// ErrStopped means that the WireGuard device stopped by itself, for instance because its socket failed.
var ErrStopped = errors.New("the WireGuard device has stopped")

// New checks the configuration and reports every problem at once. It changes nothing.
func New(cfg Config) (*Tunnel, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	return newTunnel(cfg, parts{})
}

// parts are what tests replace; zero values mean the real ones.
type parts struct {
	kernel      tunfd.Kernel
	bind        conn.Bind
	pace        pmtud.Pace
	sessionGone func(handshake time.Time) bool
}

func (p parts) withDefaults() parts {
	if p.kernel == nil {
		p.kernel = tunfd.Linux{}
	}
	if p.pace == (pmtud.Pace{}) {
		p.pace = pmtud.DefaultPace()
	}
	if p.sessionGone == nil {
		p.sessionGone = sessionGone
	}
	return p
}

func newTunnel(cfg Config, p parts) (*Tunnel, error) {
	public, err := PublicKey(cfg.PrivateKey)
	if err != nil {
		return nil, err
	}
	p = p.withDefaults()
	t := &Tunnel{cfg: cfg, public: public, stats: &counters.Set{}, sockets: cfg.Sockets, bind: p.bind,
		hold: func(context.Context, uint16) error { return nil }, offloads: func() []string { return nil },
		ready: make(chan struct{}), stale: make(chan *device.Peer, 16), responder: make(chan []*device.Peer, 16),
		crossings: make(chan string, 16), sessionGone: p.sessionGone, states: map[model.Key]*peerState{},
		moved: map[model.Key]bool{}}
	// A bind of a test neither counts packets nor sends with DF.
	var out, in *backpressure.Gate
	probe, echoes := &atomic.Pointer[byte]{}, &pmtud.Echoes{}
	if p.bind == nil {
		out, in = backpressure.NewGate(), backpressure.NewGate()
		b := udpbind.New(udpbind.Config{SegmentationOffload: !cfg.DisableSegmentationOffload, Log: cfg.Log, Stats: t.stats,
			Sockets: cfg.Sockets, Probe: probe, Out: out, In: in})
		t.bind, t.hold, t.offloads = b, b.Hold, b.Offloads
	}
	if t.sockets == nil {
		t.sockets = listen.New(listen.Config{Log: cfg.Log})
	}
	t.dev = tundev.New(tundev.Config{Name: cfg.Name, Kernel: p.kernel, Queues: cfg.Queues,
		DisableSegmentationOffload: cfg.DisableSegmentationOffload, Hook: cfg.Hook, Log: cfg.Log, Stats: t.stats,
		Source4: cfg.Source4, Source6: cfg.Source6, Echoes: echoes, Probe: probe, Out: out, In: in})
	t.surveyor = pmtud.New(pmtud.Config{Device: t.dev, Echoes: echoes, Log: cfg.Log, Source4: cfg.Source4, Source6: cfg.Source6,
		Pace: p.pace, Peers: t.surveyPeers, SetPathMTU: t.setPathMTU,
		Changes: func() (uint64, uint64) { return t.stats.Handshakes.Load(), t.stats.Fallbacks.Load() }})
	return t, nil
}

// Run carries traffic until ctx ends, and joins every goroutine that it started. The TUN device stays for the next process:
// addresses and routes remain, connections wait. A Tunnel runs once.
func (t *Tunnel) Run(ctx context.Context) (err error) {
	lock, err := lockDevice(t.cfg.LockFile)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := t.dev.Open(t.cfg.MTU); err != nil {
		return err
	}
	log := newDeviceLog(deviceLogConfig{log: t.cfg.Log, stats: t.stats, noAnswer: t.noAnswer, replay: t.replay, crossed: t.cross,
		responding: t.responding})
	wg := device.NewDevice(t.dev, t.bind, log.logger())
	defer wg.Close()
	if err := wg.IpcSet("private_key=" + hex.EncodeToString(t.cfg.PrivateKey[:]) + "\n"); err != nil {
		return fmt.Errorf("set the key of the WireGuard device: %w", err)
	}
	return t.serve(ctx, wg)
}

// PortPart is the part of the agent that has a problem while the UDP port is not open (listen.Sockets.Problem). The TUN device and
// the hook work meanwhile: traffic of this node's Pods and hosts with each other and to Services with endpoints here continues.
const PortPart = "tunnel"

// Role is that of the UDP sockets.
const Role = udpbind.Role

// open opens the UDP port and keeps it open until ctx ends. While another process has the port it tries again. tried is called after
// the first attempt.
func (t *Tunnel) open(ctx context.Context, wg *device.Device, tried func()) {
	t.sockets.Run(ctx, PortPart, func(ctx context.Context, up func()) error {
		err := t.up(ctx, wg)
		if err == nil {
			up()
		} else {
			t.sockets.Report(PortPart, err) // before the tunnel counts as ready
		}
		tried()
		if err == nil {
			<-ctx.Done()
		}
		return err
	})
	tried()
}

func (t *Tunnel) up(ctx context.Context, wg *device.Device) error {
	if err := t.hold(ctx, t.cfg.ListenPort); err != nil {
		return err
	}
	// The WireGuard device forgets its port when it cannot open it.
	if err := wg.IpcSet(fmt.Sprintf("listen_port=%d\n", t.cfg.ListenPort)); err != nil {
		return fmt.Errorf("set the port of the WireGuard device: %w", err)
	}
	if err := wg.Up(); err != nil {
		return fmt.Errorf("open UDP port %d: %w", t.cfg.ListenPort, err)
	}
	return nil
}

// setDevice gives the tunnel's methods the WireGuard device, with the peers that are set already. nil: it is no longer in use.
func (t *Tunnel) setDevice(wg *device.Device) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wg = wg; wg == nil {
		return
	}
	if err := t.apply(); err != nil {
		t.cfg.Log.Warn("cannot configure all peers of the WireGuard device", "err", err)
	}
}

// serve runs the tunnel's own goroutines; the WireGuard device has started its own.
func (t *Tunnel) serve(ctx context.Context, wg *device.Device) error {
	defer t.setDevice(nil)
	g, ctx := errgroup.WithContext(ctx)
	var first sync.WaitGroup // attempts to open sockets
	first.Add(1)
	g.Go(func() error { t.open(ctx, wg, sync.OnceFunc(first.Done)); return nil })
	first.Wait()
	t.setDevice(wg)
	if !t.cfg.DisableUAPI {
		first.Add(1)
		g.Go(func() error { t.serveUAPI(ctx, sync.OnceFunc(first.Done)); return nil })
		first.Wait()
	}
	for i := 1; i < t.cfg.Queues; i++ {
		g.Go(func() error { return t.dev.RunQueue(i) })
	}
	g.Go(func() error { t.repairHandshakes(ctx); return nil })
	g.Go(func() error { t.surveyor.Run(ctx); return nil })
	g.Go(func() error {
		colorBuffers(ctx, wg, func() uint64 { return t.stats.Segments.Load() + t.stats.Received.Load() })
		return nil
	})
	g.Go(func() error {
		defer t.dev.Close() // ends the readers
		select {
		case <-ctx.Done():
			return nil
		case <-wg.Wait():
			return ErrStopped
		}
	})
	close(t.ready)
	return g.Wait()
}

// Ready is closed when Run carries traffic, between this node's Pods only while the UDP port cannot be opened.
func (t *Tunnel) Ready() <-chan struct{} { return t.ready }

// SetMTU changes the device's MTU in bytes; peers with a smaller one keep theirs.
func (t *Tunnel) SetMTU(mtu int) error {
	c := t.cfg
	if c.MTU = mtu; c.validate() != nil {
		return mtuError(mtu)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wg == nil {
		t.cfg.MTU = mtu
		return nil
	}
	return t.dev.SetMTU(mtu)
}

// InjectHost writes packets to the host as if peers had sent them, through the TUN and without the hook. Each is one complete IP
// packet with its checksums; a large one is fragmented. It may be called from any goroutine.
func (t *Tunnel) InjectHost(pkts ...[]byte) error { return t.dev.InjectHost(pkts...) }

// InjectPeer sends packets to the peers that own their destinations, without the hook. Each is one complete IP packet with its
// checksums. Packets without an owner are dropped and counted; packets larger than the path MTU are fragmented. It may be called
// from any goroutine.
func (t *Tunnel) InjectPeer(pkts ...[]byte) error { return t.dev.InjectPeer(pkts...) }

// Stats reads the counters and the offloads in use.
func (t *Tunnel) Stats() Stats {
	s := t.stats.Read()
	s.SegmentationOffload = append(t.dev.Features(), t.offloads()...)
	return s
}

// Delete removes the TUN device of that name from the host, for uninstalling. It succeeds if there is no such device. It fails while
// another process holds the lock, and for a device that is no multi-queue TUN: warren has not created that. It needs CAP_NET_ADMIN,
// but not /dev/net/tun, which the container that uninstalls does not have.
func Delete(name, lockFile string) error {
	link, err := netlink.LinkByName(name)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	lock, err := lockDevice(lockFile)
	if err != nil {
		return err
	}
	defer lock.Close()
	if t, ok := link.(*netlink.Tuntap); !ok || t.Mode != netlink.TUNTAP_MODE_TUN || t.Flags&netlink.TUNTAP_MULTI_QUEUE == 0 {
		return fmt.Errorf("delete %s: the existing device is no multi-queue TUN; delete it yourself if it is not needed", name)
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}
