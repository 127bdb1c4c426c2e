package localapi

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/warrennet/warren/internal/model"
)

// The names are those of the Kubernetes documentation ("Environment variables", Service).
func TestServiceEnv_ServicesOfNamespace_KubernetesVariables(t *testing.T) {
	snap := &model.Snapshot{Services: []model.Service{
		{ObjectName: model.ObjectName{Namespace: "default", Name: "headless"}, Headless: true, Ports: []model.ServicePort{{Port: 1}}},
		{ObjectName: model.ObjectName{Namespace: "default", Name: "redis-primary"}, ClusterIPs: []netip.Addr{ip("10.0.0.11")},
			Ports: []model.ServicePort{{Protocol: model.TCP, Port: 6379}}},
		{ObjectName: model.ObjectName{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{ip("fd43::7")},
			Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}, {Name: "dns-udp", Protocol: model.UDP, Port: 53}}},
		{ObjectName: model.ObjectName{Namespace: "other", Name: "x"}, ClusterIPs: []netip.Addr{ip("10.0.0.12")},
			Ports: []model.ServicePort{{Protocol: model.TCP, Port: 1}}},
	}}
	got, warning := serviceEnv(snap, "default")
	want := `REDIS_PRIMARY_SERVICE_HOST=10.0.0.11
REDIS_PRIMARY_SERVICE_PORT=6379
REDIS_PRIMARY_PORT=tcp://10.0.0.11:6379
REDIS_PRIMARY_PORT_6379_TCP=tcp://10.0.0.11:6379
REDIS_PRIMARY_PORT_6379_TCP_PROTO=tcp
REDIS_PRIMARY_PORT_6379_TCP_PORT=6379
REDIS_PRIMARY_PORT_6379_TCP_ADDR=10.0.0.11
WEB_SERVICE_HOST=fd43::7
WEB_SERVICE_PORT=80
WEB_SERVICE_PORT_HTTP=80
WEB_SERVICE_PORT_DNS_UDP=53
WEB_PORT=tcp://[fd43::7]:80
WEB_PORT_80_TCP=tcp://[fd43::7]:80
WEB_PORT_80_TCP_PROTO=tcp
WEB_PORT_80_TCP_PORT=80
WEB_PORT_80_TCP_ADDR=fd43::7
WEB_PORT_53_UDP=udp://[fd43::7]:53
WEB_PORT_53_UDP_PROTO=udp
WEB_PORT_53_UDP_PORT=53
WEB_PORT_53_UDP_ADDR=fd43::7`
	if d := cmp.Diff(want, strings.Join(got, "\n")); d != "" || warning != "" {
		t.Errorf("variables (-want +got):\n%s warning %q", d, warning)
	}
	for i := range 20000 {
		snap.Services = append(snap.Services, model.Service{ObjectName: model.ObjectName{Namespace: "default",
			Name: fmt.Sprintf("svc-%d", i)},
			ClusterIPs: []netip.Addr{ip("10.0.0.13")}, Ports: []model.ServicePort{{Protocol: model.TCP, Port: 1}}})
	}
	got, warning = serviceEnv(snap, "default")
	if n := len(strings.Join(got, "\n")); n > maxEnv || !strings.Contains(warning, "left out") {
		t.Errorf("%d bytes of variables, warning %q: expected at most %d and a warning", n, warning, maxEnv)
	}
}
