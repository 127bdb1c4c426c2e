package agent

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/kube"
	"github.com/warrennet/warren/internal/version"
)

// kubernetes is the agent's side of the API server; nil in clusters without Kubernetes. Nodes and blocks still come from
// etcd: merge makes one snapshot of both.
type kubernetes struct {
	conn   *kube.Connection
	health storeHealth

	first   chan struct{} // closed once the API server has told everything
	mu      sync.Mutex
	store   *model.Snapshot   // newest of etcd, nil before the first
	objects *kube.Objects     // newest of the API server, nil before the first
	named   model.Nameservers // of the last run, until then
}

// connectKubernetes prepares the client when this is a Kubernetes node.
func (a *Agent) connectKubernetes() error {
	c := a.cfg.Kubernetes
	if !c.Enabled {
		return nil
	}
	conn, err := kube.Connect(kube.Config{Kubeconfig: c.Kubeconfig, TokenFile: c.TokenFile, CAFile: c.CAFile, ServerName: c.ServerName,
		UserAgent: "warren-agent/" + version.Version}, a.apiServers(c))
	if err != nil {
		return err
	}
	a.kube = &kubernetes{conn: conn, first: make(chan struct{})}
	a.keepAPIServers(c.Servers)
	if a.kube.named, err = a.disk.Nameservers(); err != nil {
		a.log.Warn("the kept name servers are unreadable and were passed over", "err", err)
	}
	return nil
}

// apiServers are the addresses to try, in their order. The address of the Service comes last: it works only once this
// very agent serves it.
func (a *Agent) apiServers(c config.Kubernetes) []string {
	out := slices.Clone(c.Servers)
	for _, h := range []string{c.HostIP, "127.0.0.1"} {
		if h != "" {
			out = append(out, net.JoinHostPort(h, strconv.Itoa(kube.DefaultPort)))
		}
	}
	kept, err := a.disk.APIServers()
	if err != nil {
		a.log.Warn("the kept list of API servers is unreadable and was passed over", "err", err)
	}
	out = append(out, kept...)
	if h := os.Getenv("KUBERNETES_SERVICE_HOST"); h != "" {
		out = append(out, net.JoinHostPort(h, os.Getenv("KUBERNETES_SERVICE_PORT")))
	}
	return out
}

// watchKubernetes follows the API server until ctx ends.
func (a *Agent) watchKubernetes(ctx context.Context) {
	s := kube.New(a.kube.conn, a.cfg.NodeName, a.log)
	s.AllPods = a.cfg.DNS.VerifiesPods()
	s.Watch(ctx, a.takeObjects, func(err error) {
		if err == nil {
			a.kube.health.ok(a.log, "the API server")
		} else if ctx.Err() == nil {
			a.kube.health.failed(a.log, "the API server", err)
		}
	})
}

// takeStore takes a new snapshot of etcd, and makes it the agent's own.
func (a *Agent) takeStore(s *model.Snapshot) {
	a.arrived.mark()
	defer a.kick()
	defer a.heard.Store(true) // not before the snapshot is there: see servicesKept
	if a.kube == nil {
		a.snapshot.Store(s)
		return
	}
	k := a.kube
	k.mu.Lock()
	defer k.mu.Unlock()
	k.store = s
	a.snapshot.Store(merge(s, k.objects, a.snapshot.Load()))
}

// takeObjects takes what the API server knows.
func (a *Agent) takeObjects(o *kube.Objects) {
	a.arrived.mark()
	k := a.kube
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects == nil {
		close(k.first)
	}
	k.objects = o
	base := k.store
	if base == nil {
		base = a.snapshot.Load()
	}
	if base != nil {
		a.snapshot.Store(merge(base, o, nil))
	}
	a.kick()
}

// merge is a snapshot with the nodes and blocks of base and the objects of o. Without o the objects are those of last,
// which may come from the node's disk; without either the snapshot is partial.
func merge(base *model.Snapshot, o *kube.Objects, last *model.Snapshot) *model.Snapshot {
	s := *base
	switch {
	case o != nil:
		s.Services, s.Slices, s.Pods, s.ServiceCIDRs = o.Services, o.Slices, o.Pods, o.ServiceCIDRs
		s.Partial = false
		takePools(&s, o.Pools, o.PoolProblems)
	case last != nil:
		s.Services, s.Slices, s.Pods, s.ServiceCIDRs, s.Partial = last.Services, last.Slices, last.Pods, last.ServiceCIDRs, last.Partial
		keepPools(&s, last)
	default:
		s.Services, s.Slices, s.Pods, s.ServiceCIDRs, s.Pools, s.Partial = nil, nil, nil, nil, nil, true
	}
	return &s
}

// withOwnPods gives a snapshot of a Kubernetes node the Pods that were plugged here, with their host ports: the plugin
// knows them before the API server does. It returns the same snapshot as long as neither changed.
func (a *Agent) withOwnPods(snap *model.Snapshot) *model.Snapshot {
	if a.kube == nil || snap == nil {
		return snap
	}
	pods := joinPods(a.published(), snap.Pods, a.cfg.NodeName)
	if p := &a.podded; p.from != snap || !reflect.DeepEqual(p.pods, pods) {
		out := *snap
		out.Pods = pods
		p.from, p.pods, p.out = snap, pods, &out
	}
	return a.podded.out
}

// joinPods puts the Pods that were plugged on this node beside those that the API server knows on others.
func joinPods(own map[model.ObjectName]model.Pod, known []model.Pod, node string) (out []model.Pod) {
	for _, p := range own {
		out = append(out, p)
	}
	for _, p := range known {
		if p.Node != node {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(x, y model.Pod) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return out
}

// reportedPods are the Pods of the API server, those on this node included; nil without Kubernetes and before its first answer.
func (a *Agent) reportedPods() []model.Pod {
	if a.kube == nil {
		return nil
	}
	a.kube.mu.Lock()
	defer a.kube.mu.Unlock()
	if a.kube.objects == nil {
		return nil
	}
	return a.kube.objects.Pods
}

// podded is the last snapshot that withOwnPods made; only the apply loop uses it.
type podded struct {
	from, out *model.Snapshot
	pods      []model.Pod
}

// node is this node's own object, unknown before the first answer and without Kubernetes.
func (k *kubernetes) node() kube.Node {
	if k == nil {
		return kube.Node{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects == nil {
		return kube.Node{}
	}
	return k.objects.Node
}

// firstClaim bounds how long a new node waits for the API server, whose podCIDRs for it it would rather have than any
// block.
const firstClaim = 10 * time.Second

// preferred are the blocks that Kubernetes has set aside for this node (Node.spec.podCIDRs): those that lie in the Pod
// ranges and have the size of a block.
func (a *Agent) preferred(ctx context.Context) (out []netip.Prefix) {
	if a.kube == nil {
		return nil
	}
	select {
	case <-ctx.Done():
	case <-a.kube.first:
	case <-time.After(firstClaim):
	}
	c := a.cluster()
	for _, p := range a.kube.node().PodCIDRs {
		if plan.Contains(c.PodCIDRs, p.Addr()) && p.Bits() == c.Bits(p) {
			out = append(out, p)
			continue
		}
		a.log.Warn("Kubernetes gave this node a Pod CIDR that warren cannot use; the node takes another block",
			"podCIDR", p, "podCIDRs", c.PodCIDRs, "blockBits", c.BlockBits)
	}
	return out
}

// unclaimed are the Pod CIDRs of the Node object that none of the node's blocks is, each with the reason.
func unclaimed(want, have []netip.Prefix, c model.Cluster, blocks []model.Block) (out []api.Unclaimed) {
	for _, p := range want {
		if slices.Contains(have, p) {
			continue
		}
		why := "it was free only after this node had claimed another"
		switch i := slices.IndexFunc(blocks, func(b model.Block) bool { return b.CIDR.Overlaps(p) }); {
		case !plan.Contains(c.PodCIDRs, p.Addr()):
			why = fmt.Sprintf("it is outside of the Pod ranges %v", c.PodCIDRs)
		case p.Bits() != c.Bits(p):
			why = fmt.Sprintf("blocks are /%d", c.Bits(p))
		case i >= 0:
			why = fmt.Sprintf("node %s has it", blocks[i].Node)
		}
		out = append(out, api.Unclaimed{CIDR: p, Why: why})
	}
	return out
}

// order puts the addresses that Kubernetes knows the node by first.
func (k *kubernetes) order(addrs []netip.Addr) []netip.Addr {
	first := k.node().Addresses
	rank := func(x netip.Addr) int {
		if i := slices.Index(first, x); i >= 0 {
			return i
		}
		return len(first)
	}
	out := slices.Clone(addrs)
	slices.SortStableFunc(out, func(x, y netip.Addr) int { return rank(x) - rank(y) })
	return out
}

// zone is what somebody set here, else the label of the Node object.
func (a *Agent) zone() string {
	if a.cfg.Zone == "" {
		return a.kube.node().Zone
	}
	return a.cfg.Zone
}

// clusterFileCheck is how often the file that the cluster makes is compared; the kubelet renews it within a minute.
const clusterFileCheck = 2 * time.Second

// followClusterFile takes up what changes in the cluster's own settings while the agent runs: servers of etcd and of the
// API, and the addresses of cluster DNS. Other changes are reported and wait for a restart.
func (a *Agent) followClusterFile(ctx context.Context) {
	file := a.cfg.ClusterFile()
	last, _ := os.ReadFile(file)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(clusterFileCheck):
		}
		raw, err := os.ReadFile(file)
		if err != nil || string(raw) == string(last) {
			continue
		}
		last = raw
		cfg, err := a.cfg.Reload()
		if err != nil {
			a.log.Error("the cluster's settings changed and have problems; going on with the old ones", "err", err)
			continue
		}
		a.takeConfig(cfg)
	}
}

// takeConfig applies the settings that may change live.
func (a *Agent) takeConfig(cfg config.Config) {
	if a.kube != nil {
		a.kube.conn.SetServers(a.apiServers(cfg.Kubernetes))
		a.keepAPIServers(cfg.Kubernetes.Servers)
	}
	a.store.SetEndpoints(cfg.Etcd.Endpoints)
	a.dnsWanted.Store(&cfg.ClusterDNS)
	select {
	case a.dnsMoved <- struct{}{}:
	default:
	}
	a.kick()
	if !reflect.DeepEqual(cfg.Cluster, a.cfg.Cluster) {
		a.log.Warn("the cluster's ranges or domain changed in its settings; they are taken up when the agent starts again",
			"podCIDRs", cfg.Cluster.PodCIDRs, "domain", cfg.Cluster.Domain)
	}
	a.log.Info("took up the cluster's settings", "apiServers", strings.Join(cfg.Kubernetes.Servers, ","),
		"etcd", strings.Join(cfg.Etcd.Endpoints, ","), "dns", cfg.ClusterDNS)
}

func (a *Agent) keepAPIServers(servers []string) {
	if len(servers) == 0 {
		return
	}
	if err := a.disk.SetAPIServers(servers); err != nil {
		a.log.Warn("cannot keep the list of API servers on disk", "err", err)
	}
}
