package objectstore

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/warrennet/warren/internal/model"
)

// Endpoints from selectors: labels select Pods, each family and set of target ports has its own slice, and readiness and
// trafficDistribution are applied.
func TestSelected_ServiceWithSelector_MakesSlicesOfItsPods(t *testing.T) {
	n := func(s string) model.ObjectName { return model.ObjectName{Namespace: "d", Name: s} }
	ip := netip.MustParseAddr
	web := model.Service{ObjectName: n("web"), UID: "u", Selector: map[string]string{"app": "web"}, Distribution: model.PreferSameNode,
		Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80, TargetPortName: "web"}}}
	port := func(p uint16) []model.EndpointPort {
		return []model.EndpointPort{{Name: "web", Protocol: model.TCP, Port: p}}
	}
	label := map[string]string{"app": "web", "more": "x"}
	pods := []model.Pod{
		{ObjectName: n("a"), Node: "n1", Zone: "z1", Addrs: []netip.Addr{ip("10.42.0.3"), ip("fd42::3")}, Ready: true,
			Labels: label, NamedPorts: port(8080)},
		{ObjectName: n("b"), Node: "n2", Zone: "z2", Addrs: []netip.Addr{ip("10.42.1.3")}, Ready: true, Labels: label,
			NamedPorts: port(9090)},
		{ObjectName: n("c"), Node: "n2", Addrs: []netip.Addr{ip("10.42.1.4")}, Ready: true, Terminating: true, Labels: label,
			NamedPorts: port(9090)},
		{ObjectName: n("other"), Node: "n2", Addrs: []netip.Addr{ip("10.42.1.5")}, Ready: true, Labels: map[string]string{"app": "db"}},
		{ObjectName: model.ObjectName{Namespace: "other", Name: "x"}, Addrs: []netip.Addr{ip("10.42.1.6")}, Ready: true, Labels: label},
	}
	got := map[netip.Addr]model.Endpoint{}
	ports := map[netip.Addr]uint16{}
	for _, s := range selected([]model.Service{web, {ObjectName: n("byhand")}}, pods) {
		for _, e := range s.Endpoints {
			if model.FamilyOf(e.Addr) != s.Family || s.Service != "web" {
				t.Errorf("%s is in slice %+v", e.Addr, s)
			}
			got[e.Addr], ports[e.Addr] = e, s.Ports[0].Port
		}
	}
	a := model.Endpoint{Addr: ip("10.42.0.3"), Ready: true, Serving: true, Node: "n1", Zone: "z1", ZoneHints: []string{"z1"},
		NodeHints: []string{"n1"}, Pod: n("a")}
	a6 := a
	a6.Addr = ip("fd42::3")
	want := map[netip.Addr]model.Endpoint{
		a.Addr: a, a6.Addr: a6,
		ip("10.42.1.3"): {Addr: ip("10.42.1.3"), Ready: true, Serving: true, Node: "n2", Zone: "z2", ZoneHints: []string{"z2"},
			NodeHints: []string{"n2"}, Pod: n("b")},
		ip("10.42.1.4"): {Addr: ip("10.42.1.4"), Serving: true, Terminating: true, Node: "n2", NodeHints: []string{"n2"}, Pod: n("c")},
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("endpoints (-want +got):\n%s", d)
	}
	for addr, p := range map[string]uint16{"10.42.0.3": 8080, "fd42::3": 8080, "10.42.1.3": 9090, "10.42.1.4": 9090} {
		if ports[ip(addr)] != p {
			t.Errorf("target port of %s is %d, expected %d", addr, ports[ip(addr)], p)
		}
	}
}
