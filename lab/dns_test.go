package lab

import (
	"fmt"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// Pods resolve Services, Pods of headless Services and nodes through the agent of their node, with the resolv.conf of the plugin.
// A new object resolves as soon as it exists.
func TestDNS_ServicesAndPods_Resolve(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	labelled(t, l, "n1", "web", "app=web")
	client := labelled(t, l, "n2", "client", "app=client")
	applyYAML(t, l, web("web", "app: web", "")+"---"+strings.Replace(web("less", "app: web", ""), "spec:", "spec:\n  clusterIP: None", 1))
	vips := getSvc(t, l, "web").ips(t)
	for _, name := range []string{"web", "web.default", "web.default.svc", "web.default.svc.cluster.local"} {
		testutil.Eventually(t, name, func() error {
			out, err := l.PodOutput(client, "getent", "ahosts", name)
			if err == nil && !strings.Contains(out, vips[0].String()) {
				err = fmt.Errorf("answered %q, expected %s", out, vips[0])
			}
			return err
		})
	}
	mustGet := func(want string, args ...string) {
		t.Helper()
		testutil.Eventually(t, strings.Join(args, " "), func() error {
			out, err := l.PodOutput(client, args...)
			if err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("printed %q, expected %q", out, want)
			}
			return err
		})
	}
	pods, err := l.LabPods()
	if err != nil {
		t.Fatal(err)
	}
	backend := pods[1]
	mustGet(vips[1].String(), "dig", "+short", "AAAA", "web.default.svc.cluster.local")
	mustGet(backend.Addresses[0].String(), "dig", "+short", "less.default.svc.cluster.local")
	mustGet("7 web.default.svc.cluster.local.", "dig", "+short", "SRV", "_tcp._tcp.web.default.svc.cluster.local")
	mustGet("web.default.svc.cluster.local.", "dig", "+short", "-x", vips[0].String())
	mustGet("NXDOMAIN", "dig", "nosuch.default.svc.cluster.local")
	mustGet("host=web", "curl", "-sS", "--max-time", "5", "http://web:8080/")
	mustGet("host=web", "curl", "-sS", "--max-time", "5", "http://less/")
	if out := sh(t, l, "n2", l.Exe+" dns query web -n default"); !strings.Contains(out, "web.default.svc.cluster.local.") ||
		!strings.Contains(out, vips[0].String()) {
		t.Errorf("dns query printed %s", out)
	}
	if out := sh(t, l, "n2", "curl -s 127.0.0.1:9551/metrics"); !strings.Contains(out, "warren_dns_queries_total") ||
		!strings.Contains(out, "warren_service_frontends") {
		t.Errorf("metrics lack DNS or Services:\n%s", out)
	}
	if out := sh(t, l, "n1", "dig +short @10.43.0.10 web.default.svc.cluster.local"); !strings.Contains(out, vips[0].String()) {
		t.Errorf("the node itself receives %q", out)
	}
}
