package table

import (
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

// Several objects claim one address and port: the first Service by name has it, and a host port only without a Service.
func TestBuild_SameAddressAndPort_FirstByNameServiceBeforeHostPort(t *testing.T) {
	node := netip.MustParseAddr("192.0.2.1")
	service := func(name string) model.Service {
		return model.Service{ObjectName: model.ObjectName{Namespace: "d", Name: name}, ExternalIPs: []netip.Addr{node},
			Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}}}
	}
	pod := model.Pod{ObjectName: model.ObjectName{Namespace: "a", Name: "pod"}, Node: "n1",
		Addrs: []netip.Addr{netip.MustParseAddr("10.42.1.2")}, HostPorts: []model.HostPort{{Protocol: model.TCP, HostPort: 80,
			ContainerPort: 80}}}
	self := Self{Node: "n1", Addrs: []netip.Addr{node}}
	var builder Builder
	for _, c := range []struct {
		name     string
		services []model.Service
		want     string
	}{
		{"host port alone", nil, "a/pod"},
		{"host port and Service", []model.Service{service("web")}, "d/web"},
		{"two Services", []model.Service{service("api"), service("web")}, "d/api"},
		{"the first Service deleted", []model.Service{service("web")}, "d/web"},
		{"both Services deleted", nil, "a/pod"},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := builder.Build(self, &model.Snapshot{Services: c.services, Pods: []model.Pod{pod}})
			f := table.Frontend(Key{Addr: node, Port: 80, Proto: uint8(model.TCP)})
			if f == nil || f.Service.String() != c.want {
				t.Errorf("frontend of %v, expected %s", f, c.want)
			}
		})
	}
}
