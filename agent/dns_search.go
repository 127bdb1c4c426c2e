package agent

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// setSearches tells DNS whose search lists it completes.
func (a *Agent) setSearches() {
	if d := a.dns.Load(); d != nil && len(a.cfg.DNS.Autopath) > 0 {
		d.SetSearches(a.searches())
	}
}

// searches are the search lists to complete: those of this node's Pods in the namespaces of dns.autopath, as they were
// recorded at ADD.
func (a *Agent) searches() map[netip.Addr]dns.Search {
	if len(a.cfg.DNS.Autopath) == 0 || a.plug == nil {
		return nil
	}
	servers := a.dnsAddrs()
	out := map[netip.Addr]dns.Search{}
	for _, r := range a.plug.Pods() {
		if !r.Committed || !a.cfg.DNS.Autopaths(r.PodNamespace) {
			continue
		}
		if s, ok := searchOf(r, a.resolver(r), servers); ok {
			for _, addr := range r.Addresses {
				out[addr] = s
			}
		}
	}
	return out
}

// resolver is a Pod's resolver configuration: what the runtime passed at ADD (capability dns). A runtime without a kubelet
// passes none and uses the plugin's result, which is ours; with a kubelet and none passed, nobody here knows it.
func (a *Agent) resolver(r ipam.Record) api.DNS {
	if a.kube == nil && len(r.DNS.Servers)+len(r.DNS.Searches)+len(r.DNS.Options) == 0 {
		return a.podDNS(r.PodNamespace)
	}
	return r.DNS
}

// searchOf reads a Pod's resolver configuration; one that asks other servers too (dnsPolicy Default and None) has no list
// that we could complete.
func searchOf(r ipam.Record, d api.DNS, servers []netip.Addr) (dns.Search, bool) {
	s := dns.Search{Namespace: r.PodNamespace, NDots: 1} // resolv.conf(5)
	for _, x := range d.Servers {
		if addr, err := netip.ParseAddr(x); err != nil || !slices.Contains(servers, addr.Unmap()) {
			return s, false
		}
	}
	for _, o := range d.Options {
		if v, ok := strings.CutPrefix(o, "ndots:"); ok {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return s, false
			}
			s.NDots = n
		}
	}
	s.Domains = d.Searches
	return s, len(d.Servers) > 0
}
