package agent

import (
	"net/netip"
	"slices"
	"strings"
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

// What is announced, by which nodes, and with whom: only warren's own Services, never an address of the cluster itself,
// and on Kubernetes only what warren gave.
func TestAnnounced(t *testing.T) {
	me, snap := testCluster()
	snap.Pools = []model.AddressPool{{Name: "p", Ranges: []model.AddressRange{{First: ip("198.51.100.1"), Last: ip("198.51.100.9")}}}}
	snap.ServiceCIDRs = []netip.Prefix{pfx("10.43.0.0/16")}
	snap.Services = []model.Service{
		lbService("all", "198.51.100.1", nil),
		lbService("here", "198.51.100.2", local),
		lbService("nowhere", "198.51.100.3", local),
		lbService("share-a", "198.51.100.4", nil),
		lbService("here2", "198.51.100.4", local),
		lbService("foreign", "198.51.100.5", func(s *model.Service) { s.LBClass = "example.com/lb" }),
		lbService("proxied", "198.51.100.6", func(s *model.Service) { s.Foreign = true }),
		lbService("node", "192.0.2.2", nil),
		lbService("pod", "10.42.9.9", nil),
		lbService("service", "10.43.0.9", nil),
		lbService("kept", "203.0.113.1", nil), // its pool is gone
		lbService("noted", "203.0.113.2", func(s *model.Service) { s.Annotations = map[string]string{lbpool.RecordAnnotation: "203.0.113.2"} }), // likewise
		lbService("waits", "", nil),
	}
	for _, n := range []string{"here", "here2"} {
		snap.Slices = append(snap.Slices, model.EndpointSlice{ObjectName: model.ObjectName{Namespace: "d", Name: n + "-1"}, Service: n,
			Endpoints: []model.Endpoint{{Addr: ip("10.42.2.3"), Ready: true, Node: "n3"}, {Addr: ip("10.42.1.3"), Node: "n2"}, {Addr: ip("10.42.0.3"), Ready: true, Node: "n1"}}})
	}
	both := []string{"n1", "n3"}
	want := announce.Desired{Self: ip("10.42.0.1"), Peers: []announce.Peer{{Name: "n2", Addr: ip("10.42.1.1")}, {Name: "n3", Addr: ip("10.42.2.1")}},
		Addresses: []announce.Address{{Addr: ip("198.51.100.1")}, {Addr: ip("198.51.100.2"), Nodes: both}, {Addr: ip("198.51.100.3"), Nodes: []string{}},
			{Addr: ip("198.51.100.4"), Nodes: both}, {Addr: ip("203.0.113.1")}, {Addr: ip("203.0.113.2")}}}
	p := makePlan(me, snap, nil, (&tableCache{}).build)
	opts := cmpopts.EquateComparable(netip.Addr{})
	if d := cmp.Diff(want, announced(me, snap, p.Peers, false), opts); d != "" {
		t.Errorf("without Kubernetes (-want +got):\n%s", d)
	}
	want.Addresses = slices.Delete(want.Addresses, 4, 5)
	if d := cmp.Diff(want, announced(me, snap, p.Peers, true), opts); d != "" {
		t.Errorf("on Kubernetes (-want +got):\n%s", d)
	}
}

// A Service waits only while an address could be its; `warren lb` gives the reasons of the others.
func TestWaitingServices(t *testing.T) {
	_, snap := testCluster()
	snap.Pools = []model.AddressPool{{Name: "p", AutoAssign: true, Ranges: []model.AddressRange{{First: ip("198.51.100.1"), Last: ip("198.51.100.2")}}}}
	snap.Services = []model.Service{lbService("a", "198.51.100.1", nil), lbService("b", "", nil),
		lbService("c", "", func(s *model.Service) { s.LBClass = "example.com/lb" }),
		lbService("d", "", func(s *model.Service) { s.Annotations = map[string]string{lbpool.RequestAnnotation: "198.51.100.1"} }),
		lbService("e", "", func(s *model.Service) { s.Annotations = map[string]string{lbpool.RequestAnnotation: "?"} })}
	got := waitingServices(snap)
	if len(got) != 1 || !got[model.ObjectName{Namespace: "d", Name: "b"}] {
		t.Errorf("%v wait, expected d/b alone", got)
	}
	snap.Services = append(snap.Services, lbService("named", "", func(s *model.Service) { s.LBElsewhere = true }))
	lb := lbView(snap, &announce.View{Addresses: []announce.Seen{{Addr: ip("198.51.100.1"), Owner: "n2", Epoch: 3, State: "idle"}}})
	if p := lb.Pools[0]; p.Used != 1 || p.Free != 1 || !slices.Equal(p.Addresses, []string{"198.51.100.1-198.51.100.2"}) {
		t.Errorf("pool %+v", p)
	}
	if a := lb.Services[0].Addresses[0]; a.Announcer != "n2" || a.Epoch != 3 || a.Pool != "p" || a.State != "idle" {
		t.Errorf("address %+v", a)
	}
	if n := len(lb.Services); n != 4 {
		t.Errorf("%d Services, expected those of warren's class that nobody else serves", n)
	}
	for i, want := range []string{"", "about to be given", "198.51.100.1 is held by service d/a", "is not an IP address"} {
		if why := strings.Join(lb.Services[i].Pending, "; "); (want == "") != (why == "") || !strings.Contains(why, want) {
			t.Errorf("%s waits because of %q, expected %q", lb.Services[i].Service, why, want)
		}
	}
	first := 0
	for _, n := range []string{"n1", "n2", "n3"} {
		for i := range snap.Nodes {
			snap.Nodes[i].Alive = true
		}
		if firstFor(snap, n, model.ObjectName{Namespace: "d", Name: "b"}) {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d nodes go first", first)
	}
}
