package lab

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
)

// onlyHosts waits until a Service is answered by exactly these Pods.
func onlyHosts(t *testing.T, c asker, connect func() (string, error), hosts ...string) {
	t.Helper()
	testutil.Eventually(t, fmt.Sprintf("%s is answered by %v alone", c.name, hosts), func() error {
		seen := map[string]bool{}
		for range 12 {
			line, err := connect()
			if err != nil {
				return err
			}
			seen[strings.TrimPrefix(strings.Fields(line)[0], "host=")] = true
		}
		for _, h := range hosts {
			if !seen[h] {
				return fmt.Errorf("%s did not answer, only %v", h, seen)
			}
		}
		if len(seen) != len(hosts) {
			return fmt.Errorf("answered by %v", seen)
		}
		return nil
	})
}

// A Pod joins and leaves a Service by its labels, which outlive the agent.
func TestPodLabels_Changed_ServicesFollow(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := fromPod(l, labelled(t, l, "n2", "client", "app=client"))
	labelled(t, l, "n2", "far", "app=web")
	labelled(t, l, "n1", "p", "app=none")
	applyYAML(t, l, web("web", "app: web", ""))
	vip := getSvc(t, l, "web").ips(t)[0]
	connect := func() (string, error) {
		line, _, err := client.connect(vip, 7, 7)
		return line, err
	}
	onlyHosts(t, client, connect, "far")
	if out := sh(t, l, "n1", l.Exe+" pod label default/p app=web tier=front"); !strings.Contains(out, "app=web,tier=front") {
		t.Errorf("pod label printed %q", out)
	}
	onlyHosts(t, client, connect, "far", "p")

	killAndStart(t, l, "n1")
	onlyHosts(t, client, connect, "far", "p")
	if out := sh(t, l, "n1", l.Exe+" pod list"); !strings.Contains(out, "default/p ") || !strings.Contains(out, " app=web,tier=front ") {
		t.Errorf("pod list printed %s", out)
	}
	sh(t, l, "n1", l.Exe+" pod label p app-")
	onlyHosts(t, client, connect, "far")
	var pods []api.Pod
	if err := json.Unmarshal([]byte(sh(t, l, "n1", l.Exe+" pod list -o json")), &pods); err != nil || len(pods) != 1 ||
		len(pods[0].Labels) != 1 || !pods[0].Ready {
		t.Errorf("pod list -o json: %v %+v", err, pods)
	}
	for args, want := range map[string]string{
		"default/p 'bad key=x'":      "bad key",
		"default/p app=-x":           "metadata.labels[app]",
		"default/p app=x app-":       "set and removed",
		"default/none app=web":       "no Pod \"default/none\" on this node",
		"default/far app=other":      "no Pod \"default/far\" on this node",
		"default/p app":              "neither KEY=VALUE nor KEY-",
		"default/p app=one app=more": "twice",
	} {
		if out, err := l.Output("n1", "sh", "-c", l.Exe+" pod label "+args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pod label %s: %v %s, expected %q", args, err, out, want)
		}
	}
}
