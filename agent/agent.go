// Package agent is one node's agent: it connects the packages that do the work, starts their goroutines and joins them.
//
// State flows in one direction. Package snapshot merges what the stores and the API server deliver into an immutable model.Snapshot.
// Package apply observes the host, makes a plan of both (package plan, a pure function) and applies it to the tunnel, the load
// balancer and the host. Package membership writes this node's records. While a store is unreachable the last snapshot is used,
// from memory or from disk.
//
// The agent owns the state directory and the run directory. When it stops, kernel state and interfaces are left in place; only
// Uninstall removes them.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/warrennet/warren/agent/apply"
	"github.com/warrennet/warren/agent/clusterdns"
	"github.com/warrennet/warren/agent/cniserver"
	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/agent/datapath"
	"github.com/warrennet/warren/agent/extpeers"
	"github.com/warrennet/warren/agent/hostio"
	"github.com/warrennet/warren/agent/localapi"
	"github.com/warrennet/warren/agent/localpods"
	"github.com/warrennet/warren/agent/membership"
	"github.com/warrennet/warren/agent/metrics"
	"github.com/warrennet/warren/agent/nodekey"
	"github.com/warrennet/warren/agent/snapshot"
	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/store/disk"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/kube"
	"github.com/warrennet/warren/internal/systemd"
	"github.com/warrennet/warren/ipam"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/tunnel"
	"golang.org/x/sync/errgroup"
)

// Agent is one node's agent. New prepares it, Run does everything. Its parts own their state; Agent connects them.
type Agent struct {
	cfg     config.Config
	log     *slog.Logger
	sockets *listen.Sockets
	nodeState
	stores
	podParts
	dataPathParts
	servers

	member   *membership.Member // this node's records in the store
	external *extpeers.Store
	loop     *apply.Loop // the only user of the plan
}

// nodeState is what the state directory has of the node. Only keys change while the agent runs.
type nodeState struct {
	disk     disk.Dir
	identity string
	keys     *nodekey.Keys
}

// stores deliver the cluster's state. source merges what they deliver.
type stores struct {
	store  *etcd.Store
	kube   *kube.Connection // nil without Kubernetes
	source *snapshot.Source
}

// podParts attach Pods. Run opens pool, links and cni before the first goroutine starts.
type podParts struct {
	pods  *localpods.Pods
	pool  *ipam.Pool
	links *veth.Kernel
	cni   *cniserver.Server
}

// dataPathParts are what other goroutines may use of the data path, which exists between the first claim and the agent's end.
type dataPathParts struct {
	path      datapath.Guard                     // tunnel and load balancer
	announcer atomic.Pointer[announce.Announcer] // nil before the tunnel is up
	offload   offloadState
}

// servers answer Pods and operators.
type servers struct {
	names    *clusterdns.Server
	api      *localapi.Server
	metrics  *metrics.Metrics
	proxyAPI *hostio.KubeProxyAPI // nil without Kubernetes
}

// New loads the node's state from its disk. It creates the identity and the key on first use, and changes nothing else.
func New(cfg config.Config, log *slog.Logger) (*Agent, error) {
	a := &Agent{cfg: cfg, log: log, sockets: openSockets(log), nodeState: nodeState{disk: disk.Dir(cfg.StateDir)}}
	var err error
	if a.identity, err = a.disk.Identity(cfg.NodeName); err != nil {
		return nil, err
	}
	if a.keys, err = nodekey.Open(cfg.StateDir); err != nil {
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
	a.metrics = metrics.New(view{a}, &a.path)
	if a.kube != nil {
		a.proxyAPI = hostio.NewKubeProxyAPI(hostio.KubeProxyConfig{Healthz: cfg.Kubernetes.Healthz, Metrics: cfg.Kubernetes.ProxyMetrics,
			Health: a.proxyHealth, MetricsHandler: a.metrics.Handler(), Sockets: a.sockets})
	}
	a.loop = apply.New(a.applyConfig())
	if a.external, err = extpeers.Open(filepath.Join(cfg.StateDir, "peers.json")); err != nil {
		return nil, err
	}
	a.api = localapi.New(localapi.Config{View: view{a}, DataPath: &a.path, Pods: a.pods, DNS: a.names, External: a.external, Keys: a.keys,
		Changed:    a.kick,
		ProcSysNet: cfg.ProcSysNet})
	return a, nil
}

// openSockets takes the sockets of the last agent from the service manager, if there is one that kept them.
func openSockets(log *slog.Logger) *listen.Sockets {
	c := listen.Config{Log: log}
	if systemd.Running() {
		c.Keeper, c.Inherited = systemd.Store{}, systemd.Inherited()
	}
	s := listen.New(c)
	s.KeepRoles(metrics.Role, dns.Role, tunnel.Role, announce.Role, hostio.HealthzRole, hostio.ProxyMetricsRole)
	return s
}

// Run works until ctx ends or an unrecoverable error occurs. Kernel state and interfaces are left in place.
func (a *Agent) Run(ctx context.Context) error {
	defer a.store.Close()
	defer a.sockets.Close()
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { systemd.Notify(systemd.Stopping) })()
	lock, err := localapi.Lock(a.cfg.RunDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	a.removeTemporaryFiles()
	if err := a.openPool(); err != nil {
		return err
	}
	a.reconcileOnce() // before a CNI ADD can receive an address that an existing interface has
	// The local API answers before the first claim, too, and reports what is missing.
	g.Go(func() error { a.serveAPI(ctx); return nil })
	g.Go(func() error { a.source.Run(ctx); return nil })
	if a.kube != nil {
		g.Go(func() error { a.proxyAPI.Run(ctx); return nil })
	}
	if a.cfg.ClusterFile() != "" {
		g.Go(func() error { a.followClusterFile(ctx); return nil })
	}
	g.Go(func() error { a.pods.Run(ctx); return nil })
	g.Go(func() error { return a.member.Run(ctx) })
	g.Go(func() error { a.keys.Run(ctx, a.keyConfig()); return nil })
	g.Go(func() error { a.reconcilePods(ctx); return nil })
	g.Go(func() error { return a.dataPlane(ctx) })
	g.Go(func() error { a.metrics.Run(ctx, a.sockets, a.cfg.Metrics); return nil })
	err = g.Wait()
	a.links.Close()
	err = errors.Join(err, a.pool.Close())
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// removeTemporaryFiles removes what a killed agent left between the creation of a file and its renaming.
func (a *Agent) removeTemporaryFiles() {
	err := errors.Join(atomicfile.RemoveTemporaryIn(a.cfg.StateDir), atomicfile.RemoveTemporaryIn(a.cfg.RunDir))
	if a.cfg.CNIConfDir != "" {
		err = errors.Join(err, atomicfile.RemoveTemporary(filepath.Join(a.cfg.CNIConfDir, ConflistName)))
	}
	if err != nil {
		a.log.Warn("cannot remove temporary files of an earlier run", "err", err)
	}
}

// serveAPI serves the local API until ctx ends.
func (a *Agent) serveAPI(ctx context.Context) {
	a.sockets.Run(ctx, "local API", func(ctx context.Context, up func()) error {
		l, err := localapi.Listen(a.cfg.RunDir)
		if err != nil {
			return err
		}
		up()
		return a.api.Run(ctx, l, a.cni.Attach)
	})
}

// kick wakes the apply loop and the member loop.
func (a *Agent) kick() {
	a.member.Wake()
	a.loop.Kick()
}

// port is the node's own UDP port: the setting if it is set here, else the cluster's.
func (a *Agent) port() uint16 {
	if a.cfg.Given("port") {
		return a.cfg.Cluster.Port
	}
	return a.member.Cluster().Port
}

func (a *Agent) openPool() error {
	if err := os.MkdirAll(a.cfg.RunDir, 0o700); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	return a.openCNI()
}
