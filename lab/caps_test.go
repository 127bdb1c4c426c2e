package lab

import (
	"strings"
	"syscall"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// The agent needs only the three capabilities that docs/operations.md lists as required: it starts, attaches Pods, redirects
// Service traffic, announces load balancer addresses and answers DNS queries.
func TestAgent_MinimalCapabilities_Works(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	if err := l.StopAgent("n1", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	begin(t, l, on(l, "n1"), "setpriv", "--bounding-set", "-all,+net_admin,+net_raw,+net_bind_service", "--inh-caps", "-all", l.Exe,
		"agent")
	testutil.Eventually(t, "the agent is ready", func() error { return l.call(t.Context(), "n1", "/v1/ready", nil) })
	if st, err := l.Status(t.Context(), "n1"); err != nil || !strings.Contains(st.Offload, "operation not permitted") {
		t.Errorf("status reports offload %q %v", st.Offload, err)
	}
	pods := onePodEach(t, l)
	mustCall(t, l, pods[0], pods[1])
	mustCall(t, l, pods[1], pods[0])
	web1 := labelled(t, l, "n1", "web", "app=web")
	applyYAML(t, l, lanPool+"---"+web("web", "app: web", "  type: LoadBalancer\n  externalTrafficPolicy: Local")) // n1 has to announce it
	mustConnect(t, fromPod(l, pods[0]), getSvc(t, l, "web").ips(t)[0], 7, 7, web1.Name, pods[0].Addresses[0])
	for i, a := range lbAddrs(t, l, "web", 2) {
		mustConnect(t, fromMachine(l, "etcd1"), a, 7, 7, web1.Name, addrsOf(l.Spec.underlayAddrs("etcd1"))[i])
	}
	testutil.Eventually(t, "DNS", func() error { _, err := l.PodOutput(pods[0], "getent", "ahosts", "web"); return err })
}
