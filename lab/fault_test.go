package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/agent/snapshot"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
)

// iperfResult is the report of iperf3.
type iperfResult struct {
	Intervals []struct {
		Sum struct {
			Bytes float64 `json:"bytes"`
		} `json:"sum"`
	} `json:"intervals"`
	Error string `json:"error"`
}

// load is a TCP stream of iperf3 in the background. It runs until finish ends it: a test on a slow machine takes longer than any
// fixed time.
type load struct {
	client, server *task
}

// stream begins a load between two Pods.
func stream(t *testing.T, l *Lab, from, to *Pod, more ...string) load {
	t.Helper()
	client, server := iperf(t, l, from, to, 3600, more...)
	return load{client, server}
}

// iperf runs iperf3 between two Pods for some seconds in the background.
func iperf(t *testing.T, l *Lab, from, to *Pod, seconds int, more ...string) (client, server *task) {
	t.Helper()
	server = begin(t, l, in(l, to), "iperf3", "-s", "-1", "--forceflush")
	testutil.Eventually(t, "iperf3 server", func() error { return contains(server.text(), "listening") })
	args := append([]string{"iperf3", "-J", "-i", "0.1", "-c", to.Addresses[0].String(), "-t", fmt.Sprint(seconds)}, more...)
	return begin(t, l, in(l, from), args...), server
}

// carried matches a second in which the server of iperf3 has sent or received data.
var carried = regexp.MustCompile(`(?m)^\[ *\d+\] +[\d.]+-[\d.]+ +sec +[1-9]`)

// finish ends a load, which must not have broken and must carry data now. It returns the longest time without a byte.
func finish(t *testing.T, k load) (stall time.Duration) {
	t.Helper()
	seconds := func() int { return len(carried.FindAllString(k.server.text(), -1)) }
	before := seconds()
	testutil.EventuallyWithin(t, time.Minute, "data of the stream", func() error {
		if n := seconds() - before; n < 2 { // the first may have begun before the call
			return fmt.Errorf("%d seconds with data: %s %.400s", n, k.server.text(), k.client.text())
		}
		return nil
	})
	text := k.client.stop(syscall.SIGINT)
	var r iperfResult
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Error != "interrupt - the client has terminated" {
		t.Errorf("the stream broke: %v %s", err, r.Error)
		return 0
	}
	var run time.Duration
	for _, i := range r.Intervals {
		if i.Sum.Bytes > 0 {
			run = 0
			continue
		}
		run += 100 * time.Millisecond
		stall = max(stall, run)
	}
	return stall
}

// kill -9 of an agent under load: no connection breaks, across nodes or on one node, and same-node traffic does not
// notice. A capture shows that nothing left the node in clear meanwhile.
func TestAgent_KilledUnderLoad_TrafficContinues(t *testing.T) {
	l := start(t, Spec{Nodes: 2, Family: Dual})
	pods := onePodEach(t, l)
	near := run(t, l, "n1", "near")
	wire := capture(t, l, "n1", "eth0", "net 10.42.0.0/16 or net fd42::/48")
	across := stream(t, l, pods[0], pods[1])
	back := stream(t, l, pods[1], near, "-R")
	local := stream(t, l, near, pods[0])
	testutil.Eventually(t, "traffic", func() error {
		st, err := l.Status(context.Background(), "n1")
		if err == nil && (len(st.Peers) == 0 || st.Peers[0].TxBytes < 1<<20) {
			err = errors.New("nothing sent yet")
		}
		return err
	})
	dead := time.Now()
	if err := l.StopAgent("n1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent("n1"); err != nil {
		t.Fatal(err)
	}
	if err := l.waitNode(context.Background(), "n1"); err != nil {
		t.Fatal(err)
	}
	t.Logf("agent absent for %s", time.Since(dead))
	t.Logf("stall across nodes %s, reverse %s, on the same node %s", finish(t, across), finish(t, back), finish(t, local))
	if text := wire(); text != "" {
		t.Errorf("in clear on the wire:\n%s", text)
	}
}

// While etcd is unreachable, agents restart from their disks, and Pods are attached and reach each other.
func TestEtcd_Unreachable_ClusterContinues(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3, Family: Dual})
	pods := onePodEach(t, l)
	mustCall(t, l, pods[0], pods[1])
	// The newest snapshot must be on the disks before etcd is killed.
	testutil.Eventually(t, "all nodes list each other as peers", func() error { return peersKnown(l, 2) })
	testutil.Eventually(t, "all nodes persist each other", func() error { return kept(l) })
	if err := l.StopEtcd("etcd1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, n := range l.NodeNames() {
		if err := l.StopAgent(n, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := l.StartAgent(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	fresh := run(t, l, "n2", "fresh")
	for _, p := range pods {
		testutil.Eventually(t, "call without etcd", func() error { _, err := calls(l, p, fresh.Addresses[0]); return err })
		mustCall(t, l, p, fresh)
		mustCall(t, l, fresh, p)
	}
	testutil.Eventually(t, "status reports that etcd is unreachable", func() error {
		st, err := l.Status(ctx, "n1")
		if err == nil && (st.Store.Connected || !slices.ContainsFunc(st.Problems,
			func(s string) bool { return strings.Contains(s, "etcd is unreachable") })) {
			err = fmt.Errorf("problems %v", st.Problems)
		}
		return err
	})
	fromDisk := func() string {
		return sh(t, l, "n1", "curl -s 127.0.0.1:9551/metrics | grep '^warren_snapshot_from_disk'")
	}
	if m := fromDisk(); !strings.HasSuffix(strings.TrimSpace(m), " 1") {
		t.Errorf("started without the store: %s", m)
	}
	before := sh(t, l, "n1", "ip -j addr show dev warren0")
	if err := l.StartEtcd("etcd1"); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "the store is back", func() error {
		for _, n := range l.NodeNames() {
			st, err := l.Status(ctx, n)
			if err != nil || !st.Store.Connected || len(st.Problems) > 0 {
				return fmt.Errorf("%s: %v %v", n, err, st.Problems)
			}
		}
		return nil
	})
	if m := fromDisk(); !strings.HasSuffix(strings.TrimSpace(m), " 0") {
		t.Errorf("the store is back: %s", m)
	}
	if after := sh(t, l, "n1", "ip -j addr show dev warren0"); after != before {
		t.Errorf("the node renumbered over an outage: %s, before %s", after, before)
	}
	mustCall(t, l, pods[2], fresh)
}

// kept checks that the persisted snapshot of every node lists every node: snapshots are written with a delay.
func kept(l *Lab) error {
	for _, n := range l.NodeNames() {
		raw, err := os.ReadFile(filepath.Join(l.machineDir(n), "lib", "warren", "snapshot.json"))
		if err != nil {
			return err
		}
		for _, other := range l.NodeNames() {
			if !strings.Contains(string(raw), `"name":"`+other+`"`) {
				return fmt.Errorf("the snapshot on the disk of %s does not list %s", n, other)
			}
		}
	}
	return nil
}

func peersKnown(l *Lab, n int) error {
	for _, node := range l.NodeNames() {
		st, err := l.Status(context.Background(), node)
		if err != nil {
			return err
		}
		if len(st.Peers) != n || st.Revision != st.Applied {
			return fmt.Errorf("%s has %d peers", node, len(st.Peers))
		}
	}
	return nil
}

// etcd loses all its data: the nodes claim the blocks on their disks again, and nothing is renumbered.
func TestEtcd_DataLost_NodesReclaimTheirBlocks(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3})
	pods := onePodEach(t, l)
	testutil.Eventually(t, "all nodes list each other as peers", func() error { return peersKnown(l, 2) })
	if err := l.StopEtcd("etcd1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(l.machineDir("etcd1"), "lib", "etcd")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartEtcd("etcd1"); err != nil {
		t.Fatal(err)
	}
	for _, n := range l.NodeNames() {
		if err := l.StopAgent(n, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := l.StartAgent(n); err != nil {
			t.Fatal(err)
		}
	}
	testutil.Eventually(t, "the cluster is whole again", func() error {
		if err := peersKnown(l, 2); err != nil {
			return err
		}
		for i, n := range l.NodeNames() {
			st, err := l.Status(context.Background(), n)
			if err != nil || !st.Store.Connected {
				return fmt.Errorf("%s: %v", n, err)
			}
			if !st.PodCIDRs[0].Contains(pods[i].Addresses[0]) {
				t.Fatalf("%s was renumbered to %v, its Pod has %v", n, st.PodCIDRs, pods[i].Addresses)
			}
		}
		return nil
	})
	mustCall(t, l, pods[0], pods[2])
}

// The agent reverts changes of other programs to its own rules, routes and addresses, and keeps their additions.
func TestAgent_ForeignChangesToHost_AreReverted(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	pods := onePodEach(t, l)
	mustCall(t, l, pods[0], pods[1])
	sh(t, l, "n1", "ip rule add pref 115 to 192.0.2.0/24 lookup 77")
	for _, harm := range []string{
		"ip rule del pref 115 lookup 101", "ip -6 rule del pref 116", "ip route flush table 101", "ip -6 route flush table 101",
		"sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv6.conf.all.forwarding=0", "ip addr flush dev warren0",
		"ip link set warren0 down",
		"ip link del warren0",
		"wg set warren0 peer $(wg show warren0 peers) remove", "wg set warren0 peer $(wg show warren0 peers) allowed-ips 203.0.113.0/24",
	} {
		sh(t, l, "n1", harm+" || true")
		testutil.Eventually(t, "after "+harm, func() error {
			for i := range 2 {
				if _, err := calls(l, pods[0], pods[1].Addresses[i]); err != nil {
					return err
				}
				if _, err := calls(l, pods[1], pods[0].Addresses[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if out := sh(t, l, "n1", "ip rule show"); !strings.Contains(out, "192.0.2.0/24 lookup 77") {
		t.Errorf("the rule of another program was removed:\n%s", out)
	}
}

// Without a tunnel there is no traffic: a packet for a Pod CIDR that no peer owns is dropped and counted.
func TestEncryption_AgentStopped_NothingLeavesInClear(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	pods := onePodEach(t, l)
	mustCall(t, l, pods[0], pods[1])
	wire := capture(t, l, "n1", "eth0", "net 10.42.0.0/16 or net fd42::/48")
	drops := func() float64 {
		st, err := l.Status(context.Background(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		m, _ := st.Tunnel.(map[string]any)
		d, _ := m["Drops"].(map[string]any)
		n, _ := d["no_peer"].(float64)
		return n
	}
	before := drops()
	for _, a := range []string{"10.42.250.9", "fd42:0:0:fa::9"} {
		if out, err := l.PodOutput(pods[0], "ping", "-c2", "-i0.2", "-W1", a); err == nil {
			t.Errorf("an unassigned address answered:\n%s", out)
		}
	}
	if after := drops(); after < before+4 {
		t.Errorf("%v drops with reason no_peer were counted, expected at least 4", after-before)
	}
	// Without the interface and the agent the blackhole routes still apply.
	if err := l.StopAgent("n1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	sh(t, l, "n1", "ip link del warren0")
	sh(t, l, "n1", "ip route add default via 192.168.77.12 dev eth0; ip -6 route add default via fd77::c dev eth0")
	for _, a := range pods[1].Addresses {
		if out, err := l.PodOutput(pods[0], "ping", "-c2", "-i0.2", "-W1", a.String()); err == nil {
			t.Errorf("a Pod was reached without a tunnel:\n%s", out)
		}
	}
	if text := wire(); text != "" {
		t.Errorf("in clear on the wire:\n%s", text)
	}
}

// A node that comes back with an empty disk is a new one: it gets a new block, the old one stays claimed until it is
// released by hand, and a living node cannot be removed.
func TestNode_JoinRemoveReplace_AddressesAreReused(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	ctx := context.Background()
	old, err := l.Status(ctx, "n2")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := l.Output("n1", l.Exe, "node", "rm", "n2"); err == nil || !strings.Contains(err.Error(), "alive") {
		t.Errorf("node rm of a living node: %v %s", err, out)
	}
	if err := l.StopAgent("n2", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"lib/warren"} {
		if err := os.RemoveAll(filepath.Join(l.machineDir("n2"), f)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.StartAgent("n2"); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "n2 joins with a new disk", func() error {
		st, err := l.Status(ctx, "n2")
		if err == nil && (!st.Ready || len(st.PodCIDRs) == 0) {
			err = fmt.Errorf("not ready: %v", st.Problems)
		}
		if err == nil && slices.Contains(st.PodCIDRs, old.PodCIDRs[0]) {
			t.Fatalf("the new disk took the block %v of the old one, whose Pods may still run", old.PodCIDRs)
		}
		return err
	})
	a, b := run(t, l, "n1", "a"), run(t, l, "n2", "b")
	testutil.Eventually(t, "the new n2 is reached", func() error { _, err := calls(l, a, b.Addresses[0]); return err })
	if err := l.StopAgent("n2", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var out string
	testutil.Eventually(t, "node rm n2", func() error {
		var err error
		out, err = l.Output("n1", l.Exe, "node", "rm", "n2")
		return err
	})
	if strings.Count(out, "released") != 2 || !strings.Contains(out, old.PodCIDRs[0].String()) {
		t.Errorf("node rm printed %q, expected both blocks released", out)
	}
	testutil.Eventually(t, "n1 forgets n2", func() error {
		st, err := l.Status(ctx, "n1")
		if err == nil && len(st.Peers) != 0 {
			err = fmt.Errorf("peers %v", st.Peers)
		}
		return err
	})
}

// Two machines with one name, a different configuration, a copied disk: each is refused with a message that names the conflict,
// and the other nodes continue.
func TestAgent_ConflictingIdentity_IsRefused(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3})
	pods := onePodEach(t, l)
	for _, tc := range []struct{ name, change, want string }{
		{"another node's name", "sed -i 's/nodeName: n2/nodeName: n1/' /etc/warren/config.yaml; rm -rf /var/lib/warren",
			"belongs to another machine that is alive"},
		{"another Pod range", "sed -i 's/10.42.0.0/10.77.0.0/' /etc/warren/config.yaml",
			"podCIDRs: [10.77.0.0/16] here, [10.42.0.0/16] in the cluster"},
		{"a renamed node", "sed -i 's/nodeName: n2/nodeName: other/' /etc/warren/config.yaml",
			`belongs to node "n2" but this node is "other"`},
		{"an unknown key", "echo 'prot: 1' >> /etc/warren/config.yaml", `unknown key "prot"`},
		{"a newer record", `sed -i 's/"v":1/"v":9/' /var/lib/warren/blocks.json`, "layout version 9 is newer"},
		{"garbage for a key", "head -c 20 /dev/urandom > /var/lib/warren/private.key", "private.key"},
		{"a key others can read", "chmod 644 /var/lib/warren/private.key", "private.key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := l.StopAgent("n2", syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			sh(t, l, "n2", "rm -rf /run/saved; mkdir /run/saved; cp -a /etc/warren/config.yaml /var/lib/warren /run/saved/")
			sh(t, l, "n2", tc.change)
			defer func() {
				_ = l.StopAgent("n2", syscall.SIGKILL)
				sh(t, l, "n2", "cp -a /run/saved/config.yaml /etc/warren/; rm -rf /var/lib/warren; cp -a /run/saved/warren /var/lib/")
			}()
			k := begin(t, l, on(l, "n2"), l.Exe, "agent")
			testutil.Eventually(t, tc.name, func() error {
				if !strings.Contains(k.text(), tc.want) {
					return fmt.Errorf("expected %q in:\n%s", tc.want, k.text())
				}
				return nil
			})
			k.stop(syscall.SIGKILL)
			mustCall(t, l, pods[0], pods[2])
		})
	}
	if err := l.StartAgent("n2"); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "n2 is reachable again", func() error { _, err := calls(l, pods[0], pods[1].Addresses[0]); return err })
}

// uninstall leaves nothing, and refuses while the agent runs.
func TestUninstall_Node_LeavesNothing(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	onePodEach(t, l)
	if _, err := l.Output("n1", l.Exe, "uninstall"); err == nil || !strings.Contains(err.Error(), "stop the agent first") {
		t.Errorf("uninstall under a running agent: %v", err)
	}
	if err := l.StopAgent("n1", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	left := func() string {
		return sh(t, l, "n1", "ip -o link | grep -E 'warren|wrn' ; ip rule | grep -vE '^(0|32766|32767):'; ip -6 rule | grep -vE "+
			"'^(0|32766):'; ip route show table all proto 119; ip -6 route show table all proto 119; ls /etc/cni/net.d; ls -d "+
			"/run/warren /var/run/wireguard/warren0.sock /var/lib/warren 2>/dev/null; sysctl -n net.ipv4.ip_forward | grep 1; true")
	}
	if before := left(); !strings.Contains(before, "warren0") || !strings.Contains(before, "05-warren.conflist") {
		t.Errorf("a stopped agent must leave the data plane in place; found only:\n%s", before)
	}
	for range 2 {
		if out, err := l.Output("n1", l.Exe, "uninstall", "--purge", "--plugin=", "--cni-results="); err != nil {
			t.Errorf("uninstall: %v\n%s", err, out)
		}
	}
	if after := left(); strings.TrimSpace(after) != "" {
		t.Errorf("left after uninstall:\n%s", after)
	}
}

// A node gets another underlay address, and its peers use it.
func TestNode_UnderlayAddressChanges_PeersFollow(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	pods := onePodEach(t, l)
	mustCall(t, l, pods[0], pods[1])
	sh(t, l, "n2", "ip addr add 192.168.77.112/24 dev eth0; ip addr del 192.168.77.12/24 dev eth0; ip addr add 192.168.77.112/24 dev "+
		"eth0 2>/dev/null; true")
	testutil.Eventually(t, "n1 sees the new endpoint", func() error {
		st, err := l.Status(context.Background(), "n1")
		if err == nil && (len(st.Peers) != 1 || st.Peers[0].Endpoint != "192.168.77.112:51820") {
			err = fmt.Errorf("peers %+v", st.Peers)
		}
		return err
	})
	testutil.Eventually(t, "Pods reach each other at the new address", func() error {
		_,
			err := calls(l, pods[0], pods[1].Addresses[0])
		return err
	})
}

// A node has endpoints of both families and the preferred one does not answer: peers use the next one within seconds.
func TestNode_FirstEndpointBlocked_NextIsUsed(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: IPv4, Underlay: Dual})
	pods := onePodEach(t, l)
	mustCall(t, l, pods[0], pods[1])
	for _, n := range l.NodeNames() {
		// IPv4 fails between the nodes: a blackhole route on each node, in the place of a broken router.
		other := map[string]string{"n1": "192.168.77.12", "n2": "192.168.77.11"}[n]
		sh(t, l, n, "ip route add blackhole "+other+"/32")
	}
	for _, n := range l.NodeNames() {
		if err := l.Restart(context.Background(), n); err != nil {
			t.Fatal(err)
		}
	}
	testutil.Eventually(t, "Pods reach each other over the other endpoint", func() error {
		_,
			err := calls(l, pods[0], pods[1].Addresses[0])
		return err
	})
	st, err := l.Status(context.Background(), "n1")
	if err != nil || !strings.HasPrefix(st.Peers[0].Endpoint, "[fd77::c]") {
		t.Errorf("endpoint %v err %v, expected the IPv6 one", st.Peers, err)
	}
}

// Nodes behind a cut link do not answer, other nodes do; after Heal all do.
func TestPartition_LinkCut_StatusReportsAndHeals(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3})
	pods := onePodEach(t, l)
	mustCall(t, l, pods[0], pods[1])
	if err := l.Cut("n1", "n2"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.PodOutput(pods[0], "ping", "-c1", "-W1", pods[1].Addresses[0].String()); err == nil {
		t.Error("a Pod behind the cut link answered")
	}
	mustCall(t, l, pods[0], pods[2])
	mustCall(t, l, pods[1], pods[2])
	if err := l.HealAll(); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "after the cut", func() error { _, err := calls(l, pods[0], pods[1].Addresses[0]); return err })
	if err := errors.Join(l.Cut("n1", "n2"), l.Heal("n1", "n2"), l.Heal("n1", "n2")); err != nil {
		t.Error(err)
	}
	if err := l.Cut("n1", "n9"); err == nil {
		t.Error("a cut to an unknown machine was accepted")
	}
}

// A host with stock WireGuard joins as an external peer and exchanges traffic in both directions.
func TestExternalPeer_StockWireGuard_ReachesPods(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	pods := onePodEach(t, l)
	st, err := l.Status(context.Background(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	stock := buildStock(t)
	// etcd1 is a machine of the lab that is not a node.
	begin(t, l, on(l, "etcd1"), stock, "-f", "wg0")
	var pub string
	testutil.Eventually(t, "stock wireguard-go", func() error {
		pub, err = l.Output("etcd1", "sh", "-ec", `umask 077; wg genkey >/run/k; wg set wg0 private-key /run/k listen-port 51821 peer `+
			st.PublicKey+
			` endpoint 192.168.77.11:51820 allowed-ips `+st.PodCIDRs[0].String()+
			`; ip addr replace 10.99.0.5/32 dev wg0; ip link set wg0 mtu 1420 up; ip route replace `+st.PodCIDRs[0].String()+
			` dev wg0; wg pubkey </run/k`)
		return err
	})
	pub = strings.TrimSpace(pub)
	if out, err := l.Output("n1", l.Exe, "peer", "add", "laptop", pub, "--allowed-ips", "10.42.0.0/16"); err == nil ||
		!strings.Contains(err.Error(), "overlaps") {
		t.Errorf("a external peer that claims the nodes' Pod CIDRs: %v %s", err, out)
	}
	sh(t, l, "n1", l.Exe+" peer add laptop "+pub+" --allowed-ips 10.99.0.5/32")
	sh(t, l, "n1", "ip route replace 10.99.0.5/32 dev warren0")
	testutil.Eventually(t, "laptop to Pod", func() error {
		out, err := l.Output("etcd1", "curl", "-sS", "--max-time", "3", "http://"+host(pods[0].Addresses[0])+"/")
		if err == nil && !strings.Contains(out, "client=10.99.0.5:") {
			err = errors.New(out)
		}
		return err
	})
	k := begin(t, l, on(l, "etcd1"), l.Exe, "lab", "echo", "--tcp", "", "--udp", "")
	testutil.Eventually(t, "Pod to laptop", func() error {
		out, err := l.PodOutput(pods[0], "curl", "-sS", "--max-time", "3", "http://10.99.0.5/")
		if err == nil && !strings.Contains(out, "client="+pods[0].Addresses[0].String()) {
			err = errors.New(out)
		}
		return err
	})
	k.stop(syscall.SIGKILL)
	if out := sh(t, l, "n1", l.Exe+" peer list; "+l.Exe+" status"); !strings.Contains(out, "laptop") || !strings.Contains(out, "external") {
		t.Errorf("the external peer is not shown:\n%s", out)
	}
	sh(t, l, "n1", l.Exe+" peer rm "+pub)
	testutil.Eventually(t, "the peer is gone", func() error {
		if out, err := l.Output("n1", "wg", "show", "warren0", "peers"); err != nil || strings.Contains(out, pub) {
			return fmt.Errorf("%v %s", err, out)
		}
		return nil
	})
}

// wg(8) shows the actual state in all its forms, and receives an error for changes that it must not make.
func TestUAPI_WgTool_ShowsAndRefusesChanges(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3})
	pods := onePodEach(t, l)
	mustCall(t, l, pods[0], pods[1])
	st, err := l.Status(context.Background(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	show := sh(t, l, "n1", "wg show; wg show all; wg show interfaces; wg show warren0 dump; wg show warren0 peers; wg show warren0 "+
		"allowed-ips; wg show warren0 endpoints; wg show warren0 transfer; wg show warren0 latest-handshakes; wg show warren0 "+
		"listen-port; wg showconf warren0")
	for _, p := range st.Peers {
		if !strings.Contains(show, p.PublicKey) || !strings.Contains(show, p.AllowedIPs[0].String()) {
			t.Errorf("wg show misses %s %v:\n%s", p.Name, p.AllowedIPs, show)
		}
	}
	if !regexp.MustCompile(`(?m)^51820$`).MatchString(show) || !strings.Contains(show, "public key: "+st.PublicKey) {
		t.Errorf("wg show misses the port or the key:\n%s", show)
	}
	for _, refused := range []string{"wg set warren0 listen-port 4000", "wg genkey | wg set warren0 private-key /dev/stdin"} {
		if out, err := l.Output("n1", "sh", "-c", refused); err == nil {
			t.Errorf("%q was accepted: %s", refused, out)
		}
	}
	mustCall(t, l, pods[0], pods[2])
}

// Only root can use the local API, and invalid input on its socket has no effect.
func TestLocalAPI_InvalidRequests_ReturnError(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 1})
	if fi, err := os.Stat(l.Socket("n1")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v err %v, expected 0600", fi.Mode(), err)
	}
	for _, garbage := range []string{"printf 'GET / HTTP/9.9\r\n\r\n'", "head -c 100000 /dev/urandom",
		"printf 'POST /v1/cni/add HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{{{{{'",
		"printf 'POST /v1/peers HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}'"} {
		_, _ = l.Output("n1", "sh", "-c", garbage+
			" | timeout 1 python3 -c 'import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(\"/run/warren/agent.sock\"); "+
			"s.sendall(sys.stdin.buffer.read()); s.recv(100)' 2>/dev/null; true")
	}
	if err := l.call(context.Background(), "n1", api.ReadyPath, nil); err != nil {
		t.Errorf("after garbage: %v", err)
	}
	if _, err := l.Output("n1", l.Exe, "agent"); err == nil || !strings.Contains(err.Error(), "another agent runs") {
		t.Errorf("a second agent on the node: %v", err)
	}
}

// etcd stops to answer without closing a connection. The status and the metric report it within two lease TTLs, although no request of
// the watch fails, and follow when it answers again.
func TestEtcd_StopsAnswering_StoreIsReportedUnreachable(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 1})
	etcd := l.Pid("etcd1", "etcd")
	connected := func(want bool) error {
		st, err := l.Status(t.Context(), "n1")
		if err != nil {
			return err
		}
		reported := slices.ContainsFunc(st.Problems, func(p string) bool { return strings.Contains(p, "etcd is unreachable: ") })
		m, err := l.Output("n1", "sh", "-c", "curl -sS 127.0.0.1:9551/metrics | grep '^warren_store_connected '")
		if err != nil {
			return err
		}
		if st.Store.Connected != want || reported == want || strings.TrimSpace(m) != map[bool]string{true: "warren_store_connected 1",
			false: "warren_store_connected 0"}[want] {
			return fmt.Errorf("store %+v, problems %q, metric %s, expected connected: %v", st.Store, st.Problems, m, want)
		}
		return nil
	}
	testutil.Eventually(t, "the store is connected", func() error { return connected(true) })
	if err := syscall.Kill(etcd, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(etcd, syscall.SIGCONT) })
	testutil.EventuallyWithin(t, time.Minute, "the store is reported as unreachable", func() error { return connected(false) })
	st, err := l.Status(t.Context(), "n1")
	if err != nil || !st.Ready || time.Since(st.Store.Since) < snapshot.AnswerLimit {
		t.Errorf("ready %v, unreachable since %s, %v: expected ready, and the time of the last answer", st.Ready, st.Store.Since, err)
	}
	if err := syscall.Kill(etcd, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testutil.EventuallyWithin(t, time.Minute, "the store is connected again", func() error { return connected(true) })
}
