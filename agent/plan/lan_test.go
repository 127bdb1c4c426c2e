package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// lanInput is testInput on a host with links: eth0 has the node's address, docker0 is of other software.
func lanInput() Input {
	in := testInput()
	in.Underlay.Outside, in.Underlay.AddressLinks = []string{"eth0", "docker0"}, []string{"eth0"}
	in.Snapshot.ServiceCIDRs = []netip.Prefix{pfx("10.43.0.0/16"), pfx("fd43::/112")}
	return in
}

// passes walks the rules as the kernel does and reports whether a packet passes those for other links.
func (p *Plan) passes(iif string, proto uint8, src, dst netip.Addr) bool {
	f, skipTo := model.FamilyOf(src), 0
	rules := slices.Concat(p.Host.Rules, p.Host.ObjectRules)
	slices.SortStableFunc(rules, func(a, b hostnet.Rule) int { return a.Pref - b.Pref })
	for _, r := range rules {
		switch {
		case r.Family != f || r.Pref < skipTo || r.IIF != "" && r.IIF != iif || r.Proto != 0 && r.Proto != proto:
		case r.From.IsValid() && !r.From.Contains(src) || r.To.IsValid() && !r.To.Contains(dst):
		case r.Type == hostnet.Blackhole:
			return false
		case r.Goto != 0: // without a target the kernel skips it
			if slices.ContainsFunc(rules, func(x hostnet.Rule) bool { return x.Family == f && x.Pref == r.Goto }) {
				skipTo = r.Goto
			}
		case r.Pref > prefLANDestination:
			return true
		}
	}
	return true
}

func TestLANRules_PacketsByInterface_OnlyPodsAndTUNHaveClusterAddresses(t *testing.T) {
	in := lanInput()
	in.NonMasquerade, in.ServiceClients = []netip.Prefix{pfx("203.0.113.0/24")}, []netip.Prefix{pfx("198.51.100.0/24"), pfx("0.0.0.0/1")}
	closed, open := mustMake(t, lanInput()), mustMake(t, in)
	const pod, farPod, svc, lan, node, vip = "10.42.0.3", "10.42.1.3", "10.43.0.1", "192.0.2.99", "192.0.2.1", "192.0.2.200"
	for _, c := range []struct {
		iif, src, dst string
		closed, open  bool
	}{
		{"eth0", lan, node, true, true},
		{"eth0", lan, vip, true, true},
		{"eth0", lan, pod, false, false},
		{"eth0", lan, svc, false, false},
		{"docker0", "172.17.0.2", svc, false, false},
		{"docker0", "172.17.0.2", "8.8.8.8", true, true},
		{"eth0", pod, farPod, false, false},
		{"eth0", farPod, pod, false, false},
		{"eth0", farPod, node, false, false},
		{"eth0", "10.42.1.1", node, false, false},
		{"eth0", svc, node, false, false},
		{"eth0", "203.0.113.9", pod, false, true},
		{"eth0", "203.0.113.9", svc, false, false},
		{"eth0", "198.51.100.9", svc, false, true},
		{"eth0", "198.51.100.9", pod, false, false},
		{"eth0", "9.9.9.9", svc, false, true},
		{"eth0", farPod, svc, false, false}, // 0.0.0.0/1 contains it, but it is forged
		{"wrn1", pod, farPod, true, true},
		{"wrn1", pod, svc, true, true},
		{"warren0", farPod, pod, true, true},
		{"lo", "10.42.0.1", farPod, true, true},
		{"eth0", "2001:db8::9", "fd42::3", false, false},
		{"eth0", "fd42:0:0:1::3", "2001:db8::1", false, false},
		{"eth0", "2001:db8::9", "fd43::1", false, false},
		{"wrn1", "fd42::3", "fd43::1", true, true},
		{"eth0", "fe80::9", "2001:db8::1", true, true},
	} {
		t.Run(fmt.Sprintf("%s on %s to %s", c.src, c.iif, c.dst), func(t *testing.T) {
			if got := closed.passes(c.iif, packet.ProtoTCP, ip(c.src), ip(c.dst)); got != c.closed {
				t.Errorf("closed: %s on %s to %s passes: %v", c.src, c.iif, c.dst, got)
			}
			if got := open.passes(c.iif, packet.ProtoTCP, ip(c.src), ip(c.dst)); got != c.open {
				t.Errorf("open: %s on %s to %s passes: %v", c.src, c.iif, c.dst, got)
			}
		})
	}
}

// Non-masquerade destinations see Pods' own addresses and reply to them; ICMP errors come from routers on the path.
func TestLANRules_NonMasquerade_RepliesPass(t *testing.T) {
	in := lanInput()
	in.NonMasquerade = []netip.Prefix{pfx("198.51.100.0/24")}
	p := mustMake(t, in)
	if !p.passes("eth0", packet.ProtoUDP, ip("198.51.100.7"), ip("10.42.0.3")) ||
		!p.passes("eth0", packet.ProtoICMP, ip("192.0.2.254"), ip("10.42.0.3")) {
		t.Error("a reply or an ICMP error to a Pod is dropped")
	}
	if p.passes("eth0", packet.ProtoUDP, ip("192.0.2.99"), ip("10.42.0.3")) || p.passes("eth0", packet.ProtoUDP, ip("198.51.100.7"),
		ip("10.43.0.1")) {
		t.Error("other packets pass")
	}
}

// A migration from another CNI plugin continues: what it routes to and from its Pods passes. What it cannot have sent does not.
func TestLANRules_OtherCNI_MigrationContinues(t *testing.T) {
	in := lanInput()
	in.Underlay.Outside = append(in.Underlay.Outside, "cni0", "flannel.1", "mybridge")
	in.Underlay.UnmanagedPods = []netip.Prefix{pfx("10.42.0.0/24")}
	in.Underlay.UnmanagedPodLinks = []string{"mybridge"}
	for _, v := range []hostnet.Via{{To: pfx("10.42.9.0/24"), Gateway: ip("192.0.2.9"), Link: "eth0"},
		{To: pfx("10.42.1.0/24"), Gateway: ip("192.0.2.2"), Link: "eth0"}} {
		in.Underlay.UnmanagedVia, in.Underlay.UnmanagedRemote = append(in.Underlay.UnmanagedVia, v),
			append(in.Underlay.UnmanagedRemote, v.To)
	}
	p := mustMake(t, in)
	for _, c := range []struct {
		iif, src, dst string
		pass          bool
	}{
		{"cni0", "10.42.0.77", "10.42.9.4", true},
		{"mybridge", "10.42.0.77", "10.43.0.1", true},
		{"flannel.1", "10.42.9.4", "10.42.0.77", true},
		{"eth0", "10.42.9.4", "10.42.0.77", true},  // of a node that the plugin routes to without a tunnel
		{"eth0", "192.0.2.9", "10.42.0.77", true},  // masqueraded by that node
		{"eth0", "8.8.8.8", "10.42.0.77", true},    // a reply that the plugin's masquerading has translated
		{"eth0", "10.42.1.4", "10.42.0.77", false}, // of a node that warren has a tunnel to
		{"eth0", "10.42.0.3", "10.42.1.4", false},
		{"eth0", "192.0.2.99", "10.43.0.1", false},
	} {
		t.Run(fmt.Sprintf("%s on %s to %s", c.src, c.iif, c.dst), func(t *testing.T) {
			if got := p.passes(c.iif, packet.ProtoTCP, ip(c.src), ip(c.dst)); got != c.pass {
				t.Errorf("%s on %s to %s passes: %v", c.src, c.iif, c.dst, got)
			}
		})
	}
	all := strings.Join(p.Problems, "\n")
	for _, want := range []string{"another CNI plugin has the links cni0, flannel.1, mybridge",
		"packets from other machines to Pod addresses are not refused"} {
		if !strings.Contains(all, want) {
			t.Errorf("problems lack %q:\n%s", want, all)
		}
	}
}

// A kube-proxy translates packets to node ports before they are routed, so that packets from the LAN to Pods are its own.
func TestLANRules_KubeProxy_TranslatedPacketsPass(t *testing.T) {
	in := lanInput()
	in.KubeProxy = true
	p := mustMake(t, in)
	if !p.passes("eth0", packet.ProtoTCP, ip("192.0.2.99"), ip("10.42.0.3")) {
		t.Error("a packet to a node port of the kube-proxy is dropped")
	}
	if p.passes("eth0", packet.ProtoTCP, ip("10.42.1.3"), ip("10.42.0.3")) {
		t.Error("a forged source passes")
	}
}

// A route from the network inside the Pod range is reported, and does not take packets away from the tunnel.
func TestMake_RouteFromTheNetwork_IsReportedWithoutThrow(t *testing.T) {
	in := lanInput()
	in.Underlay.IgnoredRoutes = []string{"10.42.200.0/24 dev eth0 proto ra"}
	p := mustMake(t, in)
	if !slices.ContainsFunc(p.Problems, func(s string) bool { return strings.Contains(s, "10.42.200.0/24 dev eth0 proto ra") }) {
		t.Errorf("problems %q", p.Problems)
	}
	for _, r := range slices.Concat(p.Host.Routes, p.Host.ObjectRoutes) {
		if r.Type == hostnet.Throw {
			t.Errorf("route %s", r)
		}
	}
}
