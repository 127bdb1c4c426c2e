package clusterdns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// UpdateSearches gives the server the search lists of the Pods as they are attached now.
func (s *Server) UpdateSearches() {
	if d := s.current.Load(); d != nil && s.cfg.Autopath != nil {
		d.SetSearches(s.searches())
	}
}

// searches are the search lists that the server completes (autopath), by Pod address: those of this node's Pods in the namespaces
// of dns.autopath, as they were recorded at CNI ADD.
func (s *Server) searches() map[netip.Addr]dns.Search {
	if s.cfg.Autopath == nil {
		return nil
	}
	servers := s.Addresses()
	out := map[netip.Addr]dns.Search{}
	for _, r := range s.cfg.Pods() {
		if !r.Committed || !s.cfg.Autopath(r.PodNamespace) {
			continue
		}
		if list, ok := searchOf(r, s.resolver(r), servers); ok {
			for _, addr := range r.Addresses {
				out[addr] = list
			}
		}
	}
	return out
}

// resolver is a Pod's resolver configuration: what the runtime passed at ADD (capability dns). A runtime without a kubelet passes
// none and uses the plugin's result, which is PodConfig. With a kubelet that passed none it is unknown.
func (s *Server) resolver(r ipam.Record) api.DNS {
	if !s.cfg.Kubernetes && len(r.DNS.Servers)+len(r.DNS.Searches)+len(r.DNS.Options) == 0 {
		return s.PodConfig(r.PodNamespace)
	}
	return r.DNS
}

// searchOf reads a Pod's resolver configuration. It returns false for a Pod that queries other servers, too (dnsPolicy Default and
// None): its list cannot be completed.
func searchOf(r ipam.Record, d api.DNS, servers []netip.Addr) (dns.Search, bool) {
	list := dns.Search{Namespace: r.PodNamespace, NDots: 1} // the default of resolv.conf(5)
	for _, x := range d.Servers {
		if addr, err := netip.ParseAddr(x); err != nil || !slices.Contains(servers, addr.Unmap()) {
			return list, false
		}
	}
	for _, o := range d.Options {
		if v, ok := strings.CutPrefix(o, "ndots:"); ok {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return list, false
			}
			list.NDots = n
		}
	}
	list.Domains = d.Searches
	return list, len(d.Servers) > 0
}
