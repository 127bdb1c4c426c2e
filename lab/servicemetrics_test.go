package lab

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// metric reads one series of a node, 0 for one that it does not serve.
func metric(t *testing.T, l *Lab, node, series string) float64 {
	t.Helper()
	for _, line := range strings.Split(sh(t, l, node, "curl -s 127.0.0.1:9551/metrics"), "\n") {
		if text, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// Traffic through a Service is counted on the node of the client, in both directions, and only once.
func TestServiceMetrics_Traffic_CountedOnce(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := labelled(t, l, "n1", "client", "app=client")
	labelled(t, l, "n2", "web", "app=web")
	applyYAML(t, l, web("web", "app: web", ""))
	vip := getSvc(t, l, "web").ips(t)[0]
	mustConnect(t, fromPod(l, client), vip, 7, 7, "web", client.Addresses[0])
	series := func(name, direction string) string {
		return fmt.Sprintf(`warren_service_%s_total{direction="%s",service="default/web"}`, name, direction)
	}
	const connections = `warren_service_connections_total{service="default/web"}`
	opened, before := metric(t, l, "n1", connections), metric(t, l, "n1", series("bytes", "request"))
	if opened < 2 || before == 0 || metric(t, l, "n1", series("bytes", "reply")) == 0 ||
		metric(t, l, "n1", series("packets", "reply")) < 3 {
		t.Errorf("n1 counts %v connections and %v bytes", opened, before)
	}
	const size = 3 << 20
	script := fmt.Sprintf(`exec 3<>/dev/tcp/%s/7; read -r x <&3; head -c %d /dev/zero >&3 & head -c %d <&3 | wc -c; wait`, vip, size, size)
	if out, err := l.PodOutput(client, "timeout", "60", "bash", "-c", script); err != nil || strings.TrimSpace(out) != strconv.Itoa(size) {
		t.Fatalf("%v %s", err, out)
	}
	for _, direction := range []string{"request", "reply"} {
		if n := metric(t, l, "n1", series("bytes", direction)); n < size || n > 1.3*size+before+1e5 {
			t.Errorf("%s: %v bytes counted, %d sent", direction, n, size)
		}
	}
	if n := metric(t, l, "n1", connections); n != opened+1 {
		t.Errorf("%v connections after %v and one more", n, opened)
	}
	if n := metric(t, l, "n2", series("bytes", "request")); n != 0 {
		t.Errorf("the backend's node counts %v bytes as well", n)
	}
}
