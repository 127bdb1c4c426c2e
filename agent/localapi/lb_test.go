package localapi

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/announce"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

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

// The view has the reason why each waiting Service has no address.
func TestLBView_WaitingServices_ReasonsAndPoolUse(t *testing.T) {
	snap := &model.Snapshot{}
	for i := range 3 {
		snap.Nodes = append(snap.Nodes, model.Node{Name: fmt.Sprintf("n%d", i+1)})
	}
	snap.Pools = []model.AddressPool{{Name: "p", AutoAssign: true,
		Ranges: []model.AddressRange{{First: ip("198.51.100.1"), Last: ip("198.51.100.2")}}}}
	snap.Services = []model.Service{lbService("a", "198.51.100.1", nil), lbService("b", "", nil),
		lbService("c", "", func(s *model.Service) { s.LBClass = "example.com/lb" }),
		lbService("d", "", func(s *model.Service) { s.Annotations = map[string]string{lbpool.RequestAnnotation: "198.51.100.1"} }),
		lbService("e", "", func(s *model.Service) { s.Annotations = map[string]string{lbpool.RequestAnnotation: "?"} })}
	snap.Services = append(snap.Services, lbService("named", "", func(s *model.Service) { s.LBExternal = true }))
	lb := lbView(snap, &announce.View{Addresses: []announce.AddressView{{Addr: ip("198.51.100.1"), Owner: "n2", Epoch: 3, State: "idle"}}})
	if p := lb.Pools[0]; p.Used != 1 || p.Free != 1 || !slices.Equal(p.Addresses, []string{"198.51.100.1-198.51.100.2"}) {
		t.Errorf("pool %+v", p)
	}
	if a := lb.Services[0].Addresses[0]; a.Announcer != "n2" || a.Epoch != 3 || a.Pool != "p" || a.State != "idle" {
		t.Errorf("address %+v", a)
	}
	if n := len(lb.Services); n != 4 {
		t.Errorf("%d Services, expected those of warren's class that no other controller serves", n)
	}
	for i, want := range []string{"", "will be allocated", "198.51.100.1 is held by service d/a", "is not an IP address"} {
		if why := strings.Join(lb.Services[i].Pending, "; "); (want == "") != (why == "") || !strings.Contains(why, want) {
			t.Errorf("%s pending: %q, expected %q", lb.Services[i].Service, why, want)
		}
	}
}
