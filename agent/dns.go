package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

// dnsAddrs are the cluster DNS addresses of the families that Pods have. Each node has them itself, on warren0: a query
// for them never leaves the node.
func (a *Agent) dnsAddrs() (out []netip.Addr) {
	wanted := a.cfg.ClusterDNS
	if now := a.dnsWanted.Load(); now != nil {
		wanted = *now
	}
	for _, r := range a.cluster().PodCIDRs {
		for _, d := range wanted {
			if d.Is4() == r.Addr().Is4() {
				out = append(out, d)
			}
		}
	}
	return out
}

// serveDNS answers cluster names on this node until ctx ends; when the addresses change it begins anew on the new ones.
func (a *Agent) serveDNS(ctx context.Context) error {
	for ctx.Err() == nil {
		addrs := a.dnsAddrs()
		sub, stop := context.WithCancel(ctx)
		go func() {
			for sub.Err() == nil && slices.Equal(addrs, a.dnsAddrs()) {
				select {
				case <-sub.Done():
				case <-a.dnsMoved:
				}
			}
			stop()
		}()
		err := a.serveDNSOn(sub, addrs)
		a.dns.Store(nil)
		if stop(); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) serveDNSOn(ctx context.Context, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		<-ctx.Done()
		return nil
	}
	srv, err := dns.New(dnsServer(&a.cfg, addrs, *a.blocks.Load(), a.cluster().Domain, a.log)) // apply adds what the cluster says
	if err != nil {
		return err
	}
	srv.LogQueries(a.logQueries.Load())
	srv.SetSearches(a.searches())
	a.dns.Store(srv)
	a.catchUp(srv)
	return srv.Run(ctx)
}

// catchUp gives a new server, which followNames knows already, what came before it; a newer snapshot may come meanwhile.
func (a *Agent) catchUp(srv *dns.Server) {
	var has *model.Snapshot
	for {
		now := a.named.Load()
		if now == nil {
			now = a.snapshot.Load()
		}
		if now == has || now == nil || now.Partial {
			return
		}
		srv.Set(now)
		has = now
	}
}

// dnsServer is the configuration of a server on these addresses, for the Pods of these blocks.
func dnsServer(c *config.Config, addrs []netip.Addr, blocks []netip.Prefix, domain string, log *slog.Logger) dns.Config {
	out := c.DNSServer()
	out.Domain, out.Log = domain, log
	var allow []netip.Prefix
	for _, d := range addrs {
		out.Listen = append(out.Listen, netip.AddrPortFrom(d, 53))
		allow = append(allow, netip.PrefixFrom(d, d.BitLen()))
	}
	out.Allow = slices.Concat(allow, blocks, out.Allow)
	return out
}

// setDNS hands a new snapshot on. Only the apply loop does, so there is room.
func (a *Agent) setDNS(snap *model.Snapshot) {
	if snap == nil || snap.Partial || snap == a.named.Load() {
		return
	}
	a.named.Store(snap)
	select {
	case <-a.names: // an older one that nobody has taken yet
	default:
	}
	a.names <- snap
}

// followNames brings the names to the newest snapshot, beside the apply loop: in a large cluster that takes much longer than
// the change of a Service does, which would have to wait for it. It rests as the apply loop does.
func (a *Agent) followNames(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case snap := <-a.names:
			start := time.Now()
			if d := a.dns.Load(); d != nil {
				d.Set(snap)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(applyShare * time.Since(start)):
			}
		}
	}
}

// questionTypes are those that `warren dns query` knows by name (RFC 1035, 3596, 2782).
var questionTypes = map[string]uint16{"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33}

func (a *Agent) serveDNSQuery(w http.ResponseWriter, r *http.Request) {
	d, q := a.dns.Load(), r.URL.Query()
	t, known := questionTypes[q.Get("type")]
	switch {
	case d == nil:
		refuse(w, http.StatusServiceUnavailable, errors.New("this node serves no DNS (yet, or dns.addresses is empty)"))
		return
	case !known:
		refuse(w, http.StatusBadRequest, fmt.Errorf("type %q is none of A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT", q.Get("type")))
		return
	}
	asker := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if ns := q.Get("namespace"); ns != "" {
		reply(w, d.Search(r.Context(), q.Get("name"), t, asker, a.podDNS(ns).Searches, 5))
		return
	}
	reply(w, d.Query(r.Context(), q.Get("name"), t, asker))
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

// switchDNSLog switches the line per query.
func (a *Agent) switchDNSLog(w http.ResponseWriter, r *http.Request) {
	on, err := strconv.ParseBool(r.URL.Query().Get("on"))
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("on: %q is neither true nor false", r.URL.Query().Get("on")))
		return
	}
	a.logQueries.Store(on)
	if d := a.dns.Load(); d != nil {
		d.LogQueries(on)
	}
	reply(w, struct{}{})
}
