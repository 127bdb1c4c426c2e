package table

import (
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

// Endpoints at which the load balancer itself serves a Service are not used, also if that Service appears later, and are used
// again when it is deleted.
func TestBuild_EndpointIsServed_Refused(t *testing.T) {
	a := netip.MustParseAddr
	self := Self{Node: "n1", PodRanges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, Addrs: []netip.Addr{a("192.0.2.1")},
		Peers: []netip.Addr{a("192.0.2.2")}, PodNet4: a("10.42.1.1"), PeerSNAT: []netip.Addr{a("10.42.2.2")}}
	ranges := []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}
	target := model.Service{ObjectName: model.ObjectName{Namespace: "b", Name: "target"}, Type: model.LoadBalancer,
		ClusterIPs: []netip.Addr{a("10.43.0.1")}, LBAddresses: []netip.Addr{a("192.0.2.200")},
		Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80, NodePort: 30080}}}
	for _, c := range []struct {
		endpoint string
		port     uint16
		reason   string // while target exists
		always   bool
	}{
		{"10.43.0.1", 80, refusedService, true},
		{"10.43.9.9", 80, refusedService, true},
		{"192.0.2.200", 80, refusedService, false},
		{"192.0.2.1", 30080, refusedNodePort, false},
		{"192.0.2.2", 30080, refusedNodePort, false},
		{"10.42.1.1", 30080, refusedNodePort, false},
		{"10.42.2.1", 30080, refusedNodePort, false},
		{"192.0.2.2", 30081, "", false},
		{"192.0.2.1", 80, "", false},
		{"10.42.3.7", 30080, "", false},
		{"198.51.100.7", 30080, "", false},
	} {
		t.Run(c.endpoint, func(t *testing.T) {
			svc := model.Service{ObjectName: model.ObjectName{Namespace: "a", Name: "web"}, ClusterIPs: []netip.Addr{a("10.43.0.2")},
				Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}}}
			parts := []model.EndpointSlice{{ObjectName: model.ObjectName{Namespace: "a", Name: "web-1"}, Service: "web",
				Ports:     []model.EndpointPort{{Protocol: model.TCP, Port: c.port}},
				Endpoints: []model.Endpoint{{Addr: a(c.endpoint), Ready: true, Serving: true}}}}
			var b Builder
			for _, with := range []bool{false, true, false} {
				services := []model.Service{svc}
				if with {
					services = append(services, target)
				}
				table := b.Build(self, &model.Snapshot{ServiceCIDRs: ranges, Services: services, Slices: parts})
				refused := c.reason != "" && (with || c.always)
				f := table.Frontend(Key{Addr: a("10.43.0.2"), Port: 80, Proto: uint8(model.TCP)})
				if got := len(f.Internal.Backends) == 0 && len(f.Endpoints) == 0; got != refused {
					t.Errorf("target exists %v: refused %v, backends %v", with, got, f.Internal.Backends)
				}
				list := table.Refused()
				if len(list) != b2i(refused) || refused && (list[0].Reason != c.reason || list[0].Service != svc.ObjectName) {
					t.Errorf("target exists %v: reported %+v, expected reason %q", with, list, c.reason)
				}
			}
		})
	}
}
