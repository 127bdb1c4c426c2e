package plan

import (
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// Relay is a port that the agent serves on ::1. The kernel accepts no packet with ::1 on another link than lo, so the load
// balancer cannot do for ::1 what it does for 127.0.0.1. A socket of the agent accepts the connection and opens another one
// to the same port of the node's own address.
type Relay struct {
	Protocol model.Protocol
	Port     uint16
	To       netip.Addr // the node's own address
}

// relays are the node ports of Services with an IPv6 address, and the host ports of Pods with one.
func relays(in *Input) map[Relay]bool {
	to := in.nodeAddr(model.IPv6)
	if !in.has(model.IPv6) || !to.IsValid() {
		return nil
	}
	out := map[Relay]bool{}
	add := func(proto model.Protocol, port uint16) {
		if port != 0 && proto != model.SCTP {
			out[Relay{proto, port, to}] = true
		}
	}
	for i := range in.Snapshot.Services {
		if s := &in.Snapshot.Services[i]; hasNodePorts(s) && slices.ContainsFunc(s.ClusterIPs, netip.Addr.Is6) {
			for _, p := range s.Ports {
				add(p.Protocol, p.NodePort)
			}
		}
	}
	for _, p := range in.Pods {
		for _, h := range p.HostPorts {
			if slices.ContainsFunc(p.Addrs, netip.Addr.Is6) &&
				(!h.HostIP.IsValid() || h.HostIP == netip.IPv6Unspecified() || h.HostIP == netip.IPv6Loopback()) {
				add(h.Protocol, h.HostPort)
			}
		}
	}
	return out
}

// hasNodePorts reports whether warren serves node ports of a Service.
func hasNodePorts(s *model.Service) bool {
	return !s.OtherProxy && (s.Type == model.NodePort || s.Type == model.LoadBalancer)
}

// udpSinks are the UDP ports of the node that belong to Pods, at each of the node's addresses that serves them. A datagram in
// fragments that the kernel has reassembled reaches the node's own stack, which would answer ICMP port unreachable without a
// socket there.
func udpSinks(in *Input) map[netip.AddrPort]bool {
	out, addrs := map[netip.AddrPort]bool{}, in.nodePortAddrs()
	add := func(proto model.Protocol, port uint16) {
		for _, a := range addrs {
			if port != 0 && proto == model.UDP && !a.IsLoopback() {
				out[netip.AddrPortFrom(a, port)] = true
			}
		}
	}
	for i := range in.Snapshot.Services {
		if s := &in.Snapshot.Services[i]; hasNodePorts(s) {
			for _, p := range s.Ports {
				add(p.Protocol, p.NodePort)
			}
		}
	}
	for _, p := range in.Pods {
		for _, h := range p.HostPorts {
			add(h.Protocol, h.HostPort)
		}
	}
	return out
}

// HealthCheck is what the agent answers at one health check node port.
type HealthCheck struct {
	Service        model.ObjectName
	LocalEndpoints int // ready ones on this node
}

// healthChecks counts the ready endpoints on this node for each health check node port. Terminating endpoints do not count,
// although they may still receive traffic: external load balancers must choose another node.
func healthChecks(snap *model.Snapshot, node string) map[uint16]HealthCheck {
	out := map[uint16]HealthCheck{}
	for i := range snap.Services {
		s := &snap.Services[i]
		if s.Type != model.LoadBalancer || s.HealthCheckNodePort == 0 || s.ExternalPolicy != model.PolicyLocal || s.OtherProxy {
			continue
		}
		seen := map[any]bool{} // Pods, which have one endpoint per family, or addresses of endpoints without a Pod
		for j := range snap.Slices {
			x := &snap.Slices[j]
			if x.Namespace != s.Namespace || x.Service != s.Name || x.OtherProxy {
				continue
			}
			for _, e := range x.Endpoints {
				switch {
				case !e.Ready || e.Node != node:
				case e.Pod != model.ObjectName{}:
					seen[e.Pod] = true
				default:
					seen[e.Addr] = true
				}
			}
		}
		out[s.HealthCheckNodePort] = HealthCheck{Service: s.ObjectName, LocalEndpoints: len(seen)}
	}
	return out
}
