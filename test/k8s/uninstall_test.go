//go:build k8s

package k8s

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// Uninstall leaves a node as it was: no interface, rule, route or file of warren's.
func TestUninstall_Node_LeavesNothing(t *testing.T) {
	kubectl(t, "-n", "warren-system", "patch", "daemonset", "warren", "-p",
		`{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"n1"}}}}}`)
	defer func() {
		kubectl(t, "-n", "warren-system", "patch", "daemonset", "warren", "--type=json", "-p",
			`[{"op":"remove","path":"/spec/template/spec/nodeSelector"}]`)
		kubectl(t, "-n", "warren-system", "rollout", "status", "daemonset/warren", "--timeout=120s")
		agentsReady(t)
		kubectl(t, "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
	}()
	testutil.EventuallyWithin(t, 60*time.Second, "no agent on n3", func() error {
		if out, err := try("n3", "pgrep", "-f", "^[^ ]*warren agent"); err == nil {
			return fmt.Errorf("pid %s", out)
		}
		return nil
	})
	run(t, "n3", repoFile("bin/warren"), "uninstall", "--purge")
	for _, c := range []struct{ what, command string }{
		{"rules", "ip rule; ip -6 rule"}, {"routes", "ip route show table all; ip -6 route show table all"},
		{"links", "ip -o link"}, {"files", "ls -d /etc/cni/net.d/*warren* /run/warren /var/lib/warren 2>/dev/null; true"},
	} {
		if out := run(t, "n3", "sh", "-c", c.command); strings.Contains(out, "warren") || strings.Contains(out, "proto 119") ||
			strings.Contains(out, "wrn") {
			t.Errorf("%s left on the node:\n%s", c.what, out)
		}
	}
}
