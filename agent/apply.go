package agent

import (
	"errors"
	"net/netip"
	"reflect"
	"time"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/version"
	"github.com/warrennet/warren/servicelb"
)

// apply makes one plan from the newest snapshot and brings the kernel and the tunnel to it: the tunnel's peers first,
// then addresses, routes and rules (adds before removals inside each). A part that fails does not stop the others.
func (a *Agent) apply() {
	arrived := a.arrived.Swap(0)
	kept := a.servicesKept()
	snap := a.snapshot.Load()
	if snap == nil {
		snap = noSnapshot
	}
	snap = a.withOwnPods(snap)
	blocks := a.blocks.Load()
	under, look, err := a.lookAtKernel()
	if err != nil {
		a.log.Warn("cannot read the host's addresses", "err", err)
		return
	}
	if tooEarly(snap, under) {
		return
	}
	strangers := a.strangers()
	me := a.self(under)
	me.SNAT = a.standIns(me.Blocks, strangers)
	for _, x := range me.SNAT {
		strangers = append(strangers, x) // the pool must not give it away either
	}
	me.Health = a.checks.set(snap, a.cfg.NodeName, me.Cluster.PodCIDRs)
	pods := a.localPods()
	p := makePlan(me, snap, pods, a.tables.build)
	p.besideOthers(me, snap, a.kernel.kubeProxy)
	a.relays.set(relayed(snap, pods, me))
	a.hearFragments(snap, pods, me)
	if d := a.dns.Load(); d != nil {
		d.SetAllow(a.cfg.dnsAllowed(a.dnsAddrs(), *blocks))
	}
	changed, err := 0, error(nil)
	a.pool.SetStrangers(strangers)
	if look || !a.holds(p) {
		errs := []error{err, a.tun.SetMTU(p.MTU), a.tun.SetPeers(p.Peers)}
		changed, err = a.host.Set(p.Host)
		err = errors.Join(append(errs, err)...)
	}
	a.setFastPods(look)
	// After the steering: a flow whose replies are not steered yet would break.
	switch {
	case snap.Partial:
	case kept:
		a.lb.SetKept(p.Table)
	default:
		a.lb.Set(p.Table)
	}
	a.setAnnounced(me, snap, p.Peers)
	a.setDNS(snap)
	a.setSearches()
	a.setUpstreams()
	if arrived != 0 && err == nil {
		programming.Observe(time.Since(time.Unix(0, arrived)).Seconds())
	}
	a.finish(p, snap, changed, err)
}

// kernelView is what the apply loop last saw of the kernel. Services come and go much more often than the host's own
// configuration, and reading that takes milliseconds: it is read again when the kernel says that something changed, and
// every reassert for what it does not tell.
type kernelView struct {
	under     hostnet.Underlay
	listeners []uint16 // in the steered ranges
	kubeProxy bool     // its rules are there
	at        time.Time
}

// lookAtKernel reads the host's addresses if it is time; look says that all of the plan should be compared, too.
func (a *Agent) lookAtKernel() (under hostnet.Underlay, look bool, err error) {
	last := a.applied.Load()
	if !a.dirty.Swap(false) && last != nil && last.err == nil && time.Since(a.kernel.at) < reassert {
		return a.ordered(a.kernel.under), false, nil
	}
	if under, err = a.underlay(); err != nil {
		a.dirty.Store(true)
		return under, true, err
	}
	proxied := a.kernel.kubeProxy
	if a.refiltered.Swap(false) || last == nil {
		proxied = a.seesKubeProxy()
	}
	a.kernel = kernelView{under, a.lookAtListeners(), proxied, time.Now()}
	return a.ordered(under), true, nil
}

// holds reports whether the last apply brought the kernel and the tunnel to the same.
func (a *Agent) holds(p plan) bool {
	last := a.applied.Load()
	return last != nil && last.plan.MTU == p.MTU && reflect.DeepEqual(last.plan.Peers, p.Peers) && reflect.DeepEqual(last.plan.Host, p.Host)
}

// ordered puts the addresses first by which Kubernetes knows the node.
func (a *Agent) ordered(under hostnet.Underlay) hostnet.Underlay {
	if a.kube != nil {
		under.Addrs = a.kube.order(under.Addrs)
	}
	return under
}

// noSnapshot stands for the time before the first one.
var noSnapshot = &model.Snapshot{}

// finish publishes what was applied and keeps the snapshot on disk.
func (a *Agent) finish(p plan, snap *model.Snapshot, changed int, err error) {
	last := a.applied.Load()
	now := &appliedState{plan: p, revision: snap.Revision, at: time.Now(), err: err, first: err == nil || last != nil && last.first}
	ready := now.first && (last == nil || !last.first)
	if ready {
		a.offerPlugin() // before anybody is told that Pods can be plugged
	}
	a.applied.Store(now)
	if err != nil && (last == nil || last.err == nil || last.err.Error() != err.Error()) {
		a.log.Error("not all of the plan could be applied; trying again", "err", err)
	}
	if err == nil && last != nil && last.err != nil {
		a.log.Info("the plan holds again")
	}
	if changed > 0 && last != nil && last.err == nil && reflect.DeepEqual(last.plan.Host, p.Host) {
		a.log.Info("host network brought back to the plan", "changes", changed)
	}
	if ready {
		a.becameReady()
	}
	if old := a.wanted.Load(); old == nil || !reflect.DeepEqual(*old, p.Node) {
		a.wanted.Store(&p.Node)
		select {
		case a.rejoin <- struct{}{}:
		default:
		}
	}
	a.offerSnapshot(snap)
	for _, x := range p.Problems {
		if last == nil || !contains(last.plan.Problems, x) {
			a.log.Warn("problem in the cluster's records", "problem", x)
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// underlay is what the host offers, or what the configuration says it does.
func (a *Agent) underlay() (hostnet.Underlay, error) {
	under, err := hostnet.Observe(a.cluster().PodCIDRs)
	if len(a.cfg.NodeAddresses) > 0 {
		under.Addrs = a.cfg.NodeAddresses
	}
	return under, err
}

func (a *Agent) self(under hostnet.Underlay) self {
	var blocks []netip.Prefix
	if b := a.blocks.Load(); b != nil {
		blocks = *b
	}
	return self{Name: a.cfg.NodeName, Identity: a.identity, PublicKey: publicKey(a.key), Blocks: blocks, Underlay: under,
		Endpoints: a.cfg.Endpoints, Port: a.port(), MTU: a.cfg.MTU, Interface: a.cfg.Interface, Zone: a.zone(),
		Version: version.Version, Keepalive: a.cfg.Keepalive, Cluster: a.cluster(), Foreign: a.foreign.list(), DNS: a.dnsAddrs(),
		NodePortRanges: a.cfg.NodePortAddresses, Spared: spared(a.kernel.listeners), NonMasquerade: a.cfg.NonMasquerade}
}

// tableCache keeps the last table: the loop runs every few seconds, and most runs see the same Services. What changed
// between two snapshots the builder compiles alone.
type tableCache struct {
	builder servicelb.Builder
	self    servicelb.Self
	snap    *model.Snapshot
	table   *servicelb.Table
}

func (c *tableCache) build(me servicelb.Self, snap *model.Snapshot) *servicelb.Table {
	if c.table == nil || c.snap != snap || !reflect.DeepEqual(c.self, me) {
		c.self, c.snap, c.table = me, snap, c.builder.Build(me, snap)
	}
	return c.table
}
