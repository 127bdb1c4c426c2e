package plan

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
)

func TestRelays_IPv6NodeAndHostPorts_AreRelayed(t *testing.T) {
	a := netip.MustParseAddr
	in := Input{Self: Self{Cluster: model.Cluster{PodCIDRs: []netip.Prefix{pfx("10.42.0.0/16"), pfx("fd42::/48")}}}}
	in.Underlay.Addrs = []netip.Addr{a("192.0.2.1"), a("2001:db8::1")}
	in.Snapshot = &model.Snapshot{Services: []model.Service{
		{Type: model.NodePort, ClusterIPs: []netip.Addr{a("fd43::1")}, Ports: []model.ServicePort{{Protocol: model.TCP, NodePort: 30001},
			{Protocol: model.SCTP, NodePort: 30002}}},
		{Type: model.NodePort, ClusterIPs: []netip.Addr{a("10.43.0.1")},
			Ports: []model.ServicePort{{Protocol: model.TCP, NodePort: 30003}}},
		{Type: model.NodePort, OtherProxy: true, ClusterIPs: []netip.Addr{a("fd43::2")},
			Ports: []model.ServicePort{{Protocol: model.TCP, NodePort: 30004}}},
		{Type: model.LoadBalancer, ClusterIPs: []netip.Addr{a("fd43::3")},
			Ports: []model.ServicePort{{Protocol: model.UDP, NodePort: 30005}, {Protocol: model.UDP}}},
	}}
	in.Pods = []Pod{{Addrs: []netip.Addr{a("10.42.0.3"), a("fd42::3")}, HostPorts: []model.HostPort{{Protocol: model.TCP, HostPort: 8080},
		{Protocol: model.TCP, HostPort: 8081, HostIP: a("127.0.0.1")},
		{Protocol: model.UDP, HostPort: 8082, HostIP: a("::1")}}}}
	got := relays(&in)
	want := []Relay{{model.TCP, 30001, a("2001:db8::1")}, {model.UDP, 30005, a("2001:db8::1")}, {model.TCP, 8080, a("2001:db8::1")},
		{model.UDP, 8082, a("2001:db8::1")}}
	if len(got) != len(want) {
		t.Errorf("%v; expected %v", got, want)
	}
	for _, k := range want {
		if !got[k] {
			t.Errorf("%v is not relayed", k)
		}
	}
	in.Underlay.Addrs = in.Underlay.Addrs[:1]
	if got := relays(&in); len(got) != 0 {
		t.Errorf("without an IPv6 address: %v", got)
	}
}

// The node's UDP ports that belong to Pods have a sink at each of its addresses except 127.0.0.1, which receives no fragments.
func TestUDPSinks_NodeAndHostPorts_AtEachNodeAddress(t *testing.T) {
	node := netip.MustParseAddr("192.0.2.1")
	in := Input{Host: Host{Underlay: hostnet.Underlay{Addrs: []netip.Addr{node}}}}
	in.Cluster.PodCIDRs = []netip.Prefix{pfx("10.42.0.0/16")}
	ports := []model.ServicePort{{Protocol: model.UDP, NodePort: 30001}, {Protocol: model.TCP, NodePort: 30002}, {Protocol: model.UDP}}
	in.Snapshot = &model.Snapshot{Services: []model.Service{{Type: model.NodePort, Ports: ports}, {Ports: ports},
		{OtherProxy: true, Type: model.NodePort,
			Ports: []model.ServicePort{{Protocol: model.UDP, NodePort: 30003}}}}}
	in.Pods = []Pod{{HostPorts: []model.HostPort{{Protocol: model.UDP, HostPort: 8081}, {Protocol: model.TCP, HostPort: 8082},
		{Protocol: model.UDP, HostPort: 31000}}}}
	want := map[netip.AddrPort]bool{}
	for _, p := range []uint16{30001, 8081, 31000} {
		want[netip.AddrPortFrom(node, p)] = true
	}
	if got := udpSinks(&in); !maps.Equal(got, want) {
		t.Errorf("%v, expected %v", got, want)
	}
	p := Plan{ReservedPorts: []uint16{20000}}
	read := []hostnet.Ports{{Lo: 13000, Hi: 19999}, {Lo: 20001, Hi: 29999}, {Lo: 30000, Hi: 32767}, {Lo: 8081, Hi: 8081}}
	if got := p.reassembled(&in); !slices.Equal(got, read) {
		t.Errorf("read: %v, expected %v", got, read)
	}
}

func TestHealthChecks_DualStackPod_CountsOnce(t *testing.T) {
	n := func(s string) model.ObjectName { return model.ObjectName{Namespace: "d", Name: s} }
	local := model.Service{ObjectName: n("a"), Type: model.LoadBalancer, ExternalPolicy: model.PolicyLocal, HealthCheckNodePort: 30100}
	other := local
	other.ObjectName, other.HealthCheckNodePort, other.OtherProxy = n("b"), 30101, true
	idle := local
	idle.ObjectName, idle.HealthCheckNodePort = n("c"), 30102
	snap := &model.Snapshot{Services: []model.Service{local, other, idle}, Slices: []model.EndpointSlice{
		{ObjectName: n("a4"), Service: "a", Endpoints: []model.Endpoint{
			{Addr: ip("10.42.0.3"), Node: "n1", Ready: true, Pod: n("p")}, {Addr: ip("10.42.1.3"), Node: "n2", Ready: true, Pod: n("q")},
			{Addr: ip("10.42.0.4"), Node: "n1", Serving: true, Terminating: true, Pod: n("r")}}},
		{ObjectName: n("a6"), Service: "a", Endpoints: []model.Endpoint{{Addr: ip("fd42::3"), Node: "n1", Ready: true, Pod: n("p")},
			{Addr: ip("fd42::9"), Node: "n1", Ready: true}}}}}
	want := map[uint16]HealthCheck{30100: {Service: n("a"), LocalEndpoints: 2}, 30102: {Service: n("c")}}
	if d := cmp.Diff(want, healthChecks(snap, "n1")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
