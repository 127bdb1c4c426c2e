package servicelb

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// Services and EndpointSlices of another proxy make no frontends. As soon as they belong to warren, they do.
func TestBuild_ObjectsOfOtherProxies_NoFrontends(t *testing.T) {
	svc := model.Service{ObjectName: model.ObjectName{Namespace: "d", Name: "s"}, UID: "1", ClusterIPs: []netip.Addr{ip("10.43.0.10")},
		Ports: []model.ServicePort{{Protocol: model.TCP, Port: 53, TargetPort: 53}}}
	slice := model.EndpointSlice{ObjectName: model.ObjectName{Namespace: "d", Name: "s-1"}, Service: "s",
		Ports:     []model.EndpointPort{{Protocol: model.TCP, Port: 53}},
		Endpoints: []model.Endpoint{{Addr: ip("10.42.1.9"), Ready: true, Serving: true, Node: "n1"}}}
	var b Builder
	count := func(me Self, svc model.Service, slice model.EndpointSlice) (fronts, backends int) {
		table := b.Build(me, &model.Snapshot{Services: []model.Service{svc}, Slices: []model.EndpointSlice{slice}})
		for _, f := range table.Frontends() {
			fronts++
			backends += len(f.Backends)
		}
		return fronts, backends + len(table.Redirects().PodPorts)
	}
	ours, own := testSelf(), testSelf()
	own.HostServed = svc.ClusterIPs
	foreign, headless := svc, slice
	foreign.OtherProxy, headless.OtherProxy = true, true
	for _, c := range []struct {
		what             string
		me               Self
		svc              model.Service
		slice            model.EndpointSlice
		fronts, backends int
	}{
		{"ours", ours, svc, slice, 1, 2},
		{"answered by the host itself", own, svc, slice, 0, 0},
		{"ours, again", ours, svc, slice, 1, 2},
		{"another proxy's", ours, foreign, slice, 0, 0},
		{"with a slice that is no proxy's", ours, svc, headless, 1, 0},
		{"ours at last", ours, svc, slice, 1, 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			if f, n := count(c.me, c.svc, c.slice); f != c.fronts || n != c.backends {
				t.Errorf("%s: %d frontends, %d backends and redirected ports; expected %d and %d", c.what, f, n, c.fronts, c.backends)
			}
		})
	}
}

// The host redirects what the table needs as long as an endpoint may have connections, terminating ones included.
func TestRedirects_TerminatingEndpoints_StillRedirected(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod, a.far)
		svc.Type, svc.LBAddresses = model.LoadBalancer, []netip.Addr{ip(a.endpoint)}
		svc.ExternalIPs = []netip.Addr{ip(a.node), ip(a.peer), ip(a.outside)} // of nodes: refused
		host, more := service("api", packet.ProtoTCP, a.vip, 443, 6443, a.node, a.peer)
		for i := range parts {
			for j := range parts[i].Endpoints {
				e := &parts[i].Endpoints[j]
				e.Ready, e.Serving, e.Terminating = false, false, true
			}
		}
		got := Build(testSelf(), snap([]model.Service{host, svc}, append(parts, more...))).Redirects()
		want := Redirects{ServiceAddrs: []netip.Addr{ip(a.endpoint)},
			ExternalPorts: []ExternalPort{{Addr: ip(a.outside), Port: Port{Proto: packet.ProtoTCP, Port: 80}}},
			PodPorts:      []Port{{Proto: packet.ProtoTCP, Port: 8080}},
			HostPorts:     []Port{{Proto: packet.ProtoTCP, Port: 6443}}}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
	})
}
