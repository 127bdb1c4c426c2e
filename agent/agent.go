// Package agent is the node's control loop: it watches the store, turns each snapshot into a plan (pure) and applies
// the plan to the tunnel, the host's network configuration and the Pods' addresses.
//
// It owns every goroutine of the program, the state directory and the local API socket. State goes one way: store ->
// model.Snapshot -> plan -> apply. While the store is away the last snapshot serves, from memory or from disk. A stop,
// clean or not, leaves the data plane standing; only Uninstall takes it away.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/warrennet/warren/agent/clusterdns"
	"github.com/warrennet/warren/agent/cniserver"
	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/agent/extpeers"
	"github.com/warrennet/warren/agent/hostio"
	"github.com/warrennet/warren/agent/localpods"
	"github.com/warrennet/warren/agent/membership"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/agent/snapshot"
	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/kube"
	"github.com/warrennet/warren/internal/systemd"
	"github.com/warrennet/warren/ipam"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/tunnel"
	"golang.org/x/sync/errgroup"
)

// Agent is one node's agent. New prepares it, Run does everything.
type Agent struct {
	cfg      config.Config
	log      *slog.Logger
	disk     disk.Dir
	identity string
	key      model.Key

	store     *etcd.Store
	kube      *kube.Connection // nil without Kubernetes
	source    *snapshot.Source
	host      *hostnet.Host
	tun       *tunnel.Tunnel
	lb        *servicelb.Balancer
	path      dataPath // what other goroutines read of tun and lb
	offload   offloader
	names     *clusterdns.Server
	proxyAPI  *hostio.KubeProxyAPI // nil without Kubernetes
	pool      *ipam.Pool
	plug      *cniserver.Server
	member    *membership.Member
	pods      *localpods.Pods
	links     *veth.Kernel
	external  *extpeers.Store
	announcer atomic.Pointer[announce.Announcer] // nil before the tunnel is up

	dirty      atomic.Bool // the kernel's network configuration has changed since the last look
	refiltered atomic.Bool // the packet filter's chains have
	arrived    arrival
	applied    atomic.Pointer[appliedState]
	kicked     chan struct{} // wakes the apply loop
}

// appliedState is what the last apply did.
type appliedState struct {
	plan     *plan.Plan
	revision int64
	at       time.Time
	err      error // joined errors of the apply, nil when all of it holds
	first    bool  // at least one apply succeeded as a whole
}

// New loads what the node keeps on its disk. It makes the identity and the key on first use and touches nothing else.
func New(cfg config.Config, log *slog.Logger) (*Agent, error) {
	a := &Agent{cfg: cfg, log: log, disk: disk.Dir(cfg.StateDir), kicked: make(chan struct{}, 1)}
	var err error
	if a.identity, err = a.disk.Identity(cfg.NodeName); err != nil {
		return nil, err
	}
	if a.key, err = tunnel.LoadOrCreateKey(filepath.Join(cfg.StateDir, "private.key")); err != nil {
		return nil, err
	}
	if a.store, err = etcd.New(cfg.Etcd); err != nil {
		return nil, err
	}
	if err := a.connectKubernetes(); err != nil {
		return nil, err
	}
	if a.source, err = snapshot.New(snapshot.Config{Store: a.store, Kube: a.kube, Node: cfg.NodeName, AllPods: cfg.DNS.VerifiesPods(),
		Disk: a.disk, Changed: a.snapshotChanged, Log: log}); err != nil {
		return nil, err
	}
	if a.member, err = membership.New(a.memberConfig()); err != nil {
		return nil, err
	}
	a.pods = localpods.New(localpods.Config{Node: cfg.NodeName, Zone: cfg.Zone, Kubernetes: a.kube != nil, Records: a.records,
		Edit:     func(at api.Attachment, edit func(*ipam.Record)) (ipam.Record, error) { return a.pool.Change(at, edit) },
		Snapshot: a.source.Load, Changed: a.kick})
	a.names = clusterdns.New(a.dnsConfig())
	if a.kube != nil {
		a.proxyAPI = hostio.NewKubeProxyAPI(hostio.KubeProxyConfig{Healthz: cfg.Kubernetes.Healthz, Metrics: cfg.Kubernetes.ProxyMetrics,
			Health: a.proxyHealth, MetricsHandler: promhttp.HandlerFor(a.registry(), promhttp.HandlerOpts{}), Log: log})
	}
	a.host = hostnet.New(cfg.ProcSysNet, filepath.Join(cfg.StateDir, "sysctls.json"), log)
	if a.external, err = extpeers.Open(filepath.Join(cfg.StateDir, "peers.json")); err != nil {
		return nil, err
	}
	return a, nil
}

// Run works until ctx ends or something fails that only a person can mend. It leaves the data plane standing.
func (a *Agent) Run(ctx context.Context) error {
	defer a.store.Close()
	g, ctx := errgroup.WithContext(ctx)
	// With nothing claimed yet there is no plan to make; the socket answers all the same and says so.
	listener, err := listen(a.cfg.RunDir)
	if err != nil {
		return err
	}
	if err := a.openPool(); err != nil {
		listener.Close()
		return err
	}
	a.reconcileOnce() // before the first ADD can be given an address that a live interface holds
	g.Go(func() error { return a.serve(ctx, listener) })
	g.Go(func() error { a.source.Run(ctx); return nil })
	if a.kube != nil {
		g.Go(func() error { a.proxyAPI.Run(ctx); return nil })
	}
	if a.cfg.ClusterFile() != "" {
		g.Go(func() error { a.followClusterFile(ctx); return nil })
	}
	g.Go(func() error { a.pods.Run(ctx); return nil })
	g.Go(func() error { return a.member.Run(ctx) })
	g.Go(func() error { a.reconcilePods(ctx); return nil })
	g.Go(func() error { return a.dataPlane(ctx) })
	if a.cfg.Metrics != "" {
		g.Go(func() error { return a.serveMetrics(ctx) })
	}
	err = g.Wait()
	a.links.Close()
	err = errors.Join(err, a.pool.Close())
	systemd.Notify(systemd.Stopping)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// dataPlane waits for blocks, brings the tunnel up and keeps applying plans.
func (a *Agent) dataPlane(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.member.Claimed():
	}
	a.warnOverlaps()
	under, err := a.underlay(hostnet.Observe)
	if err != nil {
		return err
	}
	in := plan.Input{Self: a.self(), Host: plan.Host{Underlay: under}}
	a.openOffload()
	defer a.offload.close()
	if a.lb, err = servicelb.New(servicelb.Config{FlowFile: filepath.Join(a.cfg.RunDir, "flows"), Offload: a.offload.program, Log: a.log}); err != nil {
		return err
	}
	defer a.closeBalancer()
	tc := tunnel.Config{Hook: a.lb,
		Name: a.cfg.Interface, MTU: in.TunnelMTU(), DisableOffload: !a.cfg.SegmentationOffload,
		PrivateKey: a.key, ListenPort: a.port(), Log: a.log,
		LockFile: lockFile(&a.cfg), UAPIDir: a.cfg.UAPIDir,
	}
	src := in.PodNetAddrs()
	tc.Source4, tc.Source6 = src[model.IPv4], src[model.IPv6]
	t, err := tunnel.New(tc)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.Run(ctx) })
	g.Go(func() error { return a.lb.Run(ctx) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-t.Ready():
		}
		a.tun = t
		a.path.open(a.lb, t)
		a.lb.SendBy(a.inject)
		socks := newSockets(func() []netip.Prefix { return a.member.Cluster().PodCIDRs }, a.log)
		g.Go(func() error { return a.names.Run(ctx) })
		g.Go(func() error { return a.announceLB(ctx) })
		for _, f := range in.Families() {
			g.Go(func() error { return hostio.RunICMP(ctx, f, a.fromHost) })
			g.Go(func() error { return socks.reassembled.Run(ctx, f, a.fromHost) })
		}
		return a.applyLoop(ctx, socks)
	})
	g.Go(func() error { return hostnet.Watch(ctx, a.kernelChanged) })
	g.Go(func() error { return hostnet.WatchChains(ctx, a.chainsChanged) })
	return g.Wait()
}

// closeBalancer unmaps the flow table once no handler reads it any more.
func (a *Agent) closeBalancer() {
	a.path.close()
	if err := a.lb.Close(); err != nil {
		a.log.Warn("cannot close the flow table", "err", err)
	}
}

// settle is how long the loop gathers further changes after an apply; reassert is how often it looks after what sends
// no notification (sysctls, the peers that wg(8) can change). applyShare bounds what a storm of changes costs: after an
// apply the loop rests at least that many times as long as it took.
const (
	settle     = 20 * time.Millisecond
	reassert   = 3 * time.Second
	applyShare = 4
)

func (a *Agent) applyLoop(ctx context.Context, socks *sockets) error {
	defer socks.close()
	x := newApplier(a, socks)
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
		case <-a.kicked:
		case <-time.After(reassert):
		}
	}
}

// snapshotChanged is called for each new snapshot.
func (a *Agent) snapshotChanged() {
	a.arrived.mark()
	a.kick()
}

// kick asks for an apply soon; many kicks make one.
func (a *Agent) kick() {
	a.member.Wake()
	select {
	case a.kicked <- struct{}{}:
	default:
	}
}

// kernelChanged asks for an apply that looks at the kernel, too.
func (a *Agent) kernelChanged() {
	a.dirty.Store(true)
	a.kick()
}

// chainsChanged asks for one that looks for a kube-proxy.
func (a *Agent) chainsChanged() {
	a.refiltered.Store(true)
	a.kernelChanged()
}

// port is the node's own UDP port: what was set here, else the cluster's.
func (a *Agent) port() uint16 {
	if a.cfg.Given("port") {
		return a.cfg.Cluster.Port
	}
	return a.member.Cluster().Port
}

func (a *Agent) warnOverlaps() {
	over, others, err := hostnet.Overlaps(a.member.Cluster().PodCIDRs)
	if err != nil {
		a.log.Warn("cannot compare the Pod ranges with the host's routes", "err", err)
	}
	if len(others) > 0 {
		a.log.Info("another network has Pods in the Pod ranges; they stay where they are until they are made anew", "routes", others)
	}
	for _, o := range over {
		a.log.Error("range overlap: Pods cannot reach that network and may take its traffic", "overlap", o)
	}
}

func (a *Agent) openPool() error {
	if err := os.MkdirAll(a.cfg.RunDir, 0o700); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	return a.openPlug()
}
