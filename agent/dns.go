package agent

import (
	"context"
	"net/netip"
	"strings"

	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

// dnsAddrs are the cluster DNS addresses of the families that Pods have. Each node has them itself, on warren0: a query
// for them never leaves the node.
func (a *Agent) dnsAddrs() (out []netip.Addr) {
	for _, r := range a.cluster().PodCIDRs {
		for _, d := range a.cfg.ClusterDNS {
			if d.Is4() == r.Addr().Is4() {
				out = append(out, d)
			}
		}
	}
	return out
}

// serveDNS answers cluster names on this node until ctx ends.
func (a *Agent) serveDNS(ctx context.Context) error {
	cfg := dns.Config{Domain: a.cluster().Domain, Node: a.cfg.NodeName, Upstreams: a.cfg.DNSUpstreams, ResolvConf: "/etc/resolv.conf", Log: a.log}
	for _, d := range a.dnsAddrs() {
		cfg.Listen = append(cfg.Listen, netip.AddrPortFrom(d, 53))
		cfg.Allow = append(cfg.Allow, netip.PrefixFrom(d, d.BitLen())) // the node asking itself
	}
	if len(cfg.Listen) == 0 {
		return nil
	}
	cfg.Allow = append(cfg.Allow, *a.blocks.Load()...)
	srv, err := dns.New(cfg)
	if err != nil {
		return err
	}
	if snap := a.snapshot.Load(); snap != nil {
		srv.Set(snap)
	}
	a.dns.Store(srv)
	return srv.Run(ctx)
}

// setDNS hands a new snapshot on.
func (a *Agent) setDNS(snap *model.Snapshot) {
	if d := a.dns.Load(); d != nil && snap != noSnapshot {
		d.Set(snap)
	}
}

// podDNS is the resolver configuration of a namespace's Pods, as Kubernetes has it for dnsPolicy ClusterFirst.
func (a *Agent) podDNS(namespace string) api.DNS {
	var out api.DNS
	for _, d := range a.dnsAddrs() {
		out.Servers = append(out.Servers, d.String())
	}
	if len(out.Servers) == 0 {
		return out
	}
	domain := strings.TrimSuffix(a.cluster().Domain, ".")
	if namespace != "" {
		out.Searches = append(out.Searches, namespace+".svc."+domain)
	}
	out.Searches = append(out.Searches, "svc."+domain, domain)
	out.Options = []string{"ndots:5"}
	return out
}
