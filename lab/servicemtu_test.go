package lab

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// short answers datagrams of any size in two bytes.
const short = `
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(41, 26, 0)
s.bind(("", 9))
while True:
    s.sendto(b"ok", s.recvfrom(65535)[1])
`

// learn sends datagrams of a size that must not be fragmented until the kernel has a path MTU, then one that just fits, until an
// answer arrives. It prints the path MTU.
const learn = `
import socket, sys
host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
v6 = ":" in host
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
level, discover, mtu, head = (41, 23, 24, 48) if v6 else (0, 10, 14, 28)
s.setsockopt(level, discover, 2)
s.connect((host, port))
for i in range(20):
    try:
        s.send(b"x" * (min(size, s.getsockopt(level, mtu)) - head))
        s.recv(65535)
        print(s.getsockopt(level, mtu))
        break
    except OSError:
        pass
`

// pathMTU is what a client learns about the path to a UDP server that echoes.
func pathMTU(t *testing.T, c asker, a netip.Addr, port, size int) int {
	t.Helper()
	out, err := c.run("timeout", "60", "python3", "-c", learn, a.String(), strconv.Itoa(port), strconv.Itoa(size))
	if err != nil {
		t.Fatalf("%s -> %s: %v", c.name, a, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Errorf("%s -> %s port %d: datagrams of %d bytes are lost without a word", c.name, a, port, size)
	}
	return n
}

// bulkPort is bulk at any address and port, for any client.
func bulkPort(t *testing.T, c asker, a netip.Addr, port int) {
	t.Helper()
	script := fmt.Sprintf(`exec 3<>/dev/tcp/%s/%d; read -r hello <&3; head -c 500000 /dev/zero >&3 & head -c 500000 <&3 | wc -c`, a, port)
	if out, err := c.run("timeout", "30", "bash", "-c", script); err != nil || strings.TrimSpace(out) != "500000" {
		t.Errorf("%s -> %s port %d: %q of 500000 bytes came back: %v", c.name, a, port, strings.TrimSpace(out), err)
	}
}

// narrow lowers the MTU of a Pod's link, as if the Pod had been attached while the tunnel's MTU was smaller.
func narrow(t *testing.T, l *Lab, p *Pod, mtu int) {
	t.Helper()
	if out, err := l.PodOutput(p, "ip", "link", "set", "eth0", "mtu", strconv.Itoa(mtu)); err != nil {
		t.Fatal(err, out)
	}
	sh(t, l, p.Node, fmt.Sprintf("ip link set $(ip -o route get %s | sed 's/.* dev \\([^ ]*\\).*/\\1/') mtu %d", p.Addresses[0], mtu))
}

// measured is a Service with the echo server's TCP and short's UDP.
func measured(name string) string {
	return strings.Replace(web(name, "app: "+name, "  type: NodePort"), "{name: udp, port: 7,", "{name: udp, port: 9,", 1)
}

// TCP passes through Services and to external networks whatever the smallest MTU of the path: that of another node, of a Pod on
// this node or another one, or of an uplink. Clients are Pods, the node itself and machines of the LAN with jumbo frames. Senders
// that must not fragment receive the size that fits.
func TestServiceMTU_NarrowBackend_SendersLearnTheSize(t *testing.T) {
	t.Parallel()
	const wide, uplink = 9000, 1350
	l := start(t, Spec{Nodes: 2, Family: Dual, MTU: wide, Node: map[string]NodeSpec{"n2": {MTU: 1400}}})
	client := labelled(t, l, "n1", "client", "app=client")
	begin(t, l, on(l, "etcd1"), l.Exe, "lab", "echo", "--http", "")
	begin(t, l, on(l, "etcd1"), "python3", "-c", short)
	for _, b := range []struct {
		name, node string
		mtu        int // of the path
		link       int // of the Pod, 0: as attached
	}{{"near", "n1", 1300, 1300}, {"far", "n2", 1312, 0}, {"deep", "n2", 1290, 1290}} { // 1312: of 1,320 what is a multiple of 16
		p := labelled(t, l, b.node, b.name, "app="+b.name)
		begin(t, l, in(l, p), "python3", "-c", short)
		if b.link != 0 {
			narrow(t, l, p, b.link)
		}
		applyYAML(t, l, measured(b.name))
		s := getSvc(t, l, b.name)
		tcp, udp := s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort
		for _, v4 := range []bool{true, false} {
			vip := family(s.ips(t), netip.Addr.Is4, v4)[0]
			node := family(addrsOf(l.Spec.underlayAddrs("n1")), netip.Addr.Is4, v4)[0]
			testutil.Eventually(t, b.name, func() error {
				_, err := fromPod(l, client).run(exe, "lab", "get", "--timeout", "5s", fmt.Sprintf("tcp://%s", netip.AddrPortFrom(vip, 7)))
				return err
			})
			for _, c := range []struct {
				asker
				addr     netip.Addr
				tcp, udp int
			}{
				{fromPod(l, client), vip, 7, 9}, {fromMachine(l, "n1"), vip, 7, 9}, {fromPod(l, client), node, tcp, udp},
				{fromMachine(l, "etcd1"), node, tcp, udp},
			} {
				bulkPort(t, c.asker, c.addr, c.tcp)
				_, _ = c.run("sh", "-c", "ip route flush cache; ip -6 route flush cache") // node ports share an address
				if n := pathMTU(t, c.asker, c.addr, c.udp, wide); n != b.mtu {
					t.Errorf("%s -> %s, %s: the client learnt an MTU of %d, expected %d", c.name, c.addr, b.name, n, b.mtu)
				}
			}
			bulkPort(t, fromMachine(l, "n1"), node, tcp)
			if n := pathMTU(t, fromMachine(l, "n1"), node, udp, wide); n != 1280 {
				t.Errorf("n1 -> its own node port, %s: an MTU of %d, expected the 1280 that every path supports", b.name, n)
			}
		}
	}
	for _, v4 := range []bool{true, false} {
		world := family(addrsOf(l.Spec.underlayAddrs("etcd1")), netip.Addr.Is4, v4)[0]
		sh(t, l, "n1", fmt.Sprintf("ip route add %s dev eth0 mtu lock %d", world, uplink))
		bulkPort(t, fromPod(l, client), world, 7)
		if n := pathMTU(t, fromPod(l, client), world, 9, wide); n != uplink {
			t.Errorf("the Pod learnt an MTU of %d towards %s, expected %d", n, world, uplink)
		}
	}
}

// called returns the answer of a closed UDP port, to a socket that may be bound to an address.
const called = `
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
if sys.argv[2:]:
    s.bind((sys.argv[2], 0))
s.connect(socket.getaddrinfo(sys.argv[1], 9, type=socket.SOCK_DGRAM)[0][4])
try:
    s.send(b"x")
    s.recv(1)
except ConnectionRefusedError:
    print("refused")
`

// The agent receives ICMP errors of the host for its own flows. Other receivers still get theirs: clients of a closed port of the
// node, and senders of packets that are too large for a network to which the node forwards.
func TestICMP_ErrorsOfTheHost_ReachTheClient(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	sh(t, l, "n1", `ip netns add guest && ip link add guest type veth peer name eth0 netns guest && ip link set guest up &&
		ip addr add 198.51.100.1/24 dev guest && ip addr add fd88::1/64 dev guest nodad &&
		ip -n guest link set lo up && ip -n guest link set eth0 up && ip -n guest addr add 198.51.100.2/24 dev eth0 && ip -n guest addr add fd88::2/64 dev eth0 nodad &&
		ip -n guest route add default via 198.51.100.1 && ip -n guest -6 route add default via fd88::1 &&
		ip link set guest mtu 1300 && ip -n guest link set eth0 mtu 1300`)
	begin(t, l, on(l, "n1"), "ip", "netns", "exec", "guest", "python3", "-c", short)
	outside := fromMachine(l, "etcd1")
	sh(t, l, "etcd1", "ip route add 198.51.100.0/24 via 192.168.77.11; ip -6 route add fd88::/64 via fd77::b")
	link := strings.Fields(sh(t, l, "n1", "ip -o -6 addr show dev eth0 scope link | awk '{print $4}'"))[0]
	link = strings.Split(link, "/")[0] + "%eth0"
	guest := asker{"guest", func(args ...string) (string, error) {
		return l.Output("n1", append([]string{"ip", "netns", "exec", "guest"}, args...)...)
	}, nil}
	for _, c := range []struct {
		asker
		at []string
	}{{outside, []string{"192.168.77.11", "fd77::b", link, link + " fd77::2"}},
		{fromMachine(l, "n2"), []string{"192.168.77.11", "fd77::b", link}},
		{fromMachine(l, "n1"), []string{"192.168.77.11", "fd77::b"}}, {guest, []string{"198.51.100.1", "fd88::1", "192.168.77.11",
			"fd77::b"}}} {
		for _, a := range c.at {
			if out, err := c.run(append([]string{"python3", "-c", called}, strings.Fields(a)...)...); err != nil ||
				strings.TrimSpace(out) != "refused" {
				t.Errorf("%s calls a closed port at %s: %q %v, expected to be refused", c.name, a, out, err)
			}
		}
	}
	for _, a := range []string{"198.51.100.2", "fd88::2"} {
		if n := pathMTU(t, outside, netip.MustParseAddr(a), 9, 1500); n != 1300 {
			t.Errorf("an MTU of %d towards %s, expected 1300", n, a)
		}
	}
}
