package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
)

// lanPool has addresses of the machines' own network, in both families.
const lanPool = `
apiVersion: warren.dev/v1alpha1
kind: AddressPool
metadata: {name: lan}
spec: {addresses: [192.168.77.200-192.168.77.231, "fd77::200-fd77::21f"]}
`

// lbState is the load balancer state of a node.
func lbState(t *testing.T, l *Lab, node string) (lb api.LB) {
	t.Helper()
	if err := l.call(context.Background(), node, api.LBPath, &lb); err != nil {
		t.Fatal(err)
	}
	return lb
}

// lbAddrs waits for a Service's addresses.
func lbAddrs(t *testing.T, l *Lab, name string, n int) (out []netip.Addr) {
	t.Helper()
	testutil.Eventually(t, "addresses of "+name, func() error {
		var s struct {
			Status struct {
				LoadBalancer struct {
					Ingress []struct{ IP, IPMode string }
				}
			}
		}
		raw := sh(t, l, "n1", l.Exe+" get svc "+name+" -o json")
		if err := json.Unmarshal([]byte(raw), &s); err != nil {
			return err
		}
		out = nil
		for _, in := range s.Status.LoadBalancer.Ingress {
			a, err := netip.ParseAddr(in.IP)
			if err != nil || in.IPMode != "VIP" {
				return fmt.Errorf("status %+v: %v", s.Status, err)
			}
			out = append(out, a)
		}
		if len(out) != n {
			return fmt.Errorf("%v, expected %d", out, n)
		}
		return nil
	})
	return out
}

// owner waits until all of the nodes report the same announcing node of an address.
func owner(t *testing.T, l *Lab, a netip.Addr, nodes ...string) (who string) {
	t.Helper()
	testutil.Eventually(t, "one announcer of "+a.String(), func() error {
		who = ""
		var seen []string
		for i, n := range nodes {
			here := ""
			for _, s := range lbState(t, l, n).Services {
				for _, x := range s.Addresses {
					if x.Address == a {
						here = x.Announcer
					}
				}
			}
			if seen = append(seen, n+": "+here); i == 0 {
				who = here
			}
			if here == "" || here != who {
				return errors.New(strings.Join(seen, ", "))
			}
		}
		return nil
	})
	return who
}

// neighbour is the MAC address in a client's neighbour table for an address.
func neighbour(l *Lab, client string, a netip.Addr) string {
	out, _ := l.Output(client, "ip", "neigh", "show", a.String(), "dev", "eth0")
	if f := strings.Fields(out); len(f) > 2 && f[1] == "lladdr" {
		return f[2]
	}
	return ""
}

// again calls an address with new connections until it answers, and returns how long that took.
func again(t *testing.T, c asker, a netip.Addr) time.Duration {
	t.Helper()
	begin := time.Now()
	testutil.Eventually(t, fmt.Sprintf("%s -> %s again", c.name, a), func() error {
		_, err := c.run(exe, "lab", "get", "--timeout", "200ms", fmt.Sprintf("tcp://%s", netip.AddrPortFrom(a, 7)))
		return err
	})
	return time.Since(begin)
}

// answers counts the machines that answer when a client without a neighbour entry resolves an address on the LAN.
func answers(t *testing.T, l *Lab, client string, a netip.Addr) []string {
	t.Helper()
	filter := "arp"
	if a.Is6() {
		filter = "icmp6 and ip6[40] == 136"
	}
	done := capture(t, l, client, "eth0", filter+" and ether dst "+mac(client).String())
	sh(t, l, client, "ip neigh flush to "+a.String()+" dev eth0")
	_, _ = l.Output(client, exe, "lab", "get", "--timeout", "2s", fmt.Sprintf("tcp://%s", netip.AddrPortFrom(a, 7)))
	time.Sleep(100 * time.Millisecond) // a second answer would arrive as fast as the first
	var out []string
	for _, line := range strings.Split(done(), "\n") {
		if strings.Contains(line, "Reply "+a.String()+" is-at") || strings.Contains(line, "tgt is "+a.String()+",") {
			out = append(out, line)
		}
	}
	return out
}

// patience bounds a takeover. It takes 0.7 s on an idle machine.
const patience = 5 * time.Second

// A Service waits for a pool. Then one node announces its addresses, and a client outside of the cluster connects in both families.
// Another node takes over after the announcing node's agent was killed or its link was cut, also while etcd is unreachable.
// After the link is restored, one node announces.
func TestLoadBalancer_AnnouncerFails_AnotherTakesOver(t *testing.T) {
	t.Parallel()
	// the backend's node must not be the announcing node, which fails
	quiet := map[string]any{"loadBalancer": map[string]any{"announce": false}}
	l := start(t, Spec{Nodes: 3, Family: Dual, Node: map[string]NodeSpec{"n3": {Agent: quiet}}})
	labelled(t, l, "n3", "w", "app=w")
	if out := applyYAML(t, l, web("w", "app: w", "  type: LoadBalancer")); !strings.Contains(out,
		"waits for a load balancer address: there is no AddressPool") {
		t.Errorf("apply printed %s", out)
	}
	if out := sh(t, l, "n1", l.Exe+" lb"); !strings.Contains(out, "there is no AddressPool") {
		t.Errorf("no output states why the Service waits:\n%s", out)
	}
	applyYAML(t, l, lanPool)
	client, announcers := fromMachine(l, "etcd1"), []string{"n1", "n2"}
	addrs := lbAddrs(t, l, "w", 2)
	for _, a := range addrs {
		who := owner(t, l, a, announcers...)
		mustConnect(t, client, a, 7, 7, "w", netip.Addr{})
		if got := neighbour(l, "etcd1", a); got != mac(who).String() {
			t.Errorf("%s: the client learnt %s, but %s (%s) announces it", a, got, who, mac(who))
		}
		if got := answers(t, l, "etcd1", a); len(got) != 1 {
			t.Errorf("%s: %d answers, expected one:\n%s", a, len(got), strings.Join(got, "\n"))
		}
		for _, n := range l.NodeNames() {
			if out := sh(t, l, n, "ip addr"); strings.Contains(out, a.String()) {
				t.Errorf("%s is local on %s", a, n)
			}
		}
	}
	moves := func(how string, kill, mend func(node string)) {
		for _, a := range addrs {
			old := owner(t, l, a, announcers...)
			kill(old)
			took := again(t, client, a)
			t.Logf("%s: %s answers again %d ms after the end of %s", how, a, took.Milliseconds(), old)
			if took > patience {
				t.Errorf("%s: %s was unreachable for %s", how, a, took)
			}
			other := announcers[0]
			if other == old {
				other = announcers[1]
			}
			if got := neighbour(l, "etcd1", a); got != mac(other).String() {
				t.Errorf("%s: the client uses %s for %s, expected %s", how, got, a, other)
			}
			mend(old)
			owner(t, l, a, announcers...)
		}
	}
	killAgent := func(n string) {
		if err := l.StopAgent(n, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	startAgent := func(n string) {
		if err := errors.Join(l.StartAgent(n), l.waitNode(context.Background(), n)); err != nil {
			t.Fatal(err)
		}
	}
	each := func(do func(a, b string) error) func(string) {
		return func(n string) {
			for _, m := range []string{"n1", "n2", "n3", "etcd1"} {
				if m != n {
					if err := do(n, m); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	moves("agent killed", killAgent, startAgent)
	moves("cable cut", each(l.Cut), each(l.Heal))
	if err := l.StopEtcd("etcd1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		mustConnect(t, client, a, 7, 7, "w", netip.Addr{})
	}
	moves("agent killed without etcd", killAgent, startAgent)
	if err := l.StartEtcd("etcd1"); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if got := answers(t, l, "etcd1", a); len(got) != 1 {
			t.Errorf("%s: %d answers at the end, expected one:\n%s", a, len(got), strings.Join(got, "\n"))
		}
	}
}

// externalTrafficPolicy Local: the node of the ready endpoint announces, backends receive the client's own address, and the
// announcement follows the endpoint. An address that another machine of the LAN uses is reported and not announced.
func TestLoadBalancer_TrafficPolicy_SelectsTheAnnouncingNode(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3, Family: Dual})
	client := fromMachine(l, "etcd1")
	outside := addrsOf(l.Spec.underlayAddrs("etcd1"))
	dup := map[string]string{"192.168.77.231": "32", "fd77::21f": "128"}
	for a, bits := range dup {
		sh(t, l, "etcd1", "ip addr add "+a+"/"+bits+" dev eth0 nodad preferred_lft 0") // never the client's own choice
	}
	first := labelled(t, l, "n2", "first", "app=b")
	applyYAML(t, l, lanPool+"---"+web("b", "app: b", "  type: LoadBalancer\n  externalTrafficPolicy: Local\n")+"---"+
		strings.Replace(web("d", "app: b", "  type: LoadBalancer"), "{name: d}",
			`{name: d, annotations: {warren.dev/loadbalancer-ips: "192.168.77.231,fd77::21f"}}`, 1))
	addrs := lbAddrs(t, l, "b", 2)
	at := func(node, pod string) {
		for i, a := range addrs {
			testutil.Eventually(t, a.String()+" on "+node, func() error {
				if who := owner(t, l, a, l.NodeNames()...); who != node {
					return fmt.Errorf("%s announces it", who)
				}
				return nil
			})
			mustConnect(t, client, a, 7, 7, pod, outside[i])
		}
	}
	at("n2", "first")
	b := addrs[1].As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]}).String()
	if out := sh(t, l, "n2", "ip maddr show dev eth0"); !strings.Contains(out, group+"\n") && !strings.Contains(out, group+" ") {
		t.Errorf("n2 is not in %s's group %s:\n%s", addrs[1], group, out)
	}
	// A client with a stale neighbour entry probes the last owner only (RFC 4861 section 7.3, RFC 1122 2.3.2.1).
	sh(t, l, "etcd1", "sysctl -qw net.ipv4.neigh.eth0.delay_first_probe_time=1 net.ipv6.neigh.eth0.delay_first_probe_time=1")
	for _, a := range addrs {
		sh(t, l, "etcd1", fmt.Sprintf("ip neigh change %s dev eth0 nud stale; ping -c1 -W2 %s", a, a))
	}
	for _, a := range addrs {
		testutil.Eventually(t, a.String()+" confirmed", func() error {
			if out := sh(t, l, "etcd1", "ip neigh show "+a.String()+" dev eth0"); !strings.Contains(out, "REACHABLE") {
				return errors.New(out)
			}
			return nil
		})
	}
	labelled(t, l, "n3", "second", "app=b")
	if err := l.RemovePod(first); err != nil {
		t.Fatal(err)
	}
	at("n3", "second")
	for a, bits := range dup {
		testutil.Eventually(t, "the duplicate "+a+" is reported", func() error {
			for _, n := range l.NodeNames() {
				if out := sh(t, l, n, l.Exe+" status"); strings.Contains(out, a+": duplicate address: "+mac("etcd1").String()+
					", which is not a node of the cluster") {
					return nil
				}
			}
			return errors.New(sh(t, l, "n1", l.Exe+" lb"))
		})
		for _, n := range l.NodeNames() {
			for _, s := range lbState(t, l, n).Services {
				for _, x := range s.Addresses {
					if x.Address.String() == a && x.Announcer != "" {
						t.Errorf("%s reports that %s announces %s, which another machine has", n, x.Announcer, a)
					}
				}
			}
		}
		sh(t, l, "etcd1", "ip addr del "+a+"/"+bits+" dev eth0")
	}
	for a := range dup {
		owner(t, l, netip.MustParseAddr(a), l.NodeNames()...)
		mustConnect(t, client, netip.MustParseAddr(a), 7, 7, "second", netip.Addr{})
	}
	if out := sh(t, l, "n1", "curl -s http://127.0.0.1:9551/metrics | grep warren_lb"); !strings.Contains(out,
		"warren_lb_peers_healthy 2") || !strings.Contains(out, `warren_lb_addresses{announced="yes"} 4`) {
		t.Errorf("metrics:\n%s", out)
	}
}
