package lab

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
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

// learn sends datagrams of a size that must not be fragmented until the kernel knows how much the path carries, then one
// that just fits, until an answer comes. It prints the path's MTU.
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

// narrow makes the link of a Pod carry less, as if it had been plugged while the tunnel was narrower.
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

// Through Services and out of the cluster no path is a black hole, whatever its narrowest link: another node with a smaller
// MTU, a Pod plugged with a smaller one on this node or another, an uplink narrower than the tunnel; for Pods, the node itself,
// and clients of the LAN with jumbo frames. TCP passes, and who must not fragment is told what fits.
func TestServiceMTU(t *testing.T) {
	t.Parallel()
	const wide, uplink = 9000, 1350
	l := start(t, Spec{Nodes: 2, Family: Dual, MTU: wide, Node: map[string]NodeSpec{"n2": {MTU: 1400}}})
	client := labelled(t, l, "n1", "client", "app=client")
	begin(t, l, on(l, "etcd1"), l.Exe, "lab", "echo", "--http", "")
	begin(t, l, on(l, "etcd1"), "python3", "-c", short)
	for _, b := range []struct {
		name, node string
		mtu        int // what the path carries
		link       int // of the Pod, 0: as it was plugged
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
			eventually(t, b.name, func() error {
				_, err := fromPod(l, client).run(exe, "lab", "get", "--timeout", "5s", fmt.Sprintf("tcp://%s", netip.AddrPortFrom(vip, 7)))
				return err
			})
			for _, c := range []struct {
				asker
				addr     netip.Addr
				tcp, udp int
			}{
				{fromPod(l, client), vip, 7, 9}, {fromMachine(l, "n1"), vip, 7, 9}, {fromPod(l, client), node, tcp, udp}, {fromMachine(l, "etcd1"), node, tcp, udp},
			} {
				bulkPort(t, c.asker, c.addr, c.tcp)
				_, _ = c.run("sh", "-c", "ip route flush cache; ip -6 route flush cache") // node ports share an address
				if n := pathMTU(t, c.asker, c.addr, c.udp, wide); n != b.mtu {
					t.Errorf("%s -> %s, %s: the client learnt an MTU of %d, expected %d", c.name, c.addr, b.name, n, b.mtu)
				}
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
