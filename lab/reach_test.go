package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// Every Pod reaches every Pod, every node's Pods reach the other nodes themselves and the nodes reach the Pods; and on
// the wire between the nodes there is nothing but the tunnel.
func TestReach_AllPodsAndNodes_Answer(t *testing.T) {
	for _, family := range []string{IPv4, IPv6, Dual} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			l := start(t, Spec{Nodes: 3, Family: family})
			stop := capture(t, l, "n1", "eth0", "not arp and not port 2379 and not icmp6 and not ip6 multicast and not igmp")
			pods := onePodEach(t, l)
			pods = append(pods, run(t, l, "n1", "second"))
			for _, from := range pods {
				for _, to := range pods {
					mustCall(t, l, from, to)
				}
			}
			for _, to := range pods[:3] {
				for _, a := range to.Addresses {
					sh(t, l, "n1", "curl -sS --max-time 5 http://"+host(a)+"/ >/dev/null")
				}
			}
			podToNode(t, l, pods[0], "n2")
			bigPackets(t, l, pods[0], pods[1])
			for _, line := range strings.Split(stop(), "\n") {
				if line != "" && !strings.Contains(line, ".51820 > ") && !strings.Contains(line, ".51820: ") {
					t.Errorf("on the wire outside the tunnel: %s", line)
				}
			}
		})
	}
}

// podToNode: packets from a Pod to another node's own address are encrypted too, and arrive with the Pod's address.
func podToNode(t *testing.T, l *Lab, p *Pod, node string) {
	t.Helper()
	for i, u := range l.Spec.underlayAddrs(node) {
		k := begin(t, l, on(l, node), l.Exe, "lab", "echo", "--tcp", "", "--udp", "", "--http", netip.AddrPortFrom(u.Addr(), 8099).String())
		testutil.Eventually(t, "Pod to node "+node, func() error {
			out, err := l.PodOutput(p, "curl", "-sS", "--max-time", "5", "http://"+netip.AddrPortFrom(u.Addr(), 8099).String()+"/")
			if err == nil && !strings.Contains(out, "client="+strings.TrimSuffix(netip.AddrPortFrom(p.Addresses[i], 0).String(), "0")) {
				err = fmt.Errorf("answered %q, expected the Pod's own address", out)
			}
			return err
		})
		k.stop(9)
	}
}

// bigPackets: the largest packet passes unfragmented, one byte more is refused to the sender, at once and with the MTU.
func bigPackets(t *testing.T, l *Lab, from, to *Pod) {
	t.Helper()
	// An address of a block that no Pod has is refused at once, on this node and on another one, and no packet loops.
	for _, p := range []*Pod{from, to} {
		for _, a := range p.Addresses {
			out, err := l.PodOutput(from, "ping", "-c1", "-W3", a.Next().Next().Next().Next().String())
			if err == nil || strings.Contains(out, "Time to live exceeded") || strings.Contains(out, "Time exceeded") {
				t.Errorf("an unassigned address: %v\n%s", err, out)
			}
		}
	}
	for _, a := range to.Addresses {
		headers := 28
		if a.Is6() {
			headers = 48
		}
		size := 1420 - headers
		if out, err := l.PodOutput(from, "ping", "-c1", "-W5", "-Mdo", "-s", fmt.Sprint(size), a.String()); err != nil {
			t.Errorf("ping with %d bytes and DF: %v\n%s", size, err, out)
		}
		if out, err := l.PodOutput(from, "ping", "-c1", "-W1", "-Mdo", "-s", fmt.Sprint(size+1), a.String()); err == nil {
			t.Errorf("ping with one byte more than the MTU passed with DF:\n%s", out)
		}
		if out, err := l.PodOutput(from, "ping", "-c3", "-W5", "-Mdont", "-s", "30000", a.String()); err != nil {
			t.Errorf("ping with 30,000 bytes in fragments: %v\n%s", err, out)
		}
	}
}

// Bulk TCP, large UDP datagrams and packets of exactly the MTU pass on every underlay, also if the MTUs of nodes differ.
func TestReach_MTUMatrix_LargePacketsPass(t *testing.T) {
	type underlay struct {
		name   string
		family string
		mtu    int
		n2     int // other MTU on n2, 0: the same
	}
	var cases []underlay
	for _, f := range []string{IPv4, IPv6} {
		for _, m := range []int{1280, 1400, 1500, 9000} {
			cases = append(cases, underlay{fmt.Sprintf("%s %d", f, m), f, m, 0})
		}
		cases = append(cases, underlay{f + " 9000 and 1400", f, 9000, 1400})
	}
	for _, u := range cases {
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			spec := Spec{Nodes: 2, Family: Dual, Underlay: u.family, MTU: u.mtu}
			if u.n2 != 0 {
				spec.Node = map[string]NodeSpec{"n2": {MTU: u.n2}}
			}
			l := start(t, spec)
			pods := onePodEach(t, l)
			for _, d := range [][2]*Pod{{pods[0], pods[1]}, {pods[1], pods[0]}} {
				mustCall(t, l, d[0], d[1])
				for _, a := range d[1].Addresses {
					bulk(t, l, d[0], d[1], a)
				}
			}
		})
	}
}

// bulk transfers two megabytes over TCP to the echo server and back, and sends pings that must be fragmented. The first ones may
// be lost while either end learns a smaller path MTU.
func bulk(t *testing.T, l *Lab, from, to *Pod, a netip.Addr) {
	t.Helper()
	script := fmt.Sprintf(`exec 3<>/dev/tcp/%s/7; read -r hello <&3; head -c 2000000 /dev/zero >&3 & head -c 2000000 <&3 | wc -c`, a)
	out, err := l.PodOutput(from, "timeout", "30", "bash", "-c", script)
	if err != nil || strings.TrimSpace(out) != "2000000" {
		t.Errorf("%s -> %s %s: %q of 2000000 bytes came back: %v", from.Name, to.Name, a, strings.TrimSpace(out), err)
	}
	if out, err := l.PodOutput(from, "ping", "-c8", "-i0.3", "-W5", "-Mdont", "-s", "20000", a.String()); err != nil {
		t.Errorf("%s -> %s %s: 20,000 bytes in fragments: %v\n%s", from.Name, to.Name, a, err, out)
	}
}

// A UDP server on a node that is bound to the wildcard address answers a Pod of another node from the address that the Pod
// called, for every address of the node, also in fragments.
func TestUDPReplySource_WildcardServer_IsTheAddressCalled(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	client := run(t, l, "n2", "client")
	begin(t, l, on(l, "n1"), l.Exe, "lab", "echo", "--http", "", "--tcp", ":8099", "--udp", ":8099")
	sh(t, l, "n1", "ip addr add 192.168.77.111/24 dev eth0")
	called := append(addrsOf(l.Spec.underlayAddrs("n1")), netip.MustParseAddr("192.168.77.111"))
	for _, s := range strings.Fields(sh(t, l, "n1", `ip -o addr show dev warren0 | sed -n 's/.* \(10\.42\.[^/]*\|fd42:[^/]*\).*/\1/p'`)) {
		called = append(called, netip.MustParseAddr(s))
	}
	if len(called) != 5 {
		t.Fatalf("addresses %v, expected two of warren0's among them", called)
	}
	for _, a := range called {
		mustEcho(t, fromPod(l, client), a, 8099, "n1", family(client.Addresses, netip.Addr.Is4, a.Is4())[0])
	}
}
