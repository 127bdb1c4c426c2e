package lab

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/warrennet/warren/internal/api"
)

// podsOf is the output of `warren pod list` on a node, by name.
func podsOf(t *testing.T, l *Lab, node string) map[string]api.Pod {
	t.Helper()
	var list []api.Pod
	if err := json.Unmarshal([]byte(sh(t, l, node, l.Exe+" pod list -o json")), &list); err != nil {
		t.Fatal(err)
	}
	out := map[string]api.Pod{}
	for _, p := range list {
		out[p.Namespace+"/"+p.Name] = p
	}
	return out
}

// A Pod whose server stops leaves its Service and returns with the server, also across a restart of the agent.
func TestPodProbe_FailingPod_LeavesService(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := fromPod(l, labelled(t, l, "n2", "client", "app=client"))
	labelled(t, l, "n2", "far", "app=web")
	near := labelled(t, l, "n1", "near", "app=web")
	// The probed server is one of its own, so that the Service's address still answers when it is led there by mistake.
	serve := func() *task {
		return begin(t, l, in(l, near), l.Exe, "lab", "echo", "--tcp", ":9000", "--udp", "", "--http", ":9001")
	}
	server := serve()
	applyYAML(t, l, web("web", "app: web", ""))
	vip := getSvc(t, l, "web").ips(t)[0]
	connect := func() (string, error) {
		line, _, err := client.connect(vip, 7, 7)
		return line, err
	}
	onlyHosts(t, client, connect, "far", "near")
	for _, probe := range []string{"tcp:9000", "http:9001/healthz"} {
		sh(t, l, "n1", l.Exe+" pod probe default/near "+probe+" --interval 200ms --failures 2")
		onlyHosts(t, client, connect, "far", "near")
		server.stop(syscall.SIGKILL)
		onlyHosts(t, client, connect, "far")
		if p := podsOf(t, l, "n1")["default/near"]; p.Ready || !strings.Contains(p.ProbeError, "refused") {
			t.Errorf("pod list: %+v", p)
		}
		if out := sh(t, l, "n1", l.Exe+" endpoints default/web"); !strings.Contains(out, "not ready") {
			t.Errorf("endpoints printed %s", out)
		}
		server = serve()
		onlyHosts(t, client, connect, "far", "near")
	}

	server.stop(syscall.SIGKILL)
	onlyHosts(t, client, connect, "far")
	killAndStart(t, l, "n1")
	for range 20 {
		if line, err := connect(); err != nil || !strings.HasPrefix(line, "host=far ") {
			t.Fatalf("after a restart of the agent: %q %v", line, err)
		}
	}
	serve()
	onlyHosts(t, client, connect, "far", "near")
	if p := podsOf(t, l, "n1")["default/near"]; p.Probe == nil || p.Probe.Kind != "http" || p.Probe.Path != "/healthz" || !p.Ready {
		t.Errorf("after the restart of the agent: %+v", p)
	}
	sh(t, l, "n1", l.Exe+" pod probe near tcp:1 --interval 100ms --failures 1")
	onlyHosts(t, client, connect, "far")
	sh(t, l, "n1", l.Exe+" pod probe near none")
	onlyHosts(t, client, connect, "far", "near")
	for args, want := range map[string]string{
		"near tcp:x":               "expected tcp:PORT",
		"near tcp:0":               "port 0",
		"near tcp:80 --interval 0": "interval 0ms",
		"far tcp:80":               `no Pod "default/far" on this node`,
	} {
		if out, err := l.Output("n1", "sh", "-c", l.Exe+" pod probe "+args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pod probe %s: %v %s, expected %q", args, err, out, want)
		}
	}
	sh(t, l, "n1", fmt.Sprintf("%s pod probe near tcp:9000", l.Exe))
	if err := l.RemovePod(near); err != nil {
		t.Fatal(err)
	}
	onlyHosts(t, client, connect, "far")
}
