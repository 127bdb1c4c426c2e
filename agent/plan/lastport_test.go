package plan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
)

// refused reports why the kernel refuses a rule by its form (fib_rule_port_range_valid).
func refused(r hostnet.Rule) string {
	for _, p := range []hostnet.Ports{r.Sport, r.Dport} {
		if p != (hostnet.Ports{}) && (p.Lo == 0 || p.Hi == 65535 || p.Lo > p.Hi) {
			return "port range " + p.String()
		}
	}
	return ""
}

// The kernel refuses a rule with port 65535. Replies from that port are redirected by the rules for fragments.
func TestReplyRules_Port65535_IsRedirectedWithoutNamingIt(t *testing.T) {
	from, blocks := pfx("10.42.0.0/16"), []netip.Prefix{pfx("10.42.3.0/24")}
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
		for name, ports := range map[string][]uint16{"one port": {65535}, "adjacent ports": {65534, 65535}, "two ports": {80, 65535}} {
			t.Run(hostnet.Rule{Proto: proto}.String()+" "+name, func(t *testing.T) {
				var targets []servicelb.Port
				for _, n := range ports {
					targets = append(targets, servicelb.Port{Proto: proto, Port: n})
				}
				rules := append(replyRules(from, targets), fragmentRules(from, blocks, targets)...)
				for _, r := range rules {
					if why := refused(r); why != "" {
						t.Errorf("%s: %s", r, why)
					}
					if r.Goto != 0 && r.Goto != prefICMP && !slices.ContainsFunc(rules,
						func(x hostnet.Rule) bool { return x.Pref == r.Goto }) {
						t.Errorf("%s: no rule at its target", r)
					}
				}
				for _, n := range []uint16{1, 80, 65533, 65534, 65535} {
					if got, _ := walk(byPref(rules), proto, n); got != slices.Contains(ports, n) {
						t.Errorf("packets from port %d: redirected %v\n%v", n, got, rules)
					}
				}
			})
		}
	}
}

func TestMake_HostPort65535_IsRedirectedOrReported(t *testing.T) {
	in := testInput()
	in.Snapshot.Pods = []model.Pod{{ObjectName: model.ObjectName{Namespace: "a", Name: "x"}, Addrs: []netip.Addr{ip("10.42.0.3")}}}
	in.Pods = []Pod{{Link: "wrn1", Addrs: []netip.Addr{ip("10.42.0.3")},
		HostPorts: []model.HostPort{{Protocol: model.TCP, HostPort: 65535}, {Protocol: model.UDP, HostPort: 65535}}}}
	p := mustMake(t, in)
	var got []string
	for _, r := range slices.Concat(p.Host.Rules, p.Host.ObjectRules) {
		if why := refused(r); why != "" {
			t.Errorf("%s: %s", r, why)
		}
		if r.Pref == prefOtherPorts || r.Pref == prefLastPort {
			got = append(got, r.String())
		}
	}
	want := []string{"61: from all ipproto tcp dport 1-65534 goto 70", "62: from all ipproto tcp lookup 102",
		"-6 61: from all ipproto tcp dport 1-65534 goto 70", "-6 62: from all ipproto tcp lookup 102"}
	if !slices.Equal(got, want) {
		t.Errorf("rules %q, expected %q", got, want)
	}
	if len(p.Problems) != 1 || !strings.HasPrefix(p.Problems[0], "Pod a/x: hostPort 65535/UDP") {
		t.Errorf("problems %q", p.Problems)
	}
}

// A backend on the node itself at port 65535 is not used by this node. The other backend of the Service is.
func TestMake_BackendOnNodeAtPort65535_IsExcludedAndReported(t *testing.T) {
	in := testInput()
	n := model.ObjectName{Namespace: "aaa", Name: "top"}
	in.Snapshot.Services = []model.Service{{ObjectName: n, ClusterIPs: []netip.Addr{ip("10.43.0.9")},
		Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}}}}
	in.Snapshot.Slices = []model.EndpointSlice{{ObjectName: n, Service: n.Name,
		Ports: []model.EndpointPort{{Protocol: model.TCP, Port: 65535}},
		Endpoints: []model.Endpoint{{Addr: ip("192.0.2.1"), Ready: true, Serving: true}, {Addr: ip("192.0.2.2"),
			Ready: true, Serving: true}}}}
	p := mustMake(t, in)
	for _, r := range slices.Concat(p.Host.Rules, p.Host.ObjectRules) {
		if why := refused(r); why != "" {
			t.Errorf("%s: %s", r, why)
		}
	}
	if got := p.Table.Redirects().HostPorts; len(got) != 0 {
		t.Errorf("the table has backends on the node at %v", got)
	}
	if len(p.Problems) != 1 || !strings.HasPrefix(p.Problems[0], "Service aaa/top: this node does not use the endpoint 192.0.2.1:65535") {
		t.Errorf("problems %q", p.Problems)
	}
}
