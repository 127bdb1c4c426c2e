package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

func TestMake_EndpointIsNodePort_IsReported(t *testing.T) {
	in := testInput()
	name := model.ObjectName{Namespace: "a", Name: "loop"}
	in.Snapshot.Services = []model.Service{{ObjectName: name, Type: model.NodePort,
		Ports: []model.ServicePort{{Protocol: model.UDP, Port: 80, NodePort: 30001}}}}
	in.Snapshot.Slices = []model.EndpointSlice{{ObjectName: name, Service: name.Name,
		Ports:     []model.EndpointPort{{Protocol: model.UDP, Port: 30001}},
		Endpoints: []model.Endpoint{{Addr: ip("192.0.2.2"), Ready: true}, {Addr: ip("192.0.2.3"), Ready: true}}}}
	p := mustMake(t, in)
	want := "Service a/loop: the endpoint 192.0.2.2:30001 (and 1 more) is not used, because it is a node port of a Service"
	if !slices.ContainsFunc(p.Problems, func(s string) bool { return strings.HasPrefix(s, want) }) {
		t.Errorf("problems %q, expected %q", p.Problems, want)
	}
	if n := len(p.Table.Self().PeerSNAT); n != 4 {
		t.Errorf("%d SNAT addresses of peers, expected one of each family of two nodes", n)
	}
}
