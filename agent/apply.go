package agent

import (
	"errors"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/version"
	"github.com/warrennet/warren/servicelb"
)

// applier brings the kernel, the tunnel, the load balancer and the agent's sockets to the plan. Only the apply loop holds it.
type applier struct {
	*Agent
	tables tableCache
	view   hostView
	pods   offloadPods
	socks  *sockets
	last   *plan.Plan // nil before the first
}

func newApplier(a *Agent, socks *sockets) *applier {
	return &applier{Agent: a, view: hostView{observe: hostnet.Observe}, socks: socks}
}

// apply makes one plan from the newest snapshot and applies it. Nothing is changed before the plan exists.
func (x *applier) apply() {
	arrived := x.arrived.take()
	in, snap, look, err := x.input()
	if err != nil {
		x.arrived.restore(arrived)
		x.log.Warn("cannot read the host's addresses", "err", err)
		return
	}
	p, ok := plan.Make(in)
	if !ok {
		x.arrived.restore(arrived)
		return
	}
	x.report(p)
	if x.socks.set(p) {
		x.kick()
	}
	x.pool.SetUnmanaged(p.Unmanaged)
	changed, err := x.setHost(p, look)
	x.pods.set(x.Agent, p.Offload, look)
	// After the rules: a flow whose replies are not redirected yet would break.
	switch p.Services {
	case plan.ServicesCurrent:
		x.lb.Set(p.Table)
	case plan.ServicesCached:
		x.lb.SetKept(p.Table)
	}
	if d := x.announcer.Load(); d != nil {
		d.Set(p.Announce)
	}
	x.setNames(p, snap)
	if !arrived.IsZero() && err == nil {
		programming.Observe(time.Since(arrived).Seconds())
	}
	x.last = p
	x.finish(p, snap, changed, err)
}

// input collects everything that the plan depends on. look means that the whole plan is to be compared with the kernel.
func (x *applier) input() (in plan.Input, snap *model.Snapshot, look bool, err error) {
	cached := x.source.ServicesCached() // before the snapshot is read, so that newer Services are at worst taken for cached ones
	snap = x.source.WithPods(x.source.Load(), x.Agent.pods.Attached())
	host, look, err := x.observe(snap)
	if err != nil {
		return in, snap, look, err
	}
	in = plan.Input{Self: x.self(), Host: host, Snapshot: snap, ServicesCached: cached, Pods: x.localPods(),
		ReportedPods: x.source.ReportedPods(), Compile: x.tables.build}
	if x.last != nil {
		in.FallbackSNAT = x.last.FallbackSNAT
	}
	return in, snap, look, nil
}

// setHost applies the tunnel's peers first, then addresses, routes and rules, adding before removing in each. A part that fails
// does not stop the others.
func (x *applier) setHost(p *plan.Plan, look bool) (changed int, err error) {
	if !look && x.holds(p) {
		return 0, nil
	}
	errs := []error{x.tun.SetMTU(p.MTU), x.tun.SetPeers(p.Peers)}
	changed, err = x.host.Set(p.Host)
	return changed, errors.Join(append(errs, err)...)
}

// holds reports whether the last plan had the same for the kernel and the tunnel.
func (x *applier) holds(p *plan.Plan) bool {
	return x.last != nil && x.last.MTU == p.MTU && reflect.DeepEqual(x.last.Peers, p.Peers) && reflect.DeepEqual(x.last.Host, p.Host)
}

// setNames updates the DNS server.
func (x *applier) setNames(p *plan.Plan, snap *model.Snapshot) {
	x.names.SetClients(p.DNSClients)
	x.names.SetSnapshot(snap)
	x.names.UpdateSearches()
	x.names.SetUpstreams(x.source.Nameservers())
}

// report logs what is new in a plan.
func (x *applier) report(p *plan.Plan) {
	var last plan.Plan
	if x.last != nil {
		last = *x.last
	}
	for block, a := range p.FallbackSNAT {
		if last.FallbackSNAT[block] != a {
			x.log.Info("SNAT address in use by an unmanaged Pod; using fallback address", "conflict", plan.SNATAddr(block), "address", a)
		}
	}
	if len(p.ReservedPorts) > 0 && !slices.Equal(p.ReservedPorts, last.ReservedPorts) {
		x.log.Info("reserved masquerade ports that host programs listen on", "ports", p.ReservedPorts)
	}
	if len(p.UnreachablePorts) > 0 && !slices.Equal(p.UnreachablePorts, last.UnreachablePorts) {
		x.log.Warn("host listeners are unreachable on ports reserved for masquerading or node ports", "ports", p.UnreachablePorts)
	}
	for _, s := range p.Problems {
		if !slices.Contains(last.Problems, s) {
			x.log.Warn("invalid cluster record ignored", "problem", s)
		}
	}
}

// finish publishes what was applied and offers the snapshot for the disk.
func (x *applier) finish(p *plan.Plan, snap *model.Snapshot, changed int, err error) {
	last := x.applied.Load()
	now := &appliedState{plan: p, at: time.Now(), err: err, first: err == nil || last != nil && last.first}
	if snap != nil {
		now.revision = snap.Revision
	}
	ready := now.first && (last == nil || !last.first)
	if ready {
		x.offerPlugin() // before the node reports that Pods can be attached
	}
	x.applied.Store(now)
	if err != nil && (last == nil || last.err == nil || last.err.Error() != err.Error()) {
		x.log.Error("cannot apply the whole configuration; retrying", "err", err)
	}
	if err == nil && last != nil && last.err != nil {
		x.log.Info("configuration applied; previous errors resolved")
	}
	if changed > 0 && last != nil && last.err == nil && reflect.DeepEqual(last.plan.Host, p.Host) {
		x.log.Info("reverted external changes to host network configuration", "changes", changed)
	}
	if ready {
		x.becameReady()
	}
	if last == nil || !reflect.DeepEqual(last.plan.Node, p.Node) {
		x.member.SetRecord(p.Node)
	}
	x.source.Save(snap)
}

// self is this node's identity and settings.
func (a *Agent) self() plan.Self {
	return plan.Self{Name: a.cfg.NodeName, Identity: a.identity, PublicKey: publicKey(a.key), Blocks: a.member.Blocks(),
		Endpoints: a.cfg.Endpoints, Port: a.port(), MTU: a.cfg.MTU, Interface: a.cfg.Interface, Zone: a.zone(),
		Version: version.Version, Keepalive: a.cfg.Keepalive, Cluster: a.member.Cluster(), External: a.external.Peers(), DNS: a.names.Addresses(),
		DNSClients: a.cfg.DNS.Allow, NodePortRanges: a.cfg.NodePortAddresses, NonMasquerade: a.cfg.NonMasquerade,
		Kubernetes: a.kube != nil, Announce: a.cfg.LBAnnounce, AnnounceLinks: len(a.cfg.LBInterfaces) > 0}
}

// tableCache keeps the last table: the loop runs every few seconds, and most runs have the same Services. When the snapshot
// changes, the builder compiles the changed Services alone.
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

// arrival is the time of the oldest change that is not applied yet. Watches mark it, the apply loop takes it.
type arrival struct{ ns atomic.Int64 } // Unix time, 0 for none

// mark notes that a change has arrived now.
func (t *arrival) mark() { t.ns.CompareAndSwap(0, time.Now().UnixNano()) }

// take returns the time and clears it; it is zero without a change.
func (t *arrival) take() time.Time {
	if ns := t.ns.Swap(0); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// restore puts a time back that take returned: its change was not applied.
func (t *arrival) restore(at time.Time) {
	if !at.IsZero() {
		t.ns.Store(at.UnixNano())
	}
}
