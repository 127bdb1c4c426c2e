package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
)

// externalService is a Service with external IPs and ports.
func externalService(namespace string, addrs []netip.Addr, ports ...uint16) model.Service {
	s := model.Service{ObjectName: model.ObjectName{Namespace: namespace, Name: "s"}, UID: namespace, ExternalIPs: addrs}
	for _, n := range ports {
		s.Ports = append(s.Ports, model.ServicePort{Name: fmt.Sprint(n), Protocol: model.TCP, Port: n})
	}
	return s
}

func ruleTexts(rules []hostnet.Rule, pref int) (out []string) {
	for _, r := range rules {
		if r.Pref == pref {
			out = append(out, r.String())
		}
	}
	return out
}

// Only the ports that Services have at permitted external IPs are redirected, and never a whole address.
func TestMake_ExternalIPs_OnlyPermittedPortsRedirected(t *testing.T) {
	in := testInput()
	in.Snapshot.ServiceCIDRs = []netip.Prefix{pfx("10.43.0.0/16")}
	in.Snapshot.Services = []model.Service{externalService("aaa", []netip.Addr{ip("198.51.100.7"), ip("203.0.113.9")}, 80, 81, 83)}
	p := mustMake(t, in)
	if got := ruleTexts(p.Host.ObjectRules, prefExternalPorts); len(got) != 0 {
		t.Errorf("without the setting: rules %v", got)
	}
	if len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "Service aaa/s") || !strings.Contains(p.Problems[0], "198.51.100.7") {
		t.Errorf("without the setting: problems %q", p.Problems)
	}
	in.ExternalIPs = []netip.Prefix{pfx("198.51.100.0/24")}
	p = mustMake(t, in)
	if got, want := ruleTexts(p.Host.ObjectRules, prefExternalPorts), []string{
		"42: from all to 198.51.100.7 ipproto tcp dport 80-81 lookup 100", "42: from all to 198.51.100.7 ipproto tcp dport 83 lookup 100",
	}; !slices.Equal(got, want) {
		t.Errorf("rules %q, expected %q", got, want)
	}
	for _, r := range p.Host.ObjectRoutes {
		if r.Dst.Addr() == ip("198.51.100.7") || r.Dst.Addr() == ip("203.0.113.9") {
			t.Errorf("the whole address is redirected: %v", r)
		}
	}
	if len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "203.0.113.9") {
		t.Errorf("problems %q, expected one for 203.0.113.9", p.Problems)
	}
}

// No object has an address that the node or the control plane needs, whatever the operator permits and whichever field names it.
func TestMake_AddressesThatTheNodeNeeds_NeverServed(t *testing.T) {
	in := testInput()
	in.Snapshot.ServiceCIDRs = []netip.Prefix{pfx("10.43.0.0/16")}
	in.ExternalIPs = []netip.Prefix{pfx("0.0.0.0/0")}
	in.DNS = []netip.Addr{ip("10.43.0.10")}
	in.Underlay.Gateways = []netip.Addr{ip("192.0.2.254")}
	in.Control = []Control{{ip("192.0.2.100"), 2379, "address of an etcd server"}, {ip("192.0.2.101"), 6443, "address of an API server"},
		{ip("192.0.2.53"), 0, "address of an upstream DNS server"}}
	in.Snapshot.Nodes[2].Endpoints = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.3:51820")}
	needed := []netip.Addr{ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.3"), ip("203.0.113.3"), ip("192.0.2.100"), ip("192.0.2.101"),
		ip("192.0.2.53"), ip("192.0.2.254"), ip("10.42.0.1"), ip("10.42.0.2"), ip("10.42.1.7"), ip("10.43.0.10"), ip("10.43.0.50")}
	external := externalService("aaa", needed, 80)
	lb := model.Service{ObjectName: model.ObjectName{Namespace: "bbb", Name: "s"}, UID: "b", Type: model.LoadBalancer, LBAddresses: needed,
		Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}}}
	in.Snapshot.Services = []model.Service{external, lb}
	p := mustMake(t, in)
	for _, f := range p.Table.Frontends() {
		t.Errorf("served: %+v", f)
	}
	if n := len(p.Table.Refusals()); n != 2*len(needed) {
		t.Errorf("%d refusals, expected %d: %v", n, 2*len(needed), p.Table.Refusals())
	}
	for _, r := range p.Host.ObjectRoutes {
		if r.Table == tablePods && slices.Contains(needed, r.Dst.Addr()) {
			t.Errorf("redirected: %v", r)
		}
	}
	if got := ruleTexts(p.Host.ObjectRules, prefExternalPorts); len(got) != 0 {
		t.Errorf("rules %v", got)
	}
}

// A Service is served also if the agent itself connects to its ClusterIP, as KUBERNETES_SERVICE_HOST makes it do. No other
// object can have the address.
func TestMake_ServiceThatTheAgentConnectsTo_IsServed(t *testing.T) {
	in := testInput()
	in.Snapshot.ServiceCIDRs = []netip.Prefix{pfx("10.43.0.0/16")}
	in.ExternalIPs = []netip.Prefix{pfx("0.0.0.0/0")}
	in.Control = []Control{{ip("10.43.0.1"), 443, "address of an API server"}, {ip("10.42.0.9"), 0, "address of an upstream DNS server"}}
	api := model.Service{ObjectName: model.ObjectName{Namespace: "default", Name: "kubernetes"}, UID: "k",
		ClusterIPs: []netip.Addr{ip("10.43.0.1")}, Ports: []model.ServicePort{{Protocol: model.TCP, Port: 443}}}
	in.Snapshot.Services = []model.Service{api, externalService("aaa", []netip.Addr{ip("10.43.0.1"), ip("10.42.0.9")}, 80)}
	p := mustMake(t, in)
	if f := p.Table.Frontends(); len(f) != 1 || f[0].Address.String() != "10.43.0.1:443" {
		t.Errorf("served: %+v", f)
	}
	if r := p.Table.Refusals(); len(r) != 2 {
		t.Errorf("refusals: %v", r)
	}
}

// Records of other nodes take neither the gateway nor addresses outside of the configured ranges.
func TestMake_NodeRecordsOutsideOfNodeRanges_Ignored(t *testing.T) {
	in := testInput()
	in.NodeRanges = []netip.Prefix{pfx("192.0.2.0/24")}
	in.Underlay.Gateways = []netip.Addr{ip("192.0.2.254")}
	in.Snapshot.Nodes[1].Addresses = []netip.Addr{ip("192.0.2.2"), ip("192.0.2.254"), ip("8.8.8.8")}
	p := mustMake(t, in)
	if got := p.Peers[0].AllowedIPs; slices.Contains(got, pfx("192.0.2.254/32")) || slices.Contains(got, pfx("8.8.8.8/32")) ||
		!slices.Contains(got, pfx("192.0.2.2/32")) {
		t.Errorf("allowed IPs of n2: %v", got)
	}
	if len(p.Problems) != 2 {
		t.Errorf("problems %q", p.Problems)
	}
}

func TestMake_ManyExternalPorts_RulesBoundedAndReported(t *testing.T) {
	in := testInput()
	in.ExternalIPs = []netip.Prefix{pfx("198.51.100.0/24")}
	var ports []uint16
	for n := range uint16(maxExternalRules + 50) {
		ports = append(ports, 1000+2*n)
	}
	in.Snapshot.Services = []model.Service{externalService("aaa", []netip.Addr{ip("198.51.100.7")}, ports...)}
	p := mustMake(t, in)
	if n := len(ruleTexts(p.Host.ObjectRules, prefExternalPorts)); n != maxExternalRules {
		t.Errorf("%d rules, expected %d", n, maxExternalRules)
	}
	if len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "external IPs") {
		t.Errorf("problems %q", p.Problems)
	}
}

func TestMake_ManyHostPorts_RulesBoundedAndReported(t *testing.T) {
	in := testInput()
	in.Pods = []Pod{{Link: "wrn1", Addrs: []netip.Addr{ip("10.42.0.3")}}}
	for n := range uint16(maxHostPorts + 2) {
		in.Pods[0].HostPorts = append(in.Pods[0].HostPorts,
			model.HostPort{Protocol: model.TCP, HostPort: 3000 + 2*n, ContainerPort: 1})
	}
	in.Pods = append(in.Pods, Pod{Link: "wrn2", HostPorts: []model.HostPort{{Protocol: model.UDP, HostPort: 31000, ContainerPort: 1}}})
	p := mustMake(t, in)
	if n := len(ruleTexts(p.Host.ObjectRules, prefPorts)); n != 2*maxHostPorts {
		t.Errorf("%d rules, expected %d", n, 2*maxHostPorts)
	}
	if len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "2 of its host ports") {
		t.Errorf("problems %q, expected one for two ports", p.Problems)
	}
}

// A Pod that was attached with a port of warren, or with an address of another Pod, gets neither rule nor socket nor frontend.
func TestMake_HostPortsOfOthers_NotRedirected(t *testing.T) {
	in := testInput()
	ports := []model.HostPort{{Protocol: model.UDP, HostPort: 51820, ContainerPort: 1},
		{Protocol: model.UDP, HostPort: 9552, ContainerPort: 1},
		{Protocol: model.TCP, HostPort: 2379, ContainerPort: 1},
		{Protocol: model.TCP, HostPort: 80, ContainerPort: 1, HostIP: ip("10.42.1.7")}}
	in.Pods = []Pod{{Link: "wrn1", Addrs: []netip.Addr{ip("10.42.0.3")}, HostPorts: ports}}
	in.Snapshot.Pods = []model.Pod{{ObjectName: model.ObjectName{Namespace: "aaa", Name: "p"}, Node: "n1", Addrs: in.Pods[0].Addrs,
		HostPorts: ports}}
	p := mustMake(t, in)
	for _, r := range p.Host.ObjectRules {
		t.Errorf("rule %v", r)
	}
	for at := range p.UDPSinks {
		t.Errorf("socket at %v", at)
	}
	if p.Table.Len() != 0 || len(p.Table.Refusals()) != len(ports) || len(p.Problems) != 1 {
		t.Errorf("%d frontends, refusals %v, problems %q", p.Table.Len(), p.Table.Refusals(), p.Problems)
	}
}
