package lab

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// echoed sends datagrams of a size to an echo server from a connected socket, which accepts answers only from that address and
// receives every ICMP error. It prints the greeting of the last answer.
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

// datagramSizes are the sizes of datagrams that are sent whole, in 3 fragments and in 15 fragments.
var datagramSizes = []int{100, 4000, 20000}

// mustEcho calls an echo server with datagrams that fit into a packet and larger ones.
func mustEcho(t *testing.T, c asker, a netip.Addr, port int, backend string, seen netip.Addr) {
	t.Helper()
	for _, size := range datagramSizes {
		what := fmt.Sprintf("%s -> %s with %d bytes", c.name, netip.AddrPortFrom(a, uint16(port)), size)
		testutil.Eventually(t, what, func() error {
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
			if want := "client=" + strings.TrimSuffix(netip.AddrPortFrom(seen, 0).String(), "0"); seen.IsValid() &&
				!strings.Contains(out, want) {
				return fmt.Errorf("the backend saw %q, expected %s", out, want)
			}
			return nil
		})
	}
}

// Fragmented datagrams reach every kind of backend from every kind of client in both directions, and no client receives ICMP
// port unreachable. This includes nodes whose kernel tracks connections, and so reassembles fragments before it routes.
func TestFragments_UDPThroughServices_Pass(t *testing.T) {
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
			t.Run(name+what+" Pod to an external network", func(t *testing.T) {
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

// A non-masquerade destination sends fragments to a node port and receives the answer in fragments from that port.
func TestFragments_NonMasqueradeDestination_Pass(t *testing.T) {
	t.Parallel()
	var all []string
	spec := Spec{Nodes: 1, Family: Dual, Underlay: Dual}
	for _, a := range spec.underlayAddrs("etcd1") {
		all = append(all, a.Masked().String())
	}
	spec.Agent = map[string]any{"nonMasquerade": all}
	l := start(t, spec)
	labelled(t, l, "n1", "p", "app=p")
	applyYAML(t, l, web("p", "app: p", "  type: NodePort"))
	s, outside := getSvc(t, l, "p"), fromMachine(l, "etcd1")
	for _, at := range addrsOf(l.Spec.underlayAddrs("n1")) {
		mustEcho(t, outside, at, s.Spec.Ports[2].NodePort, "p", family(outside.at, netip.Addr.Is4, at.Is4())[0])
	}
}

// sctp exchanges SCTP packets over raw sockets, for kernels without that protocol: a server that returns each packet with a valid
// checksum, or a client that prints how many bytes were returned correctly.
const sctp = `
import socket, struct, sys
table = []
for i in range(256):
    for _ in range(8):
        i = i >> 1 ^ 0x82f63b78 * (i & 1)
    table.append(i)
def seal(b):
    b, crc = b[:8] + bytes(4) + b[12:], 0xffffffff
    for x in b:
        crc = crc >> 8 ^ table[(crc ^ x) & 255]
    return b[:8] + struct.pack("<I", crc ^ 0xffffffff) + b[12:]
def end(v6):
    return socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, 132)
def get(s, v6):
    b, peer = s.recvfrom(65535)
    return b if v6 else b[20:], peer[0]
def serve(v6, port):
    s = end(v6)
    while True:
        b, peer = get(s, v6)
        if seal(b) == b and b[2:4] == struct.pack(">H", port):
            s.sendto(seal(b[2:4] + b[:2] + b[4:]), (peer, 0))
if sys.argv[1] == "serve":
    import threading
    for v6 in (False, True):
        threading.Thread(target=serve, args=(v6, int(sys.argv[2]))).start()
else:
    host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    v6 = ":" in host
    s = end(v6)
    s.settimeout(2)
    s.connect((host, 0)) # otherwise the kernel does not record the path MTU of ICMP errors
    request = seal(struct.pack(">HHII", 4000, port, 1, 0) + bytes([0, 3]) + struct.pack(">H", size - 12) + b"x" * (size - 16))
    s.send(request)
    while True:
        b, peer = get(s, v6)
        if seal(b) == b and b[:4] == request[2:4] + request[:2] and b[12:] == request[12:]:
            print(len(b))
            break
`

// Fragmented SCTP packets reach a backend that listens on another port than the Service, on the same node and on another one,
// and the answers return.
func TestFragments_SCTP_Pass(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual, Node: map[string]NodeSpec{"n2": {MTU: 1400}}})
	client := labelled(t, l, "n1", "client", "app=client")
	for name, node := range map[string]string{"here": "n1", "there": "n2"} {
		begin(t, l, in(l, labelled(t, l, node, name, "app="+name)), "python3", "-c", sctp, "serve", "5000")
		applyYAML(t, l, strings.Replace(web(name, "app: "+name, ""), "{name: tcp, port: 7}",
			"{name: sctp, port: 2905, targetPort: 5000, protocol: SCTP}", 1))
		for _, a := range getSvc(t, l, name).ips(t) {
			for _, size := range datagramSizes {
				testutil.Eventually(t, fmt.Sprintf("%d bytes to %s, %s", size, name, a), func() error {
					out, err := fromPod(l, client).run("timeout", "10", "python3", "-c", sctp, a.String(), "2905", strconv.Itoa(size))
					if err == nil && strings.TrimSpace(out) != strconv.Itoa(size) {
						err = fmt.Errorf("%q came back", out)
					}
					return err
				})
			}
		}
	}
}

// track switches connection tracking of a machine's kernel on or off.
func track(t *testing.T, l *Lab, machine string, on bool) {
	t.Helper()
	if !on {
		sh(t, l, machine, "nft delete table inet track")
		return
	}
	sh(t, l, machine, `nft '
		add table inet track
		add chain inet track c { type filter hook prerouting priority 0; }
		add rule inet track c ct state new counter
	'`)
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
