package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/warrennet/warren/agent/hostio"
	"github.com/warrennet/warren/agent/localpods"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/ownership"
)

// control are the addresses that the agent itself connects to: no object may have them. Servers that are configured by name are
// not among them.
func (a *Agent) control() (out []plan.Control) {
	add := func(use, hostPort string) {
		at, err := netip.ParseAddrPort(hostPort)
		if err != nil {
			host, _ := netip.ParseAddr(strings.Trim(hostPort, "[]"))
			at = netip.AddrPortFrom(host, 0)
		}
		if at.Addr().IsValid() && !at.Addr().IsLoopback() {
			out = append(out, plan.Control{Addr: at.Addr().Unmap(), Port: at.Port(), Use: use})
		}
	}
	for _, e := range a.store.Endpoints() {
		if u, err := url.Parse(e); err == nil {
			add("address of an etcd server", u.Host)
		}
	}
	if a.kube != nil {
		for _, s := range a.kube.Servers() {
			add("address of an API server", s)
		}
	}
	for _, u := range a.names.Upstreams() {
		if at, err := netip.ParseAddrPort(upstreamAddr(u)); err == nil {
			add("address of an upstream DNS server", at.Addr().String())
		} else {
			add("address of an upstream DNS server", upstreamAddr(u))
		}
	}
	for _, s := range []struct{ use, at string }{{"port of warren's metrics", a.cfg.Metrics},
		{"port of kube-proxy's health check", a.cfg.Kubernetes.Healthz}, {"port of kube-proxy's metrics", a.cfg.Kubernetes.ProxyMetrics}} {
		if at, err := netip.ParseAddrPort(s.at); err == nil {
			out = append(out, plan.Control{Port: at.Port(), Use: s.use})
		}
	}
	return out
}

// upstreamAddr is the address in the name of an upstream: addr, addr:port or tls://addr[:port][#servername].
func upstreamAddr(name string) string {
	name, _, _ = strings.Cut(strings.TrimPrefix(name, "tls://"), "#")
	return name
}

// checkHostPorts returns why a Pod cannot have host ports: warren or the control plane needs them, another process listens there, or
// their address is not this node's.
func (a *Agent) checkHostPorts(list []api.PortMapping) error {
	state := a.loop.State()
	if len(list) == 0 || state == nil {
		return nil // not ready without a state
	}
	rules := &state.Plan.Ownership
	var errs []error
	for _, h := range localpods.HostPorts(list) {
		if h.HostPort == 0 {
			continue
		}
		if why := rules.RefuseNodePort(h.HostIP, ownership.Port{Proto: h.Protocol, Port: h.HostPort}); why != "" {
			errs = append(errs, fmt.Errorf("hostPort %d/%s: %s; use another hostPort or hostIP", h.HostPort, h.Protocol, why))
		} else if at, used := hostio.InUse(h.Protocol, h.HostPort, bound(h, rules.NodeAddrs)); used {
			errs = append(errs, fmt.Errorf("hostPort %d/%s: a process of this node has a socket at %s; use another hostPort",
				h.HostPort, h.Protocol, at))
		}
	}
	return errors.Join(errs...)
}

// bound are the addresses that a host port takes.
func bound(h model.HostPort, all []netip.Addr) []netip.Addr {
	if h.HostIP.IsValid() && !h.HostIP.IsUnspecified() {
		return []netip.Addr{h.HostIP}
	}
	return all
}
