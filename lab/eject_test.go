package lab

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// Connections to a backend with a closed port fail until the backend is ejected, and then no longer. It is selected again after
// its port has opened.
func TestEjection_RefusingBackend_IsEjectedAndReturns(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := labelled(t, l, "n1", "client", "app=client")
	labelled(t, l, "n1", "near", "app=web")
	labelled(t, l, "n2", "far", "app=web")
	const after = 3
	applyYAML(t, l, strings.Replace(web("web", "app: web", ""), "{name: web}",
		fmt.Sprintf(`{name: web, annotations: {warren.dev/eject-after: "%d"}}`, after), 1))
	vip := getSvc(t, l, "web").ips(t)[0]
	mustConnect(t, fromPod(l, client), vip, 7, 7, "near far", client.Addresses[0])
	closed, err := l.RunPod(t.Context(), PodSpec{Node: "n2", Name: "closed", Labels: map[string]string{"app": "web"},
		Args: []string{"sleep", "infinity"}})
	if err != nil {
		t.Fatal(err)
	}
	// The failures of one client eject nothing: two clients call in turns.
	second := labelled(t, l, "n1", "second", "app=client")
	failed, calls := 0, 0
	call := func(n int) (reached string) {
		t.Helper()
		script := fmt.Sprintf(
			`for i in $(seq %d); do (exec 3<>/dev/tcp/%s/7 && read -r x <&3 && echo "$x") 2>/dev/null || echo failed; done`, n, vip)
		pods := []*Pod{client, second}
		calls++
		out, err := l.PodOutput(pods[calls%2], "timeout", "60", "bash", "-c", script)
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		failed += strings.Count(out, "failed")
		return out
	}
	ejections := func() int {
		return int(metric(t, l, "n1", `warren_service_ejections_total{service="default/web"}`))
	}
	testutil.Eventually(t, "the closed port is ejected", func() error {
		if call(2); ejections() == 0 {
			return fmt.Errorf("%d connections failed", failed)
		}
		return nil
	})
	if failed < after {
		t.Errorf("ejected after %d failed connections, expected at least %d", failed, after)
	}
	before, ejected := failed, ejections()
	call(100)
	// While it is ejected, a trial may fail: at most one of each client for each further ejection, and the one before it.
	if n := 2 * (ejections() - ejected + 1); failed-before > n {
		t.Errorf("%d connections failed after the ejection, expected at most %d", failed-before, n)
	}
	if out := sh(t, l, "n1", l.Exe+" endpoints default/web"); !strings.Contains(out, "ready, tcp ejected") ||
		strings.Count(out, "ejected") != 1 {
		t.Errorf("endpoints printed\n%s", out)
	}
	begin(t, l, in(l, closed), l.Exe, "lab", "echo", "--http", "", "--udp", "")
	testutil.Eventually(t, "the open port is back", func() error {
		if out := call(20); !strings.Contains(out, "host=closed") {
			return errors.New(out)
		}
		return nil
	})
	before = failed
	if out := call(100); failed != before || !strings.Contains(out, "host=closed") {
		t.Errorf("%d connections failed at the end\n%s", failed-before, out)
	}
	if out := sh(t, l, "n1", l.Exe+" endpoints default/web"); strings.Contains(out, "ejected") {
		t.Errorf("endpoints printed\n%s", out)
	}
}
