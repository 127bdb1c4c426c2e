package plan

import (
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
)

// forwardingSysctls are those that forwarding between Pods, TUN and underlay needs. accept_ra comes before IPv6 forwarding: a
// forwarding host drops the default routes that it learned from router advertisements unless accept_ra is 2.
func (in *Input) forwardingSysctls() []hostnet.Sysctl {
	var out []hostnet.Sysctl
	dev := in.Interface
	for _, r := range in.Cluster.PodCIDRs {
		if r.Addr().Is4() {
			out = append(out,
				hostnet.Sysctl{Path: "ipv4/ip_forward", Value: "1"},
				hostnet.Sysctl{Path: "ipv4/conf/" + dev + "/rp_filter", Value: "2"},
				hostnet.Sysctl{Path: "ipv4/conf/" + dev + "/accept_local", Value: "1"})
			continue
		}
		for _, l := range in.Underlay.Links {
			out = append(out, hostnet.Sysctl{Path: "ipv6/conf/" + l + "/accept_ra", Value: "2", If: "1", Optional: true})
		}
		out = append(out,
			hostnet.Sysctl{Path: "ipv6/conf/" + dev + "/disable_ipv6", Value: "0"},
			hostnet.Sysctl{Path: "ipv6/conf/" + dev + "/addr_gen_mode", Value: "1", Optional: true},
			hostnet.Sysctl{Path: "ipv6/conf/all/forwarding", Value: "1"})
	}
	return out
}

// reservedPorts covers masqueradePorts and nodePorts, in the format of the sysctl.
const reservedPorts = "13000-32767"

// serviceSysctls are those that Services and egress masquerading need.
func (in *Input) serviceSysctls() (out []hostnet.Sysctl) {
	if in.has(model.IPv4) {
		out = append(out,
			// Lets packets of 127.0.0.1 pass over warren0. The load balancer drops every other use of 127/8.
			hostnet.Sysctl{Path: "ipv4/conf/" + in.Interface + "/route_localnet", Value: "1"},
			// A strict reverse path filter looks up the reverse route with swapped ports, matches the rules for replies
			// and drops valid packets. Pods' source addresses are checked at their veths instead.
			hostnet.Sysctl{Path: "ipv4/conf/all/rp_filter", Value: "2"})
	}
	// A host socket with an ephemeral port inside the redirected ranges would receive nothing.
	out = append(out, hostnet.Sysctl{Path: "ipv4/ip_local_reserved_ports", Value: reservedPorts, Append: true})
	for _, l := range in.Underlay.UnmanagedPodLinks {
		// Unmanaged Pods on a bridge treat the whole block as on-link and send ARP requests for managed Pods.
		out = append(out, hostnet.Sysctl{Path: "ipv4/conf/" + l + "/proxy_arp", Value: "1", Optional: true})
	}
	return out
}
