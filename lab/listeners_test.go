package lab

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// loggedPorts collects the ports that a node's agent has named in a message.
func loggedPorts(t *testing.T, l *Lab, node, message string) map[int]bool {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(l.machineDir(node), "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]bool{}
	for _, m := range regexp.MustCompile(message+`.*" ports="?\[([0-9 ]+)\]`).FindAllStringSubmatch(string(raw), -1) {
		for _, s := range strings.Fields(m[1]) {
			n, _ := strconv.Atoi(s)
			out[n] = true
		}
	}
	return out
}

// The agent reports host programs that listen on ports that policy routing redirects to the tunnel, also on node ports of a Service.
// It does not report its own sockets, and reserves no masquerade port for them.
func TestListeners_HostPrograms_AreReported(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 1, Family: Dual})
	if _, err := l.RunPod(t.Context(), PodSpec{Node: "n1", Name: "w", Labels: map[string]string{"app": "w"}, Ports: []PortMapping{
		{HostPort: 15000, ContainerPort: 80, Protocol: "tcp"}, {HostPort: 15001, ContainerPort: 7, Protocol: "udp"}}}); err != nil {
		t.Fatal(err)
	}
	applyYAML(t, l, web("w", "app: w", "  type: NodePort"))
	ports := getSvc(t, l, "w").Spec.Ports
	tcp, udp := ports[1].NodePort, ports[2].NodePort
	own := []string{fmt.Sprintf("[::1]:%d", ports[0].NodePort), fmt.Sprintf("[::1]:%d", tcp), fmt.Sprintf("[::1]:%d", udp), "[::1]:15000",
		"[::1]:15001", fmt.Sprintf("%s:%d", l.Spec.underlayAddrs("n1")[0].Addr(), udp)}
	testutil.Eventually(t, "the agent's sockets", func() error {
		all := sh(t, l, "n1", "ss -Hltun")
		for _, at := range own {
			if !strings.Contains(all, at+" ") {
				return fmt.Errorf("%s is not there:\n%s", at, all)
			}
		}
		return nil
	})
	begin(t, l, on(l, "n1"), l.Exe, "lab", "echo", "--http", ":15021", "--tcp", fmt.Sprintf("127.0.0.1:%d", tcp),
		"--udp", fmt.Sprintf("127.0.0.1:%d", udp))
	const reserved, unreachable = "reserved masquerade ports that host programs listen on", "host listeners are unreachable"
	wantReserved, wantUnreachable := map[int]bool{15021: true}, map[int]bool{tcp: true, udp: true}
	covers := func(got, want map[int]bool) bool {
		for n := range want {
			if !got[n] {
				return false
			}
		}
		return true
	}
	testutil.Eventually(t, "the agent logs the ports of the program", func() error {
		if !covers(loggedPorts(t, l, "n1", reserved), wantReserved) || !covers(loggedPorts(t, l, "n1", unreachable), wantUnreachable) {
			return errors.New("not yet")
		}
		return nil
	})
	if got := loggedPorts(t, l, "n1", reserved); !maps.Equal(got, wantReserved) {
		t.Errorf("left to host programs: %v, expected %v", got, wantReserved)
	}
	if got := loggedPorts(t, l, "n1", unreachable); !maps.Equal(got, wantUnreachable) {
		t.Errorf("host programs that cannot be reached: %v, expected %v", got, wantUnreachable)
	}
	mustConnect(t, fromMachine(l, "etcd1"), l.Spec.underlayAddrs("n1")[0].Addr(), tcp, udp, "w", netip.Addr{})
}
