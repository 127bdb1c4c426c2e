package agent

import (
	"github.com/warrennet/warren/agent/apply"
	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/version"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/tunnel"
)

// view is the agent's state for the local API (localapi.View) and the metrics (metrics.View). Its methods may be called
// from any goroutine that Run has started: Run opens the pool and the CNI server before the first one.
type view struct{ a *Agent }

// Node returns what the status has of the node itself.
func (v view) Node() api.Status {
	a := v.a
	c := a.member.Cluster()
	st := api.Status{Node: a.cfg.NodeName, Version: version.Version, Cluster: c.Name, Store: a.source.Store().State(),
		PodRanges: c.PodCIDRs,
		DNS:       a.names.Addresses(), PublicKey: a.keys.Current().Public.String(), Port: a.port(), Interface: a.cfg.Interface,
		Offload:  a.offload.get(),
		PodCIDRs: a.member.Blocks(), Unclaimed: a.member.Unclaimed(a.source.Load()), Pods: len(a.cni.Pods())}
	if problem := a.member.JoinProblem(); problem != "" && a.notReady() == "" {
		st.Problems = append(st.Problems, problem)
	}
	if problem := a.member.RoomProblem(); problem != "" {
		st.Problems = append(st.Problems, "the Pod CIDRs are nearly full: "+problem)
	}
	if problem := a.keys.Problem(); problem != "" {
		st.Problems = append(st.Problems, problem)
	}
	if !st.Store.Connected && st.Store.Error != "" {
		st.Problems = append(st.Problems, "etcd is unreachable: "+st.Store.Error)
	}
	if c := a.source.API(); c != nil {
		k := c.State()
		if st.Kubernetes = &k; !k.Connected && k.Error != "" {
			st.Problems = append(st.Problems, "the API server is unreachable: "+k.Error)
		}
	}
	if d := a.names.Current(); d != nil {
		st.Problems = append(st.Problems, d.Problems()...)
	}
	notReady := a.notReady()
	for _, problem := range a.sockets.Problems() {
		if problem != notReady {
			st.Problems = append(st.Problems, problem)
		}
	}
	return st
}

// NotReady returns what a CNI ADD needs and is missing.
func (v view) NotReady() string { return v.a.notReady() }

// Snapshot returns the newest snapshot, nil before the first.
func (v view) Snapshot() *model.Snapshot { return v.a.source.Load() }

// Applied returns the result of the last apply, nil before the first.
func (v view) Applied() *apply.State { return v.a.loop.State() }

// Announcements returns false before the tunnel is up.
func (v view) Announcements() (announce.View, bool) {
	x := v.a.announcer.Load()
	if x == nil {
		return announce.View{}, false
	}
	return x.View(), true
}

// Status returns what `warren status` shows.
func (v view) Status() api.Status { return v.a.api.Status() }

// FromDisk reports whether the snapshot of the last run is in use.
func (v view) FromDisk() bool { return v.a.source.FromDisk() }

// FreeAddresses returns false for a family without a Pod CIDR.
func (v view) FreeAddresses(f model.Family) (free int, ok bool) {
	free, _, blocks := v.a.pool.Room(f)
	return free, blocks > 0
}

// Frontends is the number of entries of the Service table.
func (v view) Frontends() int {
	if s := v.a.loop.State(); s != nil {
		return s.Plan.Table.Len()
	}
	return 0
}

// DNS returns the DNS server, nil while there is none.
func (v view) DNS() *dns.Server { return v.a.names.Current() }

// notReady returns what a CNI ADD needs and is missing, "" if nothing is.
func (a *Agent) notReady() string {
	if a.member.Blocks() == nil {
		if problem := a.member.JoinProblem(); problem != "" {
			return "no Pod CIDR yet: " + problem
		}
		return "no Pod CIDR yet: waiting for the store"
	}
	s := a.loop.State()
	if s == nil {
		return "the tunnel is coming up"
	}
	if !s.Ready {
		return "the first plan could not be applied: " + s.Err.Error()
	}
	return a.sockets.Problem(tunnel.PortPart)
}
