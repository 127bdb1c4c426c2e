package localapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/announce"
)

func (s *Server) lb(w http.ResponseWriter, _ *http.Request) {
	snap := s.View.Snapshot()
	if snap == nil {
		refuse(w, http.StatusServiceUnavailable, errNoSnapshot)
		return
	}
	var v *announce.View
	if now, ok := s.View.Announcements(); ok {
		v = &now
	}
	out := lbView(snap, v)
	out.Problems = s.announceProblems()
	reply(w, out)
}

// announceProblems are the load balancer addresses that are not announced, and sysctls that disturb announcements.
func (s *Server) announceProblems() (out []string) {
	v, ok := s.View.Announcements()
	if !ok {
		return nil
	}
	for _, a := range v.Addresses {
		if a.Note != "" && a.Owner == "" {
			out = append(out, fmt.Sprintf("load balancer address %s: %s", a.Addr, a.Note))
		} else if a.Note != "" && a.State == "announcing" {
			out = append(out, fmt.Sprintf("load balancer address %s, announced here: %s", a.Addr, a.Note))
		}
	}
	if len(v.Addresses) == 0 {
		return out
	}
	// With proxy ARP the kernel of every node would answer for an address that is routed to the tunnel.
	for _, l := range v.Links {
		for _, f := range []string{"ipv4/conf/all/proxy_arp", "ipv4/conf/" + l + "/proxy_arp"} {
			if raw, err := os.ReadFile(filepath.Join(s.ProcSysNet, f)); err == nil && strings.TrimSpace(string(raw)) == "1" {
				out = append(out,
					fmt.Sprintf("sysctl net/%s is 1: this node answers ARP for load balancer addresses that other nodes announce", f))
			}
		}
	}
	return out
}

// lbView joins Services, pools and announcements; v is nil on a node that does not announce.
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
		if !lbpool.Ours(s) || s.OtherProxy || s.LBExternal {
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
				at.Note = "not announced: it belongs to a node, to the Pod or Service ranges, or another controller allocated it"
			}
			x.Addresses = append(x.Addresses, at)
		}
		if r, err := lbpool.RequestOf(s); err != nil {
			x.Pending = []string{err.Error()}
		} else if got, why := lbpool.Choose(r, snap.Pools, taken); len(s.LBAddresses) < len(s.ClusterIPs) {
			if x.Pending = why; len(got) > len(s.LBAddresses) {
				x.Pending = append(x.Pending, "an address is free and will be allocated")
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
