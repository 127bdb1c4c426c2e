package lab

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/warrennet/warren/doctor"
	"github.com/warrennet/warren/internal/testutil"
)

// examine runs the doctor on a node.
func examine(t *testing.T, l *Lab, node string) map[string]doctor.Finding {
	t.Helper()
	out, _ := l.Output(node, "sh", "-c", l.Exe+" doctor -o json; true") // it exits with an error if it finds problems
	var found []doctor.Finding
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatalf("doctor: %v\n%s", err, out)
	}
	worst := map[string]doctor.Finding{}
	for _, f := range found {
		if have, ok := worst[f.Check]; !ok || doctor.Worst([]doctor.Finding{have, f}) != have.Level {
			worst[f.Check] = f
		}
	}
	return worst
}

// The doctor has no findings on a healthy node. It finds a path MTU below the configured MTU, a blocked port, the files of another
// network and rules of a kube-proxy.
func TestDoctor_FaultyNode_FindsTheFault(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	testutil.Eventually(t, "a healthy node", func() error {
		for _, check := range []string{"kernel", "TUN device", "agent", "conflist", "kube-proxy", "forwarding", "ranges", "tunnel", "MTU"} {
			if f := examine(t, l, "n1")[check]; f.Level != doctor.OK {
				return fmt.Errorf("%+v", f)
			}
		}
		return nil
	})
	expect := func(check string, level doctor.Level) {
		t.Helper()
		testutil.Eventually(t, "the doctor sees: "+check, func() error {
			if f := examine(t, l, "n1")[check]; f.Level != level {
				return fmt.Errorf("%+v", f)
			}
			return nil
		})
	}
	switchLink(t, l, "n2", 1300)
	expect("MTU", doctor.Problem)
	switchLink(t, l, "n2", 1500)
	expect("MTU", doctor.OK)
	if err := l.Cut("n1", "n2"); err != nil {
		t.Fatal(err)
	}
	expect("tunnel", doctor.Problem)
	if err := l.HealAll(); err != nil {
		t.Fatal(err)
	}
	expect("tunnel", doctor.OK)
	sh(t, l, "n1", "nft add table ip kube-proxy; nft add chain ip kube-proxy services")
	expect("kube-proxy", doctor.Problem)
	sh(t, l, "n1", "nft delete table ip kube-proxy; echo '{}' >/etc/cni/net.d/00-other.conf")
	expect("conflist", doctor.Problem)
}

// switchLink sets the MTU of a machine's port at the switch: a larger packet is dropped there without an ICMP error.
func switchLink(t *testing.T, l *Lab, machine string, mtu int) {
	t.Helper()
	if out, err := l.Output(switchName, "ip", "link", "set", machine, "mtu", fmt.Sprint(mtu)); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}
