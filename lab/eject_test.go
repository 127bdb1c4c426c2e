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
	failed := 0
	call := func(n int) (reached string) {
		t.Helper()
		script := fmt.Sprintf(
			`for i in $(seq %d); do (exec 3<>/dev/tcp/%s/7 && read -r x <&3 && echo "$x") 2>/dev/null || echo failed; done`, n, vip)
		out, err := l.PodOutput(client, "timeout", "60", "bash", "-c", script)
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
		if call(20); ejections() == 0 {
			return fmt.Errorf("%d connections failed", failed)
		}
		return nil
	})
	call(100)
	if n := ejections(); failed != after+n-1 {
		t.Errorf("%d connections failed until %d ejections, expected %d and one for each more", failed, n, after)
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
	before := failed
	if out := call(100); failed != before || !strings.Contains(out, "host=closed") {
		t.Errorf("%d connections failed at the end\n%s", failed-before, out)
	}
	if out := sh(t, l, "n1", l.Exe+" endpoints default/web"); strings.Contains(out, "ejected") {
		t.Errorf("endpoints printed\n%s", out)
	}
}
