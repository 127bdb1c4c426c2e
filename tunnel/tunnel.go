package tunnel

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/model"
	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// Tunnel is the node's end of all tunnels. Its methods may be called from any goroutine.
type Tunnel struct {
	cfg    Config
	public model.Key
	stats  counters
	kernel kernel
	bind   conn.Bind
	dev    *tunDevice
	ready  chan struct{}
	stale  chan *device.Peer   // peers whose handshakes we refuse because their clock went back
	shy    chan []*device.Peer // new peers that get the time to start the handshake

	crossings chan string // addresses that answered handshakes which crossed

	pace          surveyPace
	forgetSession func(handshake time.Time) bool // sessionGone; tests do not wait three minutes

	mu     sync.Mutex // guards what follows, and orders SetPeers calls
	engine *device.Device
	want   []Peer
	states map[model.Key]*peerState
	byPeer sync.Map // *device.Peer -> *peerState, for the engine's events
}

// ErrStopped says that the engine ended without being asked to, for instance because its socket broke.
var ErrStopped = errors.New("the WireGuard engine has stopped")

// New checks the configuration and reports every problem at once. It touches nothing.
func New(cfg Config) (*Tunnel, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	return newTunnel(cfg, linuxKernel{}, nil)
}

// newTunnel takes other kernels and networks for tests.
func newTunnel(cfg Config, k kernel, b conn.Bind) (*Tunnel, error) {
	public, err := PublicKey(cfg.PrivateKey)
	if err != nil {
		return nil, err
	}
	t := &Tunnel{cfg: cfg, public: public, kernel: k, bind: b, ready: make(chan struct{}), stale: make(chan *device.Peer, 16), shy: make(chan []*device.Peer, 16), crossings: make(chan string, 16),
		states: map[model.Key]*peerState{}, forgetSession: sessionGone,
		pace: surveyPace{surveyTick, surveyAgain, surveySilent, raiseFirst}}
	if b == nil {
		t.bind = newBind(!cfg.DisableOffload, cfg.Log, &t.stats)
	}
	want := featAll
	if cfg.DisableOffload {
		want = featVnet
	}
	t.dev = newTunDevice(cfg.Name, k, cfg.Queues, want, cfg.Hook, cfg.Log, &t.stats)
	t.dev.source4, t.dev.source6 = cfg.Source4, cfg.Source6
	if b, ok := t.bind.(*bind); ok {
		b.whole = &t.dev.whole
		b.out, b.in = newBacklog(), newBacklog()
		t.dev.out, t.dev.in = b.out, b.in
	}
	return t, nil
}

// Run carries traffic until ctx ends, and joins everything it started. The TUN device is left standing for the next
// process: addresses and routes stay, connections wait. A Tunnel runs once.
func (t *Tunnel) Run(ctx context.Context) (err error) {
	lock, err := lockDevice(t.cfg.LockFile)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := t.dev.open(t.cfg.MTU); err != nil {
		return err
	}
	log := &engineLog{log: t.cfg.Log, stats: &t.stats, noAnswer: t.noAnswer, replay: t.replay, crossed: t.cross}
	engine := device.NewDevice(t.dev, t.bind, log.logger())
	defer engine.Close()
	if err := engine.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\n", hex.EncodeToString(t.cfg.PrivateKey[:]), t.cfg.ListenPort)); err != nil {
		return fmt.Errorf("set key and port of the WireGuard engine: %w", err)
	}
	if err := engine.Up(); err != nil {
		return fmt.Errorf("open UDP port %d: %w", t.cfg.ListenPort, err)
	}
	t.mu.Lock()
	t.engine = engine
	err = t.apply()
	t.mu.Unlock()
	if err != nil {
		t.cfg.Log.Warn("not all peers could be set", "err", err)
	}
	return t.serve(ctx, engine)
}

// serve runs everything beside the engine's own goroutines.
func (t *Tunnel) serve(ctx context.Context, engine *device.Device) error {
	g, ctx := errgroup.WithContext(ctx)
	if !t.cfg.DisableUAPI {
		l, err := listenUAPI(t.cfg.UAPIDir, t.cfg.Name)
		if err != nil {
			return err
		}
		g.Go(func() error { return t.serveUAPI(ctx, l) })
	}
	for i := 1; i < t.cfg.Queues; i++ {
		r := newReader(t.dev, i)
		g.Go(r.run)
	}
	g.Go(func() error { t.greet(ctx); return nil })
	g.Go(func() error { t.surveyPaths(ctx); return nil })
	g.Go(func() error {
		stagger(ctx, engine, func() uint64 { return t.stats.segments.Load() + t.stats.received.Load() })
		return nil
	})
	g.Go(func() error {
		defer t.dev.Close() // ends the readers
		select {
		case <-ctx.Done():
			return nil
		case <-engine.Wait():
			return ErrStopped
		}
	})
	close(t.ready)
	err := g.Wait()
	t.mu.Lock()
	t.engine = nil
	t.mu.Unlock()
	return err
}

// Ready is closed when Run carries traffic.
func (t *Tunnel) Ready() <-chan struct{} { return t.ready }

// PublicKey returns the key that peers know this node by.
func (t *Tunnel) PublicKey() model.Key { return t.public }

// SetMTU changes the device's MTU in bytes; peers with a smaller one keep theirs.
func (t *Tunnel) SetMTU(mtu int) error {
	c := t.cfg
	if c.MTU = mtu; c.validate() != nil {
		return fmt.Errorf("MTU %d: from %d to %d", mtu, minMTU, maxPacket-80)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.engine == nil {
		t.cfg.MTU = mtu
		return nil
	}
	return t.dev.setMTU(mtu)
}

// Stats reads the counters and the offloads in use.
func (t *Tunnel) Stats() Stats {
	s := t.stats.read()
	s.Offload = feature(t.dev.feat.Load()).names()
	if b, ok := t.bind.(*bind); ok {
		s.Offload = append(s.Offload, b.offloads()...)
	}
	return s
}

// Delete removes the TUN device of that name from the host, for uninstalling. A device that is not there is fine;
// one that is no multi-queue TUN is not ours and stays.
func Delete(name, lockFile string) error {
	k := linuxKernel{}
	if _, err := k.mtu(name); err != nil {
		return nil
	}
	lock, err := lockDevice(lockFile)
	if err != nil {
		return err
	}
	defer lock.Close()
	q, err := k.attach(name, true)
	if err != nil {
		return attachError(name, err)
	}
	return errors.Join(q.setPersist(false), q.close())
}
