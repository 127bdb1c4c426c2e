package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/testutil"
)

// A node's client certificate does not open the peer port of etcd (E19), which the members use among themselves.
func TestEtcd_NodeCertificateAtPeerPort_IsRefused(t *testing.T) {
	l := start(t, Spec{Nodes: 1, Etcd: 3})
	curl := "curl -sS --http1.1 --max-time 5 --cacert " + pkiInside + "/ca.crt --cert " + pkiInside + "/tls.crt --key " + pkiInside +
		"/tls.key "
	for _, path := range []string{"/members", "/raft/probing"} {
		url := l.Spec.etcdURL("etcd1", etcdPeerPort) + path
		if out, err := l.Output("n1", "sh", "-c", curl+url); err == nil {
			t.Errorf("%s answered a node: %s", path, out)
		}
		if out := sh(t, l, "etcd2", curl+url); path == "/members" && !strings.Contains(out, "etcd1") {
			t.Errorf("%s answered another member: %q", path, out)
		}
	}
}

// hostileEnv makes this program the process of a compromised node; see hostile.
const hostileEnv = "WARREN_LAB_HOSTILE"

// hostile writes the record and the liveness key of node n3 again and again, and deletes its revocation, with the certificate of
// the node. It opens a new connection each time. It prints a line for each change of the store's answer.
func hostile() int {
	last := ""
	for {
		answer := "written"
		if err := writeAgain(); err != nil {
			answer = "refused: " + err.Error()
		}
		if answer != last {
			fmt.Println(answer)
			last = answer
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func writeAgain() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cli, err := client.New(client.Config{Endpoints: strings.Split(os.Getenv(hostileEnv), ","), Cluster: "lab-t",
		CAFile: pkiInside + "/ca.crt", CertFile: pkiInside + "/tls.crt", KeyFile: pkiInside + "/tls.key"})
	if err != nil {
		return err
	}
	defer cli.Close()
	raw, err := os.ReadFile("/var/lib/hostile-record")
	if errors.Is(err, fs.ErrNotExist) {
		got, err := cli.Get(ctx, cli.Key("nodes", "n3"))
		if err != nil || len(got.Kvs) != 1 {
			return fmt.Errorf("read the record: %w", err)
		}
		raw = got.Kvs[0].Value
		if err := os.WriteFile("/var/lib/hostile-record", raw, 0o600); err != nil {
			return err
		}
	}
	if _, err := cli.Put(ctx, cli.Key("nodes", "n3"), string(raw)); err != nil {
		return err
	}
	if _, err := cli.Put(ctx, cli.Key("alive", "n3"), "hostile"); err != nil {
		return err
	}
	_, err = cli.Delete(ctx, cli.Key("revoked", "n3"))
	return err
}

// noPeer checks that a node has no WireGuard peer of that name.
func noPeer(l *Lab, node, name string) error {
	st, err := l.Status(context.Background(), node)
	if err != nil {
		return err
	}
	for _, p := range st.Peers {
		if p.Name == name {
			return fmt.Errorf("%s has the peer %s with %v", node, name, p.AllowedIPs)
		}
	}
	return nil
}

// A compromised node that runs, and writes its records again and again, is removed from every node at once, and loses its access to
// etcd (E10). The nodes exclude it also while etcd is down, after a restart with an older snapshot.
func TestNodeRevoke_NodeKeepsWriting_IsExcludedEverywhere(t *testing.T) {
	l := start(t, Spec{Nodes: 3})
	p1, p3 := run(t, l, "n1", "p1"), run(t, l, "n3", "p3")
	mustCall(t, l, p1, p3)
	h := begin(t, l, on(l, "n3"), "env", hostileEnv+"="+strings.Join(l.Spec.etcdURLs(etcdClientPort), ","),
		testutil.Value[string](t)(os.Executable()))
	testutil.Eventually(t, "the first write of the node", func() error { return contains(h.text(), "written") })
	if out, err := l.Output("n1", l.Exe, "node", "rm", "n3"); err == nil {
		t.Errorf("a node whose liveness key exists was removed without --revoke: %s", out)
	}
	snapshot := filepath.Join(l.machineDir("n1"), "lib", "warren", "snapshot.json")
	var before []byte
	testutil.Eventually(t, "n3 in the snapshot on the disk of n1", func() (err error) {
		if before, err = os.ReadFile(snapshot); err != nil {
			return err
		}
		return contains(string(before), `"name":"n3"`)
	})
	began := time.Now()
	revoke := begin(t, l, on(l, "n1"), l.Exe, "node", "rm", "--revoke", "n3")
	for _, n := range []string{"n1", "n2"} {
		testutil.Eventually(t, "removal of the peer", func() error { return noPeer(l, n, "n3") })
		t.Logf("%s has no peer n3 after %s, the start of the command included", n, time.Since(began).Round(time.Millisecond))
	}
	testutil.Eventually(t, "refusal by etcd", func() error { return contains(h.text(), "refused: ") })
	if out, err := revoke.wait(t, time.Minute); err != nil || !strings.Contains(out, "node n3 revoked") {
		t.Errorf("node rm --revoke: %v %s", err, out)
	}
	if err := contains(h.text(), "the client certificate of \"n3\" was revoked"); err != nil {
		t.Error(err)
	}
	if out, err := calls(l, p1, p3.Addresses[0]); err == nil {
		t.Errorf("a Pod of the revoked node answers: %s", out)
	}
	if out, err := l.Output("n1", l.Exe, "node", "rm", "--former", "n3"); err == nil || !strings.Contains(err.Error()+out, "no node n3") {
		t.Errorf("the record is in the store: %v %s", err, out)
	}
	if out := sh(t, l, "n1", l.Exe+" node revoked"); !strings.Contains(out, "n3 revoked at") {
		t.Errorf("node revoked: %q", out)
	}
	testutil.Must(t, l.StopAgent("n1", syscall.SIGTERM))
	testutil.Must(t, l.StopEtcd("etcd1", syscall.SIGKILL))
	testutil.Must(t, os.WriteFile(snapshot, before, 0o600))
	testutil.Must(t, l.StartAgent("n1"))
	testutil.Must(t, l.waitNode(t.Context(), "n1"))
	testutil.Must(t, noPeer(l, "n1", "n3"))
	if noPeer(l, "n1", "n2") == nil {
		t.Error("n1 has no peer n2 without etcd")
	}
}

func contains(text, want string) error {
	if !strings.Contains(text, want) {
		return fmt.Errorf("%q in %q", want, text)
	}
	return nil
}

// A node that was killed a moment ago still has its liveness key: it is refused without --revoke, and removed with it.
func TestNodeRevoke_AgentKilled_IsExcluded(t *testing.T) {
	l := start(t, Spec{Nodes: 2})
	testutil.Must(t, l.StopAgent("n2", syscall.SIGKILL))
	if _, err := l.Output("n1", l.Exe, "node", "rm", "n2"); err == nil {
		t.Error("a node whose liveness key exists was removed without --revoke")
	}
	sh(t, l, "n1", l.Exe+" node rm --revoke n2")
	testutil.Eventually(t, "removal of the peer", func() error { return noPeer(l, "n1", "n2") })
	testutil.Must(t, l.StartAgent("n2"))
	testutil.Eventually(t, "refusal of the agent", func() error {
		st, err := l.Status(t.Context(), "n2")
		if err != nil {
			return err
		}
		return contains(st.Store.Error, "was revoked")
	})
	testutil.Must(t, noPeer(l, "n1", "n2"))
}
