package agent

import (
	"errors"
	"net/http"
	"net/netip"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/announce"
)

func (a *Agent) serveLB(w http.ResponseWriter, _ *http.Request) {
	snap := a.source.Load()
	if snap == nil {
		refuse(w, http.StatusServiceUnavailable, errors.New("no snapshot of the store yet"))
		return
	}
	var v *announce.View
	if x := a.announcer.Load(); x != nil {
		now := x.View()
		v = &now
	}
	out := lbView(snap, v)
	out.Problems = a.announceProblems()
	reply(w, out)
}

// lbView is pure; v is nil on a node that does not announce.
func lbView(snap *model.Snapshot, v *announce.View) api.LB {
	out := api.LB{Pools: []api.LBPool{}, Services: []api.LBService{}, Nodes: []api.LBNode{}}
	taken := lbpool.TakenBy(snap.Services)
	for i := range snap.Pools {
		out.Pools = append(out.Pools, poolView(&snap.Pools[i], taken))
	}
	seen := map[netip.Addr]announce.AddressView{}
	if v != nil {
		for _, s := range v.Addresses {
			seen[s.Addr] = s
		}
		for _, n := range v.Nodes {
			out.Nodes = append(out.Nodes, api.LBNode{Name: n.Name, Healthy: n.Healthy})
		}
	}
	for i := range snap.Services {
		s := &snap.Services[i]
		if !lbpool.Ours(s) || s.Foreign || s.LBElsewhere {
			continue
		}
		x := api.LBService{Service: s.String(), Addresses: []api.LBAddress{}}
		for _, a := range s.LBAddresses {
			at := api.LBAddress{Address: a, State: "off"}
			if p := lbpool.Pool(snap.Pools, a); p != nil {
				at.Pool = p.Name
			}
			if k, ok := seen[a]; ok {
				at.Announcer, at.Epoch, at.State, at.Note = k.Owner, k.Epoch, k.State, k.Note
			} else if v != nil {
				at.Note = "not announced: it belongs to a node, to the Pod or Service ranges, or somebody else gave it"
			}
			x.Addresses = append(x.Addresses, at)
		}
		if r, err := lbpool.RequestOf(s); err != nil {
			x.Pending = []string{err.Error()}
		} else if got, why := lbpool.Choose(r, snap.Pools, taken); len(s.LBAddresses) < len(s.ClusterIPs) {
			if x.Pending = why; len(got) > len(s.LBAddresses) {
				x.Pending = append(x.Pending, "an address is free and about to be given")
			}
		}
		out.Services = append(out.Services, x)
	}
	return out
}

func poolView(p *model.AddressPool, taken lbpool.Taken) api.LBPool {
	out := api.LBPool{Name: p.Name, AutoAssign: p.AutoAssign, Namespaces: p.Namespaces, Priority: p.Priority}
	for _, r := range p.Ranges {
		out.Addresses = append(out.Addresses, r.String())
	}
	for a := range taken {
		if p.Contains(a) {
			out.Used++
		}
	}
	out.Free = lbpool.Size(p) - out.Used
	return out
}
