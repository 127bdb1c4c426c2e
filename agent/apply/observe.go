package apply

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/agent/hostio"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/announce"
)

// hostView is what the apply loop last observed of the host. Services change much more often than the host's own configuration,
// and reading that takes milliseconds: it is read again after a notification of the kernel, and every reassert for what the
// kernel sends no notification of.
type hostView struct {
	observe func(exclude []netip.Prefix) (hostnet.Underlay, error)
	chains  func() ([]hostnet.Chain, error)
	plan.Host
	listeners hostio.Listeners
	at        time.Time
}

// observe reads the host if it is time. look means that the whole plan is to be compared with the kernel, too.
func (x *applier) observe(self plan.Self, snap *model.Snapshot, pods []plan.Pod) (h plan.Host, look bool, err error) {
	v := &x.view
	last := x.State()
	look = x.dirty.Swap(false) || last == nil || last.Err != nil || time.Since(v.at) >= reassert
	if look {
		if err := x.look(self); err != nil {
			x.dirty.Store(true)
			return h, true, err
		}
	}
	x.pods.observe(pods, look)
	h = v.Host
	if self.Kubernetes {
		h.Underlay.Addrs = x.cfg.Source.OrderAddresses(h.Underlay.Addrs)
	}
	h.HealthPorts = x.socks.checks.Ports()
	h.PodLinks = x.pods.links
	if self.Announce && hasLBAddresses(snap) {
		h.Links = announceLinks(h.Underlay, x.cfg.AnnounceLinks)
	}
	return h, look, nil
}

// look reads addresses, listeners and, after a change of the packet filter, the chains of a kube-proxy.
func (x *applier) look(self plan.Self) error {
	v := &x.view
	under, err := x.underlay(self.Cluster.PodCIDRs, v.observe)
	if err != nil {
		return err
	}
	if x.chains.Swap(false) || x.State() == nil {
		v.KubeProxy = x.seesKubeProxy()
	}
	v.at = time.Now()
	v.Underlay, v.Listeners = under, v.listeners.Find(hostio.Inodes(x.socks.sinks, x.socks.relays), v.at)
	return nil
}

// Underlay reads what the host has for the tunnel before the first apply.
func (l *Loop) Underlay(ranges []netip.Prefix) (hostnet.Underlay, error) {
	return l.underlay(ranges, hostnet.Observe)
}

// underlay is what the host has outside of the Pod ranges, with the addresses that the configuration may replace.
func (l *Loop) underlay(ranges []netip.Prefix, observe func([]netip.Prefix) (hostnet.Underlay, error)) (hostnet.Underlay, error) {
	under, err := observe(ranges)
	if len(l.cfg.NodeAddresses) > 0 {
		under.Addrs = l.cfg.NodeAddresses
	}
	return under, err
}

// seesKubeProxy looks for a kube-proxy's chains. If they cannot be listed, the result of the last look remains, and the next
// look repeats this: with the rules for a node without kube-proxy, replies of the backends that it selected would be lost.
func (x *applier) seesKubeProxy() bool {
	chains, err := x.view.chains()
	if err != nil {
		x.log.Warn("cannot list the packet filter's chains to find a kube-proxy; keeping the last result", "err", err)
		x.chains.Store(true)
		return x.view.KubeProxy
	}
	return slices.ContainsFunc(chains, hostnet.Chain.KubeProxy)
}

func hasLBAddresses(snap *model.Snapshot) bool {
	return snap != nil && slices.ContainsFunc(snap.Services, func(s model.Service) bool { return len(s.LBAddresses) > 0 })
}

// announceLinks are the links to announce on: those named in the configuration, else those with an address of the node. Links
// without carrier do not count.
func announceLinks(under hostnet.Underlay, names []string) (out []announce.Link) {
	configured := len(names) > 0
	if !configured {
		names = under.Links
	}
	for _, name := range names {
		ifc, err := net.InterfaceByName(name)
		if err != nil || ifc.Flags&net.FlagUp == 0 || ifc.Flags&net.FlagRunning == 0 {
			continue
		}
		l := announce.Link{Name: name, Index: ifc.Index, MAC: ifc.HardwareAddr}
		own := configured
		addrs, _ := ifc.Addrs() // none if the link has been deleted meanwhile
		for _, x := range addrs {
			p, err := netip.ParsePrefix(x.String())
			if err != nil {
				continue
			}
			own = own || slices.Contains(under.Addrs, p.Addr())
			if !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() {
				l.Subnets = append(l.Subnets, p.Masked())
			}
		}
		if own {
			out = append(out, l)
		}
	}
	return out
}
