package membership

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
)

// lbSnapshot has one free address, the Service d/b that can have it, and Services that cannot.
func lbSnapshot() *model.Snapshot {
	ip := netip.MustParseAddr
	service := func(name, addr string, more func(*model.Service)) model.Service {
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
	snap := &model.Snapshot{}
	for i := range 3 {
		snap.Nodes = append(snap.Nodes, model.Node{Name: fmt.Sprintf("n%d", i+1)})
	}
	snap.Pools = []model.AddressPool{{Name: "p", AutoAssign: true,
		Ranges: []model.AddressRange{{First: ip("198.51.100.1"), Last: ip("198.51.100.2")}}}}
	snap.Services = []model.Service{service("a", "198.51.100.1", nil), service("b", "", nil),
		service("c", "", func(s *model.Service) { s.LBClass = "example.com/lb" }),
		service("d", "", func(s *model.Service) { s.Annotations = map[string]string{lbpool.RequestAnnotation: "198.51.100.1"} }),
		service("e", "", func(s *model.Service) { s.Annotations = map[string]string{lbpool.RequestAnnotation: "?"} })}
	return snap
}

func TestWaitingServices_OneAddressFree_OnlyServiceThatCanHaveIt(t *testing.T) {
	got := waitingServices(lbSnapshot())
	if len(got) != 1 || !got[model.ObjectName{Namespace: "d", Name: "b"}] {
		t.Errorf("%v wait, expected d/b alone", got)
	}
}

func TestGoesFirst_AllNodesAlive_ExactlyOneNode(t *testing.T) {
	snap := lbSnapshot()
	first := 0
	for _, n := range []string{"n1", "n2", "n3"} {
		for i := range snap.Nodes {
			snap.Nodes[i].Alive = true
		}
		if goesFirst(snap, n, model.ObjectName{Namespace: "d", Name: "b"}) {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d nodes go first", first)
	}
}
