package servicelb

import (
	"net/netip"
	"time"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/table"
)

// recordOutcome records whether a backend has answered a connection, when the flow's state changes. The flow is locked.
func (b *Balancer) recordOutcome(v *view, e *conntrack.Entry, d conntrack.Direction, before, after conntrack.Status) {
	if !v.Ejects() || before.State() != conntrack.TCPSyn {
		return
	}
	switch state := after.State(); {
	case state == conntrack.TCPAnswered || state == conntrack.TCPOpen:
		b.recordSuccess(v, e)
	case before.Failed():
		// recorded when the status got this bit
	case after.Failed() || state == conntrack.TCPReset && d == conntrack.Reply:
		b.recordFailure(v, e)
	}
}

// recordSuccess records that a backend has answered a connection. The flow is locked, or has ended.
func (b *Balancer) recordSuccess(v *view, e *conntrack.Entry) {
	if _, pool, i, ok := ejectable(v, e); ok {
		pool.Records[i].Succeed()
	}
}

// recordFailure records that a connection to a backend has failed. The flow is locked, or has ended.
func (b *Balancer) recordFailure(v *view, e *conntrack.Entry) {
	f, pool, i, ok := ejectable(v, e)
	if !ok {
		return
	}
	failure := table.Failure{Limit: f.EjectAfter, Client: table.FailingClient(e.Client().Bucket()), Now: b.now()}
	if pool.Fail(i, failure) {
		f.Meter.AddEjection()
	}
}

// ejectable returns the frontend and the pool of a flow, and the backend's index in it. ok is false if the frontend ejects no
// backends, or no longer has this one.
func ejectable(v *view, e *conntrack.Entry) (f *table.Frontend, pool *table.Pool, i int, ok bool) {
	if f = v.Frontend(frontendKey(e)); f == nil || f.EjectAfter == 0 {
		return nil, nil, 0, false
	}
	pool = f.Pool(e.Has(conntrack.FlagOutside))
	i, ok = pool.Find(e.Backend())
	return f, pool, i, ok
}

// recordUnreachable records an ICMP error about a SYN. k is the key of the packets that would have answered it.
func (b *Balancer) recordUnreachable(v *view, k *conntrack.Key) {
	e, ok := b.flows.Lookup(k)
	if !ok {
		return
	}
	defer e.Unlock()
	if e.Dir == conntrack.Reply && e.MarkFailed() {
		b.recordFailure(v, e.Entry)
	}
}

// isUnreachable reports whether an ICMP error is destination unreachable, fragmentation needed excluded.
func isUnreachable(p *packet.Packet) bool {
	if p.Version == 4 {
		return p.ICMPType == 3 && p.Buf[p.L4+1] != 4
	}
	return p.ICMPType == 1
}

// Ejection is a backend that is removed from selection.
type Ejection struct {
	Service string // namespace/name
	Port    string // name of the Service port
	Backend netip.AddrPort
	// Left are the seconds until a connection tries the backend; 0: the next one does, or one does now.
	Left int
}

// Ejections lists the backends that are ejected on this node.
func (b *Balancer) Ejections() (out []Ejection) {
	v := b.view.Load()
	if !v.Ejects() {
		return nil
	}
	seen := map[*table.Record]bool{}
	for _, f := range v.All {
		for _, p := range []*table.Pool{f.Internal, f.External} {
			for i, r := range p.Records {
				left, ejected := r.Ejected(b.now())
				if !ejected || seen[r] {
					continue
				}
				seen[r] = true
				out = append(out, Ejection{
					Service: f.Service.String(), Port: f.PortName, Backend: p.Backends[i].AddrPort(), Left: int(left / time.Second),
				})
			}
		}
	}
	return out
}
