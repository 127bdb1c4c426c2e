package apply

import (
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
)

// applier brings the kernel, the tunnel, the load balancer and the agent's sockets to the plan. Only the apply loop holds it.
type applier struct {
	*Loop
	DataPath
	log    *slog.Logger
	tables tableCache
	view   hostView
	pods   offloadPods
	socks  *sockets
	last   *plan.Plan // nil before the first
}

func newApplier(l *Loop, d DataPath) *applier {
	log := l.cfg.Log
	return &applier{Loop: l, DataPath: d, log: log, view: hostView{observe: hostnet.Observe, chains: hostnet.Chains},
		pods:  offloadPods{program: d.Offload, log: log},
		socks: newSockets(func() []netip.Prefix { return l.cfg.Self().Cluster.PodCIDRs }, d.Reassembled, log)}
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
	opened, missing := x.socks.set(p)
	if opened {
		x.Kick() // the next plan has the new listeners' ports
	}
	x.Pool.SetUnmanaged(p.Unmanaged)
	changed, refused, err := x.setHost(p, look)
	x.setOffload(p.Offload, look)
	// After the rules: a flow whose replies are not redirected yet would break.
	switch p.Services {
	case plan.ServicesCurrent:
		x.Balancer.Set(p.Table)
	case plan.ServicesCached:
		x.Balancer.SetKept(p.Table)
	}
	x.Announcer.Set(p.Announce)
	x.setNames(p, snap)
	if !arrived.IsZero() && err == nil {
		x.cfg.Measure(time.Since(arrived))
	}
	x.last = p
	x.finish(p, snap, outcome{changed, refused, missing, err})
}

// input collects everything that the plan depends on. look means that the whole plan is to be compared with the kernel.
func (x *applier) input() (in plan.Input, snap *model.Snapshot, look bool, err error) {
	cached := x.cfg.Source.ServicesCached() // before the snapshot is read, so that newer Services are at worst taken for cached ones
	snap = x.cfg.Source.WithPods(x.cfg.Source.Load(), x.cfg.Pods())
	self, pods := x.cfg.Self(), x.cfg.Attachments()
	host, look, err := x.observe(self, snap, pods)
	if err != nil {
		return in, snap, look, err
	}
	in = plan.Input{Self: self, Host: host, Snapshot: snap, ServicesCached: cached, Pods: pods,
		ReportedPods: x.cfg.Source.ReportedPods(), Compile: x.tables.build}
	if x.last != nil {
		in.FallbackSNAT = x.last.FallbackSNAT
	}
	return in, snap, look, nil
}

// outcome is what an apply has done to the kernel and the tunnel.
type outcome struct {
	changed int
	refused []error // as in State
	missing []error // as in State.Sockets
	err     error
}

// setHost applies the tunnel's peers first, then addresses, routes and rules, adding before removing in each. A part that fails
// does not stop the others. Entries that were refused are tried again when the plan changes and at every look.
func (x *applier) setHost(p *plan.Plan, look bool) (changed int, refused []error, err error) {
	if !look && x.holds(p) {
		if s := x.State(); s != nil {
			refused = s.Refused
		}
		return 0, refused, nil
	}
	mtu := x.Tunnel.SetMTU(p.MTU)
	peers := x.Tunnel.SetPeers(p.Peers)
	changed, refused, err = x.cfg.Host.Set(p.Host)
	return changed, append(refused, split(peers)...), errors.Join(mtu, err)
}

// split returns the single errors of a joined one.
func split(err error) (out []error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			out = append(out, split(e)...)
		}
		return out
	}
	if err != nil {
		out = append(out, err)
	}
	return out
}

// holds reports whether the last plan had the same for the kernel and the tunnel.
func (x *applier) holds(p *plan.Plan) bool {
	return x.last != nil && x.last.MTU == p.MTU && reflect.DeepEqual(x.last.Peers, p.Peers) && reflect.DeepEqual(x.last.Host, p.Host)
}

// setNames updates the DNS server.
func (x *applier) setNames(p *plan.Plan, snap *model.Snapshot) {
	x.cfg.Names.SetClients(p.DNSClients)
	x.cfg.Names.SetSnapshot(snap)
	x.cfg.Names.UpdateSearches()
	x.cfg.Names.SetUpstreams(x.cfg.Source.Nameservers())
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
func (x *applier) finish(p *plan.Plan, snap *model.Snapshot, o outcome) {
	last, err := x.State(), o.err
	now := &State{Plan: p, At: time.Now(), Err: err, Refused: o.refused, Sockets: o.missing,
		Ready: err == nil || last != nil && last.Ready}
	if err == nil {
		now.Succeeded = now.At
	} else if last != nil {
		now.Succeeded = last.Succeeded
	}
	if snap != nil {
		now.Revision = snap.Revision
	}
	ready := now.Ready && (last == nil || !last.Ready)
	if ready {
		x.cfg.BeforeReady()
	}
	x.state.Store(now)
	if ready {
		x.cfg.Ready(now)
	}
	if err != nil && (last == nil || last.Err == nil || last.Err.Error() != err.Error()) {
		x.log.Error("cannot apply the plan completely; retrying", "err", err)
	}
	if err == nil && last != nil && last.Err != nil {
		x.log.Info("plan applied; earlier errors are resolved")
	}
	x.reportRefused(last, o.refused)
	if o.changed > 0 && last != nil && last.Err == nil && reflect.DeepEqual(last.Plan.Host, p.Host) {
		x.log.Info("reverted external changes to host network configuration", "changes", o.changed)
	}
	if last == nil || !reflect.DeepEqual(last.Plan.Node, p.Node) {
		x.cfg.Record(p.Node)
	}
	x.cfg.Source.Save(snap)
}

// reportRefused logs each entry that was not refused before.
func (x *applier) reportRefused(last *State, refused []error) {
	known := map[string]bool{}
	if last != nil {
		for _, err := range last.Refused {
			known[err.Error()] = true
		}
	}
	for _, err := range refused {
		if !known[err.Error()] {
			x.log.Error("the kernel or the tunnel refused an entry; everything else is applied; retrying", "err", err)
		}
	}
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
