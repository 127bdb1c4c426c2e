package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// waiter accepts connections and waits for bytes, without keepalive probes.
const waiter = `
import socket, threading
s = socket.socket(socket.AF_INET6)
s.setsockopt(41, 26, 0)
s.bind(("", 7))
s.listen()
def wait(c):
    while c.recv(1):
        pass
while True:
    c = s.accept()[0]
    c.send(b"hello\n")
    threading.Thread(target=wait, args=(c,)).start()
`

// When a Service is deleted, its connections end at both endpoints with the client's next byte. The backend, which only reads,
// receives a peer reset.
func TestPeerReset_ServiceDeleted_BothEndsAreReset(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := labelled(t, l, "n1", "client", "app=client")
	for name, node := range map[string]string{"near": "n1", "far": "n2"} {
		b, err := l.RunPod(t.Context(), PodSpec{Node: node, Name: name, Labels: map[string]string{"app": name},
			Args: []string{"python3", "-c", waiter}})
		if err != nil {
			t.Fatal(err)
		}
		applyYAML(t, l, web(name, "app: "+name, ""))
		vip := getSvc(t, l, name).ips(t)[0]
		k := begin(t, l, in(l, client), "bash",
			"-c", fmt.Sprintf(
				`trap '' PIPE; until exec 3<>/dev/tcp/%s/7; do sleep 0.1; done; read -r x <&3; echo $x; while echo x >&3; do sleep 0.1; done`, vip))
		testutil.Eventually(t, "open", func() error {
			if !strings.Contains(k.text(), "hello") {
				return errors.New(k.text())
			}
			return nil
		})
		sh(t, l, "n1", l.Exe+" delete svc "+name)
		_, _ = k.wait(t, 45e9) // it ends with an error
		testutil.Eventually(t, name+" has let go", func() error {
			out, err := l.PodOutput(b, "ss", "-Htn", "state", "established")
			if strings.TrimSpace(out) != "" {
				err = errors.New(out)
			}
			return err
		})
	}
}

// The flow table on disk may be older than the newest connections. They continue nevertheless after the agent was killed.
func TestFlows_AgentKilledAfterConnect_ConnectionContinues(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := labelled(t, l, "n1", "client", "app=client")
	b, err := l.RunPod(t.Context(), PodSpec{Node: "n2", Name: "far", Labels: map[string]string{"app": "far"},
		Args: []string{"python3", "-c", waiter}})
	if err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "the Pods are kept", func() error { return kept(l) })
	disk := filepath.Join(l.machineDir("n1"), "lib", "warren", "snapshot.json")
	old, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	applyYAML(t, l, web("far", "app: far", ""))
	vip := getSvc(t, l, "far").ips(t)[0]
	k := begin(t, l, in(l, client), "bash",
		"-c", fmt.Sprintf(`until exec 3<>/dev/tcp/%s/7; do sleep 0.01; done; read -r x <&3; echo $x; while echo x >&3; do sleep 0.1; done`,
			vip))
	testutil.Eventually(t, "open", func() error {
		if !strings.Contains(k.text(), "hello") {
			return errors.New(k.text())
		}
		return nil
	})
	goesOn := func(when string) {
		t.Helper()
		select {
		case err := <-k.done:
			k.done <- err
			t.Fatalf("%s the connection has ended: %v %s", when, err, k.text())
		case <-time.After(2 * time.Second):
		}
	}
	if err := errors.Join(l.StopAgent("n1", syscall.SIGKILL), l.StopEtcd("etcd1", syscall.SIGKILL), os.WriteFile(disk, old, 0o600),
		l.StartAgent("n1")); err != nil {
		t.Fatal(err)
	}
	if err := l.waitNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	goesOn("without etcd")
	if err := l.StartEtcd("etcd1"); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "the agent has met etcd", func() error { return peersKnown(l, 1) })
	goesOn("with etcd")
	if out, err := l.PodOutput(b, "ss", "-Htn", "state", "established"); err != nil || strings.TrimSpace(out) == "" {
		t.Errorf("the connection is gone: %v %q", err, out)
	}
}
