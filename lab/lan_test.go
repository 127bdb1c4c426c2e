package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// forge sends datagrams from a machine of the LAN through a node, with a source address that is not the machine's.
func forge(t *testing.T, l *Lab, machine, through string, src, dst netip.Addr) {
	t.Helper()
	via := l.Spec.underlayAddrs(through)[0].Addr()
	sh(t, l, machine, fmt.Sprintf("ip addr add %s/32 dev lo; ip route replace %s/32 via %s src %s", src, dst, via, src))
	defer sh(t, l, machine, fmt.Sprintf("ip route del %s/32; ip addr del %s/32 dev lo", dst, src))
	for range 3 {
		_, _ = l.Output(machine, l.Exe, "lab", "get", "--timeout", "100ms", fmt.Sprintf("udp://%s:7", dst))
	}
}

// arrivals records the datagrams that a Pod receives from an address, and returns how to end it.
func arrivals(t *testing.T, l *Lab, p *Pod, filter string) func() string {
	t.Helper()
	k := begin(t, l, in(l, p), "tcpdump", "-nnl", "-i", "any", "--immediate-mode", filter)
	testutil.Eventually(t, "tcpdump", func() error {
		if !strings.Contains(k.text(), "listening on") {
			return errors.New(k.text())
		}
		return nil
	})
	return func() string {
		time.Sleep(300 * time.Millisecond)
		var lines []string
		for _, s := range strings.Split(k.stop(2), "\n") {
			if strings.Contains(s, " > ") {
				lines = append(lines, s)
			}
		}
		return strings.Join(lines, "\n")
	}
}

// A machine on the LAN cannot send as a Pod, neither to a Pod of the node in clear nor through the node's tunnel, and it reaches
// neither Pods nor ClusterIPs, until a setting opens ClusterIPs to it. Node ports work.
func TestLAN_ForgedAndDirectPackets_Refused(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	victim, other := labelled(t, l, "n1", "victim", "app=web"), run(t, l, "n2", "other")
	applyYAML(t, l, web("web", "app: web", "  type: NodePort"))
	s := getSvc(t, l, "web")
	vip, n1 := s.ips(t)[0], l.Spec.underlayAddrs("n1")[0].Addr()
	v, o := victim.Addresses[0], other.Addresses[0]
	client := fromMachine(l, "etcd1")
	lan := addrsOf(l.Spec.underlayAddrs("etcd1"))[0]
	mustConnect(t, fromPod(l, other), vip, 7, 7, "victim", o)
	for name, c := range map[string]struct {
		src, dst netip.Addr
		at       *Pod
	}{
		"as a Pod of another node, to a Pod of the node":         {o, v, victim},
		"as a Pod of the node, through its tunnel":               {v, o, other},
		"as a Pod-net address of another node, to a Pod":         {netip.MustParseAddr("10.42.1.1"), v, victim},
		"with its own address, to a Pod":                         {lan, v, victim},
		"as a Pod that does not exist, to a Pod of another node": {v.Next().Next().Next(), o, other},
		"with an address of the Service range, to a Pod":         {netip.MustParseAddr("10.43.7.7"), v, victim},
	} {
		done := arrivals(t, l, c.at, "udp and dst port 7")
		if c.src == lan {
			sh(t, l, "etcd1", fmt.Sprintf("ip route replace %s/32 via %s", c.dst, n1))
			_, _ = l.Output("etcd1", l.Exe, "lab", "get", "--timeout", "100ms", fmt.Sprintf("udp://%s:7", c.dst))
			sh(t, l, "etcd1", fmt.Sprintf("ip route del %s/32", c.dst))
		} else {
			forge(t, l, "etcd1", "n1", c.src, c.dst)
		}
		if text := done(); text != "" {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	sh(t, l, "etcd1", fmt.Sprintf("ip route add %s/32 via %s", vip, n1))
	if out, _, err := client.connect(vip, 7, 7); err == nil {
		t.Errorf("a ClusterIP answers the LAN: %s", out)
	}
	mustConnect(t, client, n1, s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort, "victim", lan)
	sh(t, l, "n1", fmt.Sprintf("printf 'lan: {serviceClients: [%s/32]}\\n' >>/etc/warren/config.yaml", lan))
	if err := l.Restart(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	mustConnect(t, client, vip, 7, 7, "victim", lan)
}

// A link that appears later is covered, and a route from the network inside the Pod range opens no path in clear.
func TestLAN_NewLinkAndLearnedRoute_AreCovered(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	p := run(t, l, "n1", "p")
	sh(t, l, "n1", "ip link add lan1 type veth peer name lan2; ip link set lan1 up; ip link set lan2 up")
	testutil.Eventually(t, "rules for the new links", func() error {
		out := sh(t, l, "n1", "ip rule; ip -6 rule")
		if !strings.Contains(out, "iif lan1 goto 35") || !strings.Contains(out, "iif lan2 goto 35") {
			return errors.New(out)
		}
		return nil
	})
	wire := capture(t, l, "n1", "eth0", "net 10.42.0.0/16 or arp host 10.42.200.5")
	sh(t, l, "n1", "ip route add 10.42.200.0/24 dev eth0 proto ra")
	testutil.Eventually(t, "the route is reported", func() error {
		st, err := l.Status(context.Background(), "n1")
		if err == nil && !strings.Contains(strings.Join(st.Problems, "\n"), "10.42.200.0/24 dev eth0 proto ra") {
			err = errors.New(strings.Join(st.Problems, "\n"))
		}
		return err
	})
	_, _ = l.PodOutput(p, "ping", "-c2", "-W1", "10.42.200.5")
	if out := sh(t, l, "n1", "ip route show table 101"); strings.Contains(out, "throw") {
		t.Errorf("table 101:\n%s", out)
	}
	if text := wire(); text != "" {
		t.Errorf("in clear on the wire:\n%s", text)
	}
}
