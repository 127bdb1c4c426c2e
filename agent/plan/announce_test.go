package plan

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/announce"
)

// lbService is a Service of type LoadBalancer with an address.
func lbService(name, addr string, more func(*model.Service)) model.Service {
	s := model.Service{ObjectName: model.ObjectName{Namespace: "d", Name: name}, UID: name, Type: model.LoadBalancer,
		ClusterIPs: []netip.Addr{ip("10.43.0.9")}, Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}}}
	if addr != "" {
		s.LBAddresses = []netip.Addr{ip(addr)}
	}
	if more != nil {
		more(&s)
	}
	return s
}

func local(s *model.Service) { s.ExternalPolicy = model.PolicyLocal }

// Only addresses of warren's own Services are announced, never one of the cluster itself, and on Kubernetes only those that
// warren allocated.
func TestAnnounced_Services_OnlyAllocatedAddresses(t *testing.T) {
	in := testInput()
	snap := in.Snapshot
	snap.Pools = []model.AddressPool{{Name: "p", Ranges: []model.AddressRange{{First: ip("198.51.100.1"), Last: ip("198.51.100.9")}}}}
	snap.ServiceCIDRs = []netip.Prefix{pfx("10.43.0.0/16")}
	snap.Services = []model.Service{
		lbService("all", "198.51.100.1", nil),
		lbService("here", "198.51.100.2", local),
		lbService("nowhere", "198.51.100.3", local),
		lbService("share-a", "198.51.100.4", nil),
		lbService("here2", "198.51.100.4", local),
		lbService("other-class", "198.51.100.5", func(s *model.Service) { s.LBClass = "example.com/lb" }),
		lbService("proxied", "198.51.100.6", func(s *model.Service) { s.OtherProxy = true }),
		lbService("node", "192.0.2.2", nil),
		lbService("pod", "10.42.9.9", nil),
		lbService("service", "10.43.0.9", nil),
		lbService("kept", "203.0.113.1", nil), // its pool is deleted
		// likewise
		lbService("noted", "203.0.113.2",
			func(s *model.Service) { s.Annotations = map[string]string{lbpool.RecordAnnotation: "203.0.113.2"} }),
		lbService("waits", "", nil),
	}
	for _, n := range []string{"here", "here2"} {
		snap.Slices = append(snap.Slices, model.EndpointSlice{ObjectName: model.ObjectName{Namespace: "d", Name: n + "-1"}, Service: n,
			Endpoints: []model.Endpoint{{Addr: ip("10.42.2.3"), Ready: true, Node: "n3"}, {Addr: ip("10.42.1.3"), Node: "n2"},
				{Addr: ip("10.42.0.3"), Ready: true, Node: "n1"}}})
	}
	both := []string{"n1", "n3"}
	want := announce.Desired{Self: ip("10.42.0.1"), Device: "warren0",
		Peers: []announce.Peer{{Name: "n2", Addr: ip("10.42.1.1"), Key: testKey(2)}, {Name: "n3", Addr: ip("10.42.2.1"), Key: testKey(3)}},
		Addresses: []announce.Address{{Addr: ip("198.51.100.1")}, {Addr: ip("198.51.100.2"), Nodes: both},
			{Addr: ip("198.51.100.3"), Nodes: []string{}},
			{Addr: ip("198.51.100.4"), Nodes: both}, {Addr: ip("203.0.113.1")}, {Addr: ip("203.0.113.2")}}}
	opts := cmpopts.EquateComparable(netip.Addr{})
	if d := cmp.Diff(want, mustMake(t, in).Announce, opts); d != "" {
		t.Errorf("without Kubernetes (-want +got):\n%s", d)
	}
	want.Addresses = slices.Delete(want.Addresses, 4, 5)
	in.Kubernetes = true
	if d := cmp.Diff(want, mustMake(t, in).Announce, opts); d != "" {
		t.Errorf("on Kubernetes (-want +got):\n%s", d)
	}
}

// A node that may announce does so on its links; without an address there is nothing to announce.
func TestAnnounced_Links_OnlyWhereAddressesAre(t *testing.T) {
	in := testInput()
	in.Announce, in.Links = true, []announce.Link{{Name: "eth0"}}
	if d := mustMake(t, in).Announce; d.Links != nil {
		t.Errorf("without addresses: %v", d.Links)
	}
	in.Snapshot.Services = []model.Service{lbService("all", "198.51.100.1", nil)}
	if d := mustMake(t, in).Announce; len(d.Links) != 1 {
		t.Errorf("links %v", d.Links)
	}
	in.Announce = false
	if d := mustMake(t, in).Announce; d.Links != nil || len(d.Addresses) != 1 {
		t.Errorf("on a node that does not announce: %+v", d)
	}
}
