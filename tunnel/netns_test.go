package tunnel

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/testutil"
)

// Tests with the real kernel: isolated namespaces joined by a veth. A node is this test binary, started again inside a namespace (see
// TestMain), so that it can be killed like an agent.

const nodeEnv = "WARREN_TUNNEL_NODE"

// nodeConfig is the configuration of a node process.
type nodeConfig struct {
	Config  Config
	Peers   []Peer
	LogFile string
}

func TestMain(m *testing.M) {
	if path := os.Getenv(nodeEnv); path != "" {
		if err := runNode(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runNode is a whole node process: it ends with its standard input.
func runNode(path string) error {
	var c nodeConfig
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return err
	}
	t, err := New(c.Config)
	if err != nil {
		return err
	}
	if err := t.SetPeers(c.Peers); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- t.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-t.Ready():
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "stats" {
			out, _ := json.Marshal(t.Stats())
			fmt.Println(string(out))
		}
		if in.Text() == "peers" {
			out, _ := json.Marshal(t.Peers())
			fmt.Println(string(out))
		}
	}
	cancel()
	return <-done
}

// ns is a network namespace.
type ns string

func needRoot(t *testing.T) {
	t.Helper()
	testutil.NeedRoot(t)
	testutil.NeedTools(t, "ip", "iperf3", "wg", "busybox")
}

func newNS(t *testing.T, name string) ns {
	t.Helper()
	n := ns(fmt.Sprintf("wt%d%s", os.Getpid(), name))
	sh(t, "ip", "netns", "add", string(n))
	t.Cleanup(func() { exec.Command("ip", "netns", "del", string(n)).Run() })
	n.ip(t, "link", "set", "lo", "up")
	return n
}

func sh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (n ns) ip(t *testing.T, args ...string) string {
	t.Helper()
	return sh(t, append([]string{"ip", "-n", string(n)}, args...)...)
}

func (n ns) run(t *testing.T, args ...string) string {
	t.Helper()
	return sh(t, append([]string{"ip", "netns", "exec", string(n)}, args...)...)
}

func (n ns) try(args ...string) (string, error) {
	out, err := exec.Command("ip", append([]string{"netns", "exec", string(n)}, args...)...).CombinedOutput()
	return string(out), err
}

// start runs a command in the namespace until the test ends; stop kills it at once.
func (n ns) start(t *testing.T, env []string, args ...string) (cmd *exec.Cmd, stop func()) {
	t.Helper()
	cmd = exec.Command("ip", append([]string{"netns", "exec", string(n)}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, func() {
		if cmd.Process != nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
}

// proc is a node process.
type proc struct {
	ns   ns
	cfg  nodeConfig
	cmd  *exec.Cmd
	out  *bufio.Scanner
	in   interface{ Write([]byte) (int, error) }
	kill func()
	log  *logBuffer
}

func (n ns) node(t *testing.T, cfg nodeConfig) *proc {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.json")
	b, err := json.Marshal(cfg)
	must(t, err)
	must(t, os.WriteFile(path, b, 0o600))
	cmd, stop := n.start(t, []string{nodeEnv + "=" + path}, os.Args[0])
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	p := &proc{ns: n, cfg: cfg, cmd: cmd, out: bufio.NewScanner(out), in: in, kill: stop, log: &logBuffer{}}
	cmd.Stderr = p.log
	must(t, cmd.Start())
	t.Cleanup(stop)
	if !p.out.Scan() || p.out.Text() != "ready" {
		stop()
		t.Fatalf("node did not start: %s", p.log)
	}
	return p
}

func (p *proc) stats(t *testing.T) (s Stats) {
	t.Helper()
	_, err := p.in.Write([]byte("stats\n"))
	must(t, err)
	if !p.out.Scan() {
		t.Fatal("node has ended: ", p.log)
	}
	must(t, json.Unmarshal(p.out.Bytes(), &s))
	return s
}

func (p *proc) peers(t *testing.T) (s []PeerStatus) {
	t.Helper()
	_, err := p.in.Write([]byte("peers\n"))
	must(t, err)
	if !p.out.Scan() {
		t.Fatal("node has ended: ", p.log)
	}
	must(t, json.Unmarshal(p.out.Bytes(), &s))
	return s
}

// pair is two namespaces joined by a veth, with a node in each.
type pair struct {
	a, b   ns
	na, nb *proc
}

// underlay gives both ends of the veth an address.
func underlay(t *testing.T, six bool, mtu int) (a, b ns, addrA, addrB netip.Addr) {
	t.Helper()
	a, b = newNS(t, "a"), newNS(t, "b")
	sh(t, "ip", "link", "add", "u0", "netns", string(a), "type", "veth", "peer", "name", "u0", "netns", string(b))
	addrA, addrB = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	bits := "/24"
	if six {
		addrA, addrB, bits = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), "/64"
	}
	for n, addr := range map[ns]netip.Addr{a: addrA, b: addrB} {
		args := []string{"addr", "add", addr.String() + bits, "dev", "u0"}
		if six {
			args = append(args, "nodad")
		}
		n.ip(t, args...)
		n.ip(t, "link", "set", "u0", "up", "mtu", fmt.Sprint(mtu))
	}
	return a, b, addrA, addrB
}

// overlay sets the inner addresses of a namespace and the route to the other one.
func (n ns) overlay(t *testing.T, dev string, host int) {
	t.Helper()
	n.ip(t, "addr", "add", fmt.Sprintf("10.42.%d.1/16", host), "dev", dev)
	n.ip(t, "addr", "add", fmt.Sprintf("fd42:0:0:%d::1/48", host), "dev", dev, "nodad")
}

func nodeKey(n byte) model.Key { return model.Key{0: 8 * n, 9: n, 31: 64} }

func publicOf(t *testing.T, k model.Key) model.Key {
	t.Helper()
	p, err := PublicKey(k)
	must(t, err)
	return p
}

func config(t *testing.T, n byte, mtu int) Config {
	dir := t.TempDir()
	return Config{Name: "warren0", MTU: mtu, PrivateKey: nodeKey(n), LockFile: filepath.Join(dir, "lock"), UAPIDir: dir}
}

func blocks(host int) []netip.Prefix {
	return prefixes(fmt.Sprintf("10.42.%d.0/24", host), fmt.Sprintf("fd42:0:0:%d::/64", host))
}

func joinNodes(t *testing.T, six bool, underMTU, mtu int, change func(*nodeConfig)) *pair {
	t.Helper()
	a, b, addrA, addrB := underlay(t, six, underMTU)
	p := &pair{a: a, b: b}
	for _, x := range []struct {
		n         ns
		own, peer byte
		addr      netip.Addr
		to        **proc
	}{{a, 1, 2, addrB, &p.na}, {b, 2, 1, addrA, &p.nb}} {
		c := nodeConfig{Config: config(t, x.own, mtu), Peers: []Peer{{Name: "peer", PublicKey: publicOf(t, nodeKey(x.peer)),
			Endpoints: []netip.AddrPort{netip.AddrPortFrom(x.addr, 51820)}, AllowedIPs: blocks(int(x.peer))}}}
		if change != nil {
			change(&c)
		}
		*x.to = x.n.node(t, c)
		x.n.overlay(t, "warren0", int(x.own))
	}
	p.reach(t)
	return p
}

// reach waits until both families pass.
func (p *pair) reach(t *testing.T) {
	t.Helper()
	for _, to := range []string{"10.42.2.1", "fd42:0:0:2::1"} {
		testutil.EventuallyTrue(t, "a ping to "+to, func() bool {
			_, err := p.a.try("busybox", "ping", "-c1", "-W1", to)
			return err == nil
		})
	}
}

// iperf moves data from a to b and returns the bytes that arrived.
func (p *pair) iperf(t *testing.T, to string, args ...string) (bytes float64) {
	t.Helper()
	srv, stop := p.b.start(t, nil, "iperf3", "-s", "-1", "-B", to, "--forceflush")
	out, err := srv.StdoutPipe()
	must(t, err)
	must(t, srv.Start())
	defer stop()
	for s := bufio.NewScanner(out); s.Scan(); {
		if strings.Contains(s.Text(), "listening") {
			break
		}
	}
	go func() { // the server must not block on a full pipe
		buf := make([]byte, 4096)
		for {
			if _, err := out.Read(buf); err != nil {
				return
			}
		}
	}()
	client, _ := p.a.start(t, nil, append([]string{"iperf3", "-c", to, "-J"}, args...)...)
	text, err := client.Output()
	if err != nil {
		t.Fatalf("iperf3 to %s: %v\n%s", to, err, text)
	}
	var r struct {
		End struct {
			Received struct{ Bytes float64 } `json:"sum_received"`
		}
	}
	must(t, json.Unmarshal(text, &r))
	return r.End.Received.Bytes
}

func TestTunnel_KernelTraffic_PassesBothFamilies(t *testing.T) {
	needRoot(t)
	for name, change := range map[string]func(*nodeConfig){
		"offloads":    nil,
		"no offloads": func(c *nodeConfig) { c.Config.DisableSegmentationOffload = true },
		"one queue":   func(c *nodeConfig) { c.Config.Queues = 1 },
	} {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/underlay6=%v", name, six), func(t *testing.T) {
				p := joinNodes(t, six, 1500, 1420, change)
				const amount = 20 << 20 / 4 // the server's count ends when the client has sent the last byte
				for _, to := range []string{"10.42.2.1", "fd42:0:0:2::1"} {
					for _, args := range [][]string{{"-n", "20M"}, {"-n", "20M", "-R"}, {"-n", "20M", "-P", "4"}} {
						if got := p.iperf(t, to, args...); got < amount {
							t.Errorf("%s %v: %.0f bytes arrived", to, args, got)
						}
					}
					if got := p.iperf(t, to, "-u", "-l", "1300", "-b", "20M", "-n", "1M"); got == 0 {
						t.Errorf("%s: no UDP arrived", to)
					}
				}
				s := p.na.stats(t)
				if name == "offloads" && (s.Segments < 2*s.Supers || s.Datagrams < 2*s.Sends || s.Downgrades != 0) {
					t.Errorf("offloads are not in use: %+v", s)
				}
				for _, r := range []string{"malformed", "bad_checksum", "write", "send", "receive", "too_big", "no_peer"} {
					if s.Drops[r] != 0 {
						t.Errorf("%d packets dropped: %s", s.Drops[r], r)
					}
				}
			})
		}
	}
}

// The derived MTU works on every underlay, and with a wrong one traffic passes by fragmentation of the outer datagrams.
func TestTunnel_UnderlayMTUs_TrafficPasses(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		six         bool
		under, mtu  int
		description string
	}{{false, 1500, 1440, "derived"}, {true, 1500, 1420, "derived"}, {false, 9000, 8940, "jumbo"}, {true, 9000, 8920, "jumbo"},
		{false, 1400, 1340, "derived"}, {false, 1280, 1280, "too large for the underlay"}, {true, 1280, 1280, "too large for the underlay"},
		{false, 1400, 1420, "too large for the underlay"}} {
		t.Run(fmt.Sprintf("%d/%d/underlay6=%v", c.under, c.mtu, c.six), func(t *testing.T) {
			p := joinNodes(t, c.six, c.under, c.mtu, nil)
			for _, to := range []string{"10.42.2.1", "fd42:0:0:2::1"} {
				if got := p.iperf(t, to, "-n", "5M"); got < 1<<20 {
					t.Errorf("%s: %.0f bytes arrived", to, got)
				}
				if got := p.iperf(t, to, "-u", "-l", fmt.Sprint(c.mtu-48), "-b", "20M", "-n", "1M"); got < 1<<19 {
					t.Errorf("%s: %.0f bytes of datagrams as large as the MTU arrived", to, got)
				}
			}
		})
	}
}

// A stream survives kill -9 of the process at either end, and the device keeps its addresses.
func TestTunnel_ProcessKilled_StreamSurvives(t *testing.T) {
	needRoot(t)
	p := joinNodes(t, false, 1500, 1420, nil)
	index := p.a.ip(t, "-o", "link", "show", "warren0")
	done := make(chan float64)
	go func() { done <- p.iperf(t, "10.42.2.1", "-t", "4") }()
	testutil.EventuallyTrue(t, "the stream", func() bool { return p.na.stats(t).Segments > 10000 })
	p.na.kill()
	if got := p.a.ip(t, "addr", "show", "warren0"); !strings.Contains(got, "10.42.1.1/16") {
		t.Errorf("the device lost its address:\n%s", got)
	}
	p.na = p.a.node(t, p.na.cfg)
	testutil.EventuallyTrue(t, "the stream after the first restart", func() bool { return p.na.stats(t).Segments > 1000 })
	p.nb.kill()
	p.nb = p.b.node(t, p.nb.cfg)
	if got := <-done; got == 0 {
		t.Error("the stream broke")
	}
	if now := p.a.ip(t, "-o", "link", "show", "warren0"); strings.Fields(now)[0] != strings.Fields(index)[0] {
		t.Errorf("it is another device:\n%s%s", index, now)
	}
}

// The capture covers packets to an address without an owner, too.
func TestTunnel_UnderlayCapture_ShowsOnlyTheTunnelPort(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Fatal("tcpdump is missing: install it (hack/deps.sh does)")
	}
	p := joinNodes(t, false, 1500, 1420, nil)
	file := filepath.Join(t.TempDir(), "pcap")
	dump, stop := p.a.start(t, nil, "tcpdump", "-i", "u0", "-U", "-w", file, "ip or ip6")
	errs, err := dump.StderrPipe()
	must(t, err)
	must(t, dump.Start())
	defer stop()
	for s := bufio.NewScanner(errs); s.Scan() && !strings.Contains(s.Text(), "listening"); {
	}
	p.iperf(t, "10.42.2.1", "-n", "1M")
	p.a.try("busybox", "ping", "-c1", "-W1", "10.42.77.1") // no peer owns it
	p.nb.kill()
	p.a.try("busybox", "ping", "-c1", "-W1", "10.42.2.1")
	must(t, dump.Process.Signal(syscall.SIGINT))
	dump.Wait()
	all := sh(t, "tcpdump", "-nr", file)
	clear := sh(t, "tcpdump", "-nr", file, "not (udp port 51820 or icmp or icmp6 or ip6 multicast)")
	inner := sh(t, "tcpdump", "-nr", file, "net 10.42.0.0/16 and not icmp")
	if !strings.Contains(all, "51820") || strings.Contains(clear, "IP") || strings.Contains(inner, "10.42") {
		t.Errorf("clear text on the wire:\n%s%s", clear, inner)
	}
	if d := p.na.stats(t).Drops["no_peer"]; d == 0 {
		t.Error("the packet without a peer was not counted")
	}
}

// The peer is wireguard-go as published; both directions, both families.
func TestTunnel_UnmodifiedWireguardGo_TrafficPasses(t *testing.T) {
	needRoot(t)
	bin := filepath.Join(t.TempDir(), "wireguard-go")
	build := exec.Command("go", "build", "-o", bin, "golang.zx2c4.com/wireguard")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build wireguard-go: %v\n%s", err, out)
	}
	a, b, addrA, addrB := underlay(t, false, 1500)
	dev := fmt.Sprintf("ws%d", os.Getpid()%100000)
	stock, stop := b.start(t, nil, bin, "-f", dev)
	must(t, stock.Start())
	t.Cleanup(stop)
	sock := "/var/run/wireguard/" + dev + ".sock"
	t.Cleanup(func() { os.Remove(sock) })
	testutil.EventuallyTrue(t, "wireguard-go's socket", func() bool { _, err := os.Stat(sock); return err == nil })
	keyFile := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(keyFile, []byte(nodeKey(2).String()), 0o600))
	b.run(t, "wg", "set", dev, "listen-port", "51820", "private-key", keyFile, "peer", publicOf(t, nodeKey(1)).String(),
		"endpoint", addrA.String()+":51820", "allowed-ips", "10.42.1.0/24,fd42:0:0:1::/64")
	b.ip(t, "link", "set", dev, "up", "mtu", "1420")
	b.overlay(t, dev, 2)
	p := &pair{a: a, b: b}
	p.na = a.node(t, nodeConfig{Config: config(t, 1, 1420), Peers: []Peer{{Name: "stock", PublicKey: publicOf(t, nodeKey(2)),
		Endpoints: []netip.AddrPort{netip.AddrPortFrom(addrB, 51820)}, AllowedIPs: blocks(2)}}})
	a.overlay(t, "warren0", 1)
	p.reach(t)
	for _, to := range []string{"10.42.2.1", "fd42:0:0:2::1"} {
		for _, args := range [][]string{{"-n", "10M"}, {"-n", "10M", "-R"}, {"-u", "-b", "10M", "-n", "500K"}} {
			if got := p.iperf(t, to, args...); got == 0 {
				t.Errorf("%s %v: nothing arrived", to, args)
			}
		}
	}
}

// The tool is wg(8) as distributed.
func TestTunnel_WgTool_ShowsAndCannotChange(t *testing.T) {
	needRoot(t)
	a, b, addrA, addrB := underlay(t, false, 1500)
	_ = addrA
	name := fmt.Sprintf("wr%d", os.Getpid()%100000)
	c := config(t, 1, 1420)
	c.Name, c.UAPIDir = name, "/var/run/wireguard" // where wg(8) looks, whatever the namespace
	peer := publicOf(t, nodeKey(2))
	a.node(t, nodeConfig{Config: c, Peers: []Peer{{Name: "b", PublicKey: peer, AllowedIPs: blocks(2),
		Endpoints: []netip.AddrPort{netip.AddrPortFrom(addrB, 51820)}, Keepalive: 25 * time.Second}}})
	_ = b
	t.Cleanup(func() { os.Remove("/var/run/wireguard/" + name + ".sock") })
	for args, want := range map[string]string{
		"show":                           "interface: " + name,
		"show interfaces":                name,
		"show NAME":                      "allowed ips: 10.42.2.0/24, fd42:0:0:2::/64",
		"show NAME dump":                 "25\n",
		"show NAME peers":                peer.String(),
		"show NAME public-key":           publicOf(t, nodeKey(1)).String(),
		"show NAME listen-port":          "51820",
		"show NAME endpoints":            addrB.String() + ":51820",
		"show NAME allowed-ips":          "10.42.2.0/24",
		"show NAME latest-handshakes":    peer.String(),
		"show NAME transfer":             peer.String(),
		"show NAME persistent-keepalive": "25",
		"show NAME preshared-keys":       "(none)",
		"show NAME fwmark":               "off",
		"show all":                       name,
		"showconf NAME":                  "PrivateKey",
	} {
		got := a.run(t, append([]string{"wg"}, strings.Fields(strings.ReplaceAll(args, "NAME", name))...)...)
		if !strings.Contains(got, want) {
			t.Errorf("wg %s printed\n%swithout %q", args, got, want)
		}
	}
	conf := filepath.Join(t.TempDir(), "conf")
	must(t, os.WriteFile(conf, []byte(a.run(t, "wg", "showconf", name)), 0o600))
	a.run(t, "wg", "syncconf", name, conf)
	for _, args := range [][]string{{"listen-port", "1"}, {"peer", publicOf(t, nodeKey(7)).String(), "allowed-ips", "10.0.0.0/8"}} {
		out, err := a.try(append([]string{"wg", "set", name}, args...)...)
		if err == nil || !strings.Contains(out, "Operation not permitted") {
			t.Errorf("wg set %v: %v %s", args, err, out)
		}
	}
	a.run(t, "wg", "set", name, "peer", peer.String(), "remove")
	if got := a.run(t, "wg", "show", name, "allowed-ips"); !strings.Contains(got, "10.42.2.0/24") {
		t.Errorf("a peer of the store was removed: %s", got)
	}
}

func TestDelete_Twice_LeavesNothing(t *testing.T) {
	needRoot(t)
	n := newNS(t, "d")
	c := config(t, 1, 1420)
	p := n.node(t, nodeConfig{Config: c})
	if _, err := n.try("ip", "link", "show", "warren0"); err != nil {
		t.Fatal("no device")
	}
	p.kill()
	n.ip(t, "link", "show", "warren0")
	script := fmt.Sprintf("WARREN_TUNNEL_DELETE=%s:%s", c.Name, c.LockFile)
	for range 2 {
		cmd, _ := n.start(t, []string{script}, os.Args[0], "-test.run=TestDelete_Helper_RunsInNamespace$")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("delete: %v\n%s", err, out)
		}
		if out, err := n.try("ip", "link", "show", "warren0"); err == nil {
			t.Errorf("still there: %s", out)
		}
	}
}

// TestDelete_Helper_RunsInNamespace runs inside a namespace only.
func TestDelete_Helper_RunsInNamespace(t *testing.T) {
	name, lock, ok := strings.Cut(os.Getenv("WARREN_TUNNEL_DELETE"), ":")
	if !ok {
		t.Skip("started by TestDelete_Twice_LeavesNothing")
	}
	must(t, Delete(name, lock))
}

// Another process deletes the device.
func TestTunnel_DeviceDeleted_IsRecreated(t *testing.T) {
	needRoot(t)
	p := joinNodes(t, false, 1500, 1420, nil)
	p.a.ip(t, "link", "del", "warren0")
	testutil.EventuallyTrue(t, "the device to come back", func() bool {
		_, err := p.a.try("ip", "link", "show", "up", "dev", "warren0")
		return err == nil
	})
	testutil.EventuallyTrue(t, "the reopening", func() bool { return p.na.stats(t).Reopens == 1 })
	p.a.overlay(t, "warren0", 1)
	p.reach(t)
}
