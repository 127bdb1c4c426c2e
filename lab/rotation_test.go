package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// lossInSecond matches the lost and the sent packets in the report of iperf3's server for a second.
var lossInSecond = regexp.MustCompile(`(?m) (\d+)/(\d+) \(\S+\) *$`)

// lossOf ends a UDP stream and returns the lost and the sent packets.
func lossOf(t *testing.T, k load) (lost, sent int) {
	t.Helper()
	finish(t, k)
	for _, m := range lossInSecond.FindAllStringSubmatch(k.server.text(), -1) {
		lost += testutil.Value[int](t)(strconv.Atoi(m[1]))
		sent += testutil.Value[int](t)(strconv.Atoi(m[2]))
	}
	return lost, sent
}

// keysOf are the public keys of all nodes.
func keysOf(t *testing.T, l *Lab) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, n := range l.NodeNames() {
		st, err := l.Status(t.Context(), n)
		testutil.Must(t, err)
		out[n] = st.PublicKey
	}
	return out
}

// While UDP streams run between the nodes in both directions, all nodes replace their keys: no packet is lost. A TCP stream does not
// break.
func TestKeyRotate_StreamsBetweenNodes_NoPacketIsLost(t *testing.T) {
	l := start(t, Spec{Nodes: 3})
	pods := onePodEach(t, l)
	before := keysOf(t, l)
	// 200 packets per second: few enough that a busy machine drops none, and a gap of 5 ms loses one.
	there := stream(t, l, pods[0], pods[1], "-u", "-b", "160K", "-l", "100")
	back := stream(t, l, pods[1], pods[2], "-u", "-b", "160K", "-l", "100")
	tcp := stream(t, l, pods[2], pods[0], "-b", "10M")
	sh(t, l, "n2", l.Exe+" key rotate")
	after := keysOf(t, l)
	if after["n2"] == before["n2"] || after["n1"] != before["n1"] || after["n3"] != before["n3"] {
		t.Errorf("keys after the rotation of n2: %v, before: %v", after, before)
	}
	sh(t, l, "n1", l.Exe+" key rotate --all")
	testutil.EventuallyWithin(t, time.Minute, "new keys of all nodes", func() error {
		for n, k := range keysOf(t, l) {
			if k == after[n] {
				return fmt.Errorf("%s has its former key", n)
			}
		}
		return nil
	})
	for name, k := range map[string]load{"n1 to n2": there, "n2 to n3": back} {
		if lost, sent := lossOf(t, k); lost > 0 || sent < 1000 {
			t.Errorf("%s: %d of %d packets lost", name, lost, sent)
		} else {
			t.Logf("%s: %d of %d packets lost", name, lost, sent)
		}
	}
	t.Logf("TCP: longest time without data: %s", finish(t, tcp))
	for _, n := range l.NodeNames() {
		if out := sh(t, l, n, "ls /var/lib/warren"); strings.Contains(out, "next.key") {
			t.Errorf("%s has a next key after the rotation", n)
		}
		killAndStart(t, l, n) // the new key is on the disk
	}
	for i := range pods {
		mustCall(t, l, pods[i], pods[(i+1)%len(pods)])
	}
}

// Nodes with the same pre-shared key have a tunnel, also while one of them replaces its key. A node with another one has none.
func TestPresharedKey_NodeWithAnotherKey_HasNoTunnel(t *testing.T) {
	dir := t.TempDir()
	agent := map[string]any{}
	other := map[string]any{}
	for name, into := range map[string]map[string]any{"a": agent, "b": other} {
		file := filepath.Join(dir, name)
		raw := strings.Repeat(name, 42) + "Y=\n"
		testutil.Must(t, os.WriteFile(file, []byte(raw), 0o600))
		into["presharedKeyFile"] = file
	}
	l := start(t, Spec{Nodes: 3, Agent: agent, Node: map[string]NodeSpec{"n3": {Agent: other}}})
	pods := onePodEach(t, l)
	mustCall(t, l, pods[0], pods[1])
	if out, err := calls(l, pods[0], pods[2].Addresses[0]); err == nil {
		t.Errorf("a node with another pre-shared key answers: %s", out)
	}
	sh(t, l, "n2", l.Exe+" key rotate")
	mustCall(t, l, pods[0], pods[1])
}
