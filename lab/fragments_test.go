package lab

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// echoed sends datagrams of a size to an echo server from a connected socket, which takes answers from the address it
// called only and hears of every refusal. It prints the greeting of the last answer.
const echoed = `
import socket, sys
host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.connect((host, port))
for i in range(3):
    data = bytes([97 + i]) * size
    s.send(data)
    hello, rest = s.recv(65535).split(b"\n", 1)
    if rest != data:
        sys.exit("%d bytes came back changed" % len(rest))
s.setblocking(False)
try:
    s.recv(65535)
    sys.exit("an answer came twice")
except BlockingIOError:
    pass
print(hello.decode())
`

// datagramSizes are those of whole datagrams and of such that are sent in 3 and in 15 fragments.
var datagramSizes = []int{100, 4000, 20000}

// mustEcho calls an echo server with datagrams that fit into a packet and larger ones.
func mustEcho(t *testing.T, c asker, a netip.Addr, port int, backend string, seen netip.Addr) {
	t.Helper()
	for _, size := range datagramSizes {
		what := fmt.Sprintf("%s -> %s with %d bytes", c.name, netip.AddrPortFrom(a, uint16(port)), size)
		eventually(t, what, func() error {
			out, err := c.run("timeout", "10", "python3", "-c", echoed, a.String(), strconv.Itoa(port), strconv.Itoa(size))
			if err != nil && size > datagramSizes[0] && strings.Contains(err.Error(), "ConnectionRefused") {
				t.Errorf("%s: refused", what)
			}
			if err != nil {
				return err
			}
			if !strings.HasPrefix(out, "host="+backend+" ") {
				return fmt.Errorf("answered by %q, expected %s", out, backend)
			}
			if want := "client=" + strings.TrimSuffix(netip.AddrPortFrom(seen, 0).String(), "0"); seen.IsValid() && !strings.Contains(out, want) {
				return fmt.Errorf("the backend saw %q, expected %s", out, want)
			}
			return nil
		})
	}
}

// Datagrams that are sent in fragments, both ways, reach every kind of backend from every kind of client, and nobody is
// told that a port is unreachable; also where the kernel tracks connections, and so puts fragments together before it routes.
func TestFragments(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual, Node: map[string]NodeSpec{"n2": {MTU: 1400}}})
	here, there := labelled(t, l, "n1", "here", "app=here"), labelled(t, l, "n2", "there", "app=there")
	client := labelled(t, l, "n1", "client", "app=client")
	if _, err := l.RunPod(t.Context(), PodSpec{Node: "n1", Name: "host", Ports: []PortMapping{{8081, 7, "udp", ""}}}); err != nil {
		t.Fatal(err)
	}
	begin(t, l, on(l, "etcd1"), l.Exe, "lab", "echo", "--http", "")
	begin(t, l, on(l, "n1"), l.Exe, "lab", "echo", "--http", "", "--tcp", ":8099", "--udp", ":8099")
	pod, outside, node := fromPod(l, client), fromMachine(l, "etcd1"), fromMachine(l, "n1")
	applyYAML(t, l, web("here", "app: here", "  type: NodePort")+"---"+web("there", "app: there", "  type: NodePort"))
	for _, v4 := range []bool{true, false} {
		one := func(list []netip.Addr) netip.Addr { return family(list, netip.Addr.Is4, v4)[0] }
		at, world, name := one(node.at), one(outside.at), map[bool]string{true: "v4 ", false: "v6 "}[v4]
		entries := func(what string) {
			for _, b := range []*Pod{here, there} {
				s := getSvc(t, l, b.Name)
				seen := netip.Addr{}
				if b == here {
					seen = world
				}
				t.Run(name+what+" outside to node port, "+b.Name, func(t *testing.T) {
					mustEcho(t, outside, at, s.Spec.Ports[2].NodePort, b.Name, seen)
				})
				t.Run(name+what+" Pod to node port, "+b.Name, func(t *testing.T) {
					mustEcho(t, pod, at, s.Spec.Ports[2].NodePort, b.Name, netip.Addr{})
				})
				t.Run(name+what+" node to node port, "+b.Name, func(t *testing.T) {
					mustEcho(t, node, at, s.Spec.Ports[2].NodePort, b.Name, netip.Addr{})
				})
				t.Run(name+what+" Pod to cluster address, "+b.Name, func(t *testing.T) {
					mustEcho(t, pod, one(s.ips(t)), 7, b.Name, one(client.Addresses))
				})
				t.Run(name+what+" node to cluster address, "+b.Name, func(t *testing.T) {
					mustEcho(t, node, one(s.ips(t)), 7, b.Name, netip.Addr{})
				})
			}
			t.Run(name+what+" outside to host port", func(t *testing.T) { mustEcho(t, outside, at, 8081, "host", world) })
			t.Run(name+what+" Pod to the world", func(t *testing.T) {
				refusals := capture(t, l, "etcd1", "eth0", "icmp[0:2]==0x0303 or (icmp6 and ip6[40:2]==0x0104)")
				mustEcho(t, pod, world, 7, "etcd1", at)
				if text := refusals(); text != "" {
					t.Errorf("the node refused what it passed on to the Pod:\n%s", text)
				}
				if out, err := l.PodOutput(client, "ping", "-c2", "-i0.2", "-W5", "-s", "20000", world.String()); err != nil {
					t.Errorf("large ping: %v\n%s", err, out)
				}
			})
		}
		entries("")
		t.Run(name+"Pod to Pod past the Service", func(t *testing.T) {
			mustEcho(t, pod, one(here.Addresses), 7, "here", one(client.Addresses))
		})
		t.Run(name+"Pod to itself", func(t *testing.T) {
			mustEcho(t, fromPod(l, here), one(getSvc(t, l, "here").ips(t)), 7, "here", netip.Addr{})
		})
		t.Run(name+"Pod to a backend that is the node", func(t *testing.T) {
			self := "self" + strings.TrimSpace(name)
			applyYAML(t, l, byHand(self, at, 8099))
			mustEcho(t, pod, getSvc(t, l, self).ips(t)[0], 7, "n1", one(client.Addresses))
		})
		track(t, l, "n1", true)
		entries("tracked")
		track(t, l, "n1", false)
	}
}

// track lets a machine's kernel track connections, or not any more.
func track(t *testing.T, l *Lab, machine string, on bool) {
	t.Helper()
	if !on {
		sh(t, l, machine, "nft delete table inet track")
		return
	}
	sh(t, l, machine, `nft 'add table inet track; add chain inet track c { type filter hook prerouting priority 0; }; add rule inet track c ct state new counter'`)
}

// byHand is handMade for an endpoint of either family.
func byHand(name string, a netip.Addr, port int) string {
	yaml := handMade(name, strconv.Quote(a.String()), port, "  ipFamilyPolicy: SingleStack")
	if a.Is6() {
		yaml = strings.Replace(yaml, "addressType: IPv4", "addressType: IPv6", 1)
		yaml = strings.Replace(yaml, "ipFamilyPolicy: SingleStack", "ipFamilies: [IPv6]", 1)
	}
	return yaml
}
