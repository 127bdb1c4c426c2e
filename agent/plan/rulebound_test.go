package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
)

// Merged ranges contain every port, are sorted and disjoint per protocol, and are as few as permitted.
func TestCoarsen_RandomPorts_ContainsAllWithinTheBound(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	for range 300 {
		set := map[servicelb.Port]bool{}
		for range r.IntN(400) {
			set[servicelb.Port{Proto: []uint8{6, 17, 132}[r.IntN(3)], Port: uint16(1 + r.IntN(65534))}] = true
		}
		targets, most := targetsOf(set), 3+r.IntN(60)
		exact := portRanges(targets)
		got := coarsen(slices.Clone(exact), most)
		if len(got) > most || len(exact) <= most && !slices.Equal(got, exact) {
			t.Fatalf("%d of %d ranges, expected at most %d", len(got), len(exact), most)
		}
		for _, p := range targets {
			if !slices.ContainsFunc(got, func(x portRange) bool {
				return x.proto == p.Proto && x.ports.Lo <= p.Port && p.Port <= x.ports.Hi
			}) {
				t.Fatalf("%v is in no range", p)
			}
		}
		for i := 1; i < len(got); i++ {
			if got[i].proto < got[i-1].proto || got[i].proto == got[i-1].proto && got[i].ports.Lo <= got[i-1].ports.Hi {
				t.Fatalf("ranges %v and %v", got[i-1], got[i])
			}
		}
	}
}

// Services with endpoints at thousands of ports of the nodes, as one namespace may create them, add a bounded number of rules. All
// ports stay redirected, and the excess is reported.
func TestMake_ThousandsOfEndpointPorts_RulesBoundedAndReported(t *testing.T) {
	in := testInput()
	s := model.Service{ObjectName: model.ObjectName{Namespace: "aaa", Name: "s"}, UID: "s", ClusterIPs: []netip.Addr{ip("10.43.0.9")}}
	node := model.EndpointSlice{ObjectName: model.ObjectName{Namespace: "aaa", Name: "n"}, Service: "s",
		Endpoints: []model.Endpoint{{Addr: ip("192.0.2.1"), Ready: true, Serving: true}}}
	pod := model.EndpointSlice{ObjectName: model.ObjectName{Namespace: "aaa", Name: "p"}, Service: "s",
		Endpoints: []model.Endpoint{{Addr: ip("10.42.0.3"), Ready: true, Serving: true}}}
	for n := range uint16(4000) {
		name := fmt.Sprint(n)
		s.Ports = append(s.Ports, model.ServicePort{Name: name, Protocol: model.TCP, Port: 1 + n})
		port := model.EndpointPort{Name: name, Protocol: model.TCP, Port: 2001 + 2*n}
		node.Ports, pod.Ports = append(node.Ports, port), append(pod.Ports, port)
	}
	in.Snapshot.Services, in.Snapshot.Slices = []model.Service{s}, []model.EndpointSlice{node, pod}
	p := mustMake(t, in)
	if n := len(p.Host.ObjectRules); n > 2*(maxReplyRanges+maxHostReplyRanges+3*maxGroups) {
		t.Errorf("%d rules", n)
	}
	for _, want := range []string{"target ports of Pods", "target ports of the node itself"} {
		if !slices.ContainsFunc(p.Problems, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("problems %q, expected one with %q", p.Problems, want)
		}
	}
	rules := byPref(p.Host.ObjectRules)
	for n := range uint16(4000) {
		port := 2001 + 2*n
		if got, _ := walk(rules, 6, port); !got {
			t.Fatalf("replies of Pods from port %d are not redirected", port)
		}
		if !slices.ContainsFunc(p.Host.ObjectRules, func(r hostnet.Rule) bool {
			return r.Pref == prefHostReplies && r.Sport.Lo <= port && port <= r.Sport.Hi
		}) {
			t.Fatalf("replies of the node from port %d are not redirected", port)
		}
	}
}
