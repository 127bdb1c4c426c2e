package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// loopYAML is a Service with a node port whose endpoint is an address and port that the test chooses.
const loopYAML = `
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {type: NodePort, ports: [{name: u, port: 9, protocol: UDP, nodePort: %[2]d, targetPort: %[4]d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: u, port: %[4]d, protocol: UDP}]
endpoints: [{addresses: ["%[3]s"]}]
`

// flowCount is the number of flows in a node's table.
func flowCount(t *testing.T, l *Lab, node string) (n int) {
	t.Helper()
	out := sh(t, l, node, `curl -s 127.0.0.1:9551/metrics | awk '/^warren_flows\{/ {n += $2} END {print n+0}'`)
	if _, err := fmt.Sscan(out, &n); err != nil {
		t.Errorf("flows of %s: %v in %q", node, err, out)
	}
	return n
}

// Two Services with node ports name each other's node port as their endpoint. One datagram used to circulate between the nodes
// and open new flows at every pass. Now the endpoints are refused and reported, on all nodes.
func TestNodePort_EndpointsFormLoop_RefusedAndReported(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := run(t, l, "n1", "client")
	n1, n2 := l.Spec.underlayAddrs("n1")[0].Addr(), l.Spec.underlayAddrs("n2")[0].Addr()
	applyYAML(t, l, fmt.Sprintf(loopYAML, "la", 30001, n2, 30002)+"---"+fmt.Sprintf(loopYAML, "lb", 30002, n1, 30001))
	for _, node := range l.NodeNames() {
		testutil.Eventually(t, node+" reports the endpoints", func() error {
			st, err := l.Status(context.Background(), node)
			if err != nil {
				return err
			}
			for _, name := range []string{"default/la", "default/lb"} {
				if !slices.ContainsFunc(st.Problems, func(s string) bool {
					return strings.Contains(s, "Service "+name) && strings.Contains(s, "is a node port of a Service")
				}) {
					return errors.New(strings.Join(st.Problems, "\n"))
				}
			}
			return nil
		})
	}
	before := flowCount(t, l, "n1") + flowCount(t, l, "n2")
	for range 20 {
		if out, err := l.PodOutput(client, exe, "lab", "get", "--timeout", "100ms", fmt.Sprintf("udp://%s:30001", n1)); err == nil {
			t.Errorf("a Service without a usable endpoint answered %q", out)
		}
	}
	time.Sleep(time.Second) // a loop makes thousands of flows per second
	if n := flowCount(t, l, "n1") + flowCount(t, l, "n2") - before; n > 10 {
		t.Errorf("%d flows for 20 datagrams to a Service without a usable endpoint", n)
	}
}
