package table

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

// A Service with many ports and endpoints does not take more memory than its bound, is reported, and serves all ports.
func TestMaglev_ManyPorts_TablesBoundedAndReported(t *testing.T) {
	name := model.ObjectName{Namespace: "d", Name: "many"}
	svc := model.Service{ObjectName: name, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.43.0.5")},
		Annotations: map[string]string{Annotation: "maglev"}}
	slice := model.EndpointSlice{ObjectName: name, Service: name.Name}
	for i := range 700 {
		addr := netip.AddrFrom4([4]byte{10, 42, byte(i >> 8), byte(i)})
		slice.Endpoints = append(slice.Endpoints, model.Endpoint{Addr: addr, Ready: true, Serving: true})
	}
	for i := range uint16(40) {
		p := fmt.Sprintf("p%d", i)
		svc.Ports = append(svc.Ports, model.ServicePort{Name: p, Protocol: model.TCP, Port: 80 + i})
		slice.Ports = append(slice.Ports, model.EndpointPort{Name: p, Protocol: model.TCP, Port: 8080 + i})
	}
	var b Builder
	snap := &model.Snapshot{Services: []model.Service{svc}, Slices: []model.EndpointSlice{slice}}
	x := b.Build(Self{}, snap)
	slots, served := 0, 0
	seen := map[*Pool]bool{}
	for _, f := range x.All {
		served++
		for _, p := range []*Pool{f.Internal, f.External} {
			if f.Algorithm == Maglev && p.Maglev == nil {
				t.Error("a port with the algorithm has no lookup table")
			}
			if !seen[p] {
				seen[p] = true
				slots += len(p.Maglev)
			}
		}
	}
	if served != 40 || slots > maxMaglevSlots || slots < maxMaglevSlots/2 {
		t.Errorf("%d ports served with %d slots, expected 40 with at most %d", served, slots, maxMaglevSlots)
	}
	if p := x.Problems(); len(p) != 1 || !strings.HasPrefix(p[0], "Service d/many: ") {
		t.Errorf("problems %q, expected one of Service d/many", p)
	}
	if p := b.Build(Self{}, &model.Snapshot{}).Problems(); len(p) != 0 {
		t.Errorf("problems %q after the Service was deleted", p)
	}
}

func TestMaglev_OneBackendRemoved_FewSlotsMove(t *testing.T) {
	var all []Backend
	for i := range byte(20) {
		all = append(all, Backend{netip.AddrFrom4([4]byte{10, 42, 2, i}), 80})
	}
	before, after := maglev(all), maglev(all[:19])
	moved := 0
	for i := range before {
		if before[i] != 19 && before[i] != after[i] {
			moved++
		}
	}
	if len(before) != len(after) || moved > len(before)/10 {
		t.Fatalf("%d of %d slots moved", moved, len(before))
	}
}
