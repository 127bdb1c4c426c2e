package objectstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
	"github.com/warrennet/warren/internal/store/etcd/objectstore"
	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
)

// parse reads manifests written in YAML.
func parse(t *testing.T, yaml string) []objects.Object {
	t.Helper()
	out, err := objects.Parse(strings.NewReader(yaml), "default")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func apply(t *testing.T, s *etcd.Store, yaml string) (objectstore.Applied, error) {
	t.Helper()
	var done objectstore.Applied
	for _, o := range parse(t, yaml) {
		var err error
		if done, err = s.Objects.Apply(context.Background(), o); err != nil {
			return done, err
		}
	}
	return done, nil
}

func service(t *testing.T, s *etcd.Store, name string) *corev1.Service {
	t.Helper()
	k, err := objects.KindNamed("svc")
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Objects.Get(context.Background(), k, "default", name)
	if err != nil {
		t.Fatal(err)
	}
	return o.(*corev1.Service)
}

const ranges = `
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.43.0.0/16, "fd43::/112"]}
`

func svcYAML(name, spec string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: 80}], %s}\n", name, spec)
}

func TestApply_EachServiceType_AllocatesAddressesAndPorts(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "alloc")
	if _, err := apply(t, s, svcYAML("early", "")); err == nil || !strings.Contains(err.Error(), "there is no Service range") {
		t.Errorf("a Service before its range: %v", err)
	}
	if _, err := apply(t, s, ranges); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, spec string
		ips, ports int
	}{
		{"single", "", 1, 0},
		{"dual", "ipFamilyPolicy: PreferDualStack", 2, 0},
		{"six", "ipFamilies: [IPv6]", 1, 0},
		{"headless", "clusterIP: None", 1, 0},
		{"nodeport", "type: NodePort", 1, 1},
		{"lb", "type: LoadBalancer", 1, 1},
		{"lbnone", "type: LoadBalancer, allocateLoadBalancerNodePorts: false", 1, 0},
		{"lblocal", "type: LoadBalancer, externalTrafficPolicy: Local", 1, 1},
		{"external", "type: ExternalName, externalName: example.org", 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if done, err := apply(t, s, svcYAML(tc.name, tc.spec)); err != nil || done != objectstore.Created {
				t.Errorf("%s: %v %v", tc.name, done, err)
				return
			}
			first := service(t, s, tc.name)
			ports := 0
			if first.Spec.Ports[0].NodePort != 0 {
				ports = 1
			}
			if len(first.Spec.ClusterIPs) != tc.ips || ports != tc.ports || first.UID == "" || first.CreationTimestamp.IsZero() {
				t.Errorf("%s: addresses %v node port %v uid %q", tc.name, first.Spec.ClusterIPs, first.Spec.Ports[0].NodePort, first.UID)
			}
			if (tc.name == "lblocal") != (first.Spec.HealthCheckNodePort != 0) {
				t.Errorf("%s: health check node port %d", tc.name, first.Spec.HealthCheckNodePort)
			}
			if done, err := apply(t, s, svcYAML(tc.name, tc.spec)); err != nil || done != objectstore.Unchanged {
				t.Errorf("%s applied again: %v %v, expected unchanged", tc.name, done, err)
			}
		})
	}
}

func TestApply_AddressOrPortHeld_IsRefusedUntilReleased(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "conflict")
	for _, y := range []string{ranges, svcYAML("a", "type: NodePort, clusterIP: 10.43.0.10")} {
		if _, err := apply(t, s, y); err != nil {
			t.Fatal(err)
		}
	}
	port := service(t, s, "a").Spec.Ports[0].NodePort
	for want, y := range map[string]string{
		"spec.clusterIPs[0]: 10.43.0.10 is held by service default/a": svcYAML("b", "clusterIP: 10.43.0.10"),
		"lies in none of the Service ranges":                          svcYAML("b", "clusterIP: 192.0.2.1"),
		fmt.Sprintf("spec.ports[0].nodePort: node port %d/TCP is held by service default/a",
			port): fmt.Sprintf(
			"apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {type: NodePort, ports: [{port: 80, nodePort: %d}]}\n", port),
		"80 is outside the node port range": "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {type: NodePort, ports: [{port: " +
			"80, nodePort: 80}]}\n",
	} {
		t.Run(want, func(t *testing.T) {
			if _, err := apply(t, s, y); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, expected %q", err, want)
			}
		})
	}
	// UDP may have the number that TCP has; another type gives the port back; deletion gives everything back.
	if _, err := apply(t, s, fmt.Sprintf(
		"apiVersion: v1\nkind: Service\nmetadata: {name: u}\nspec: {type: NodePort, ports: [{port: 80, protocol: UDP, nodePort: %d}]}\n",
		port)); err != nil {
		t.Error(err)
	}
	if done, err := apply(t, s, svcYAML("a", "type: ClusterIP")); err != nil || done != objectstore.Configured {
		t.Errorf("%v %v", done, err)
	}
	if svc := service(t, s, "a"); svc.Spec.Ports[0].NodePort != 0 || svc.Spec.ClusterIP != "10.43.0.10" {
		t.Errorf("after the change of type: node port %d, address %s", svc.Spec.Ports[0].NodePort, svc.Spec.ClusterIP)
	}
	if _, err := apply(t, s, fmt.Sprintf(
		"apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {type: NodePort, ports: [{port: 80, nodePort: %d}]}\n",
		port)); err != nil {
		t.Errorf("the released node port: %v", err)
	}
	k, _ := objects.KindNamed("Service")
	if err := s.Objects.Delete(context.Background(), k, "default", "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Objects.Delete(context.Background(), k, "default", "a"); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := apply(t, s, svcYAML("b", "clusterIP: 10.43.0.10")); err != nil {
		t.Errorf("the released address: %v", err)
	}
}

// Racing Services get distinct addresses and node ports, also in a range that is nearly full.
func TestApply_ConcurrentServices_GetDistinctAddresses(t *testing.T) {
	url := etcdtest.Start(t)
	s := etcdtest.Open(t, url, "race")
	if _, err := apply(t, s, strings.Replace(ranges, `10.43.0.0/16, "fd43::/112"`, "10.43.0.0/26", 1)); err != nil {
		t.Fatal(err)
	}
	const n = 62
	var wg sync.WaitGroup
	for i := range n {
		wg.Add(1)
		o := parse(t, svcYAML(fmt.Sprintf("s%d", i), "type: NodePort"))[0]
		go func() {
			defer wg.Done()
			if _, err := s.Objects.Apply(context.Background(), o); err != nil {
				t.Errorf("service %d: %v", i, err)
			}
		}()
	}
	wg.Wait()
	seen := map[string]bool{}
	for i := range n {
		svc := service(t, s, fmt.Sprintf("s%d", i))
		for _, x := range []string{svc.Spec.ClusterIP, fmt.Sprint(svc.Spec.Ports[0].NodePort)} {
			if seen[x] {
				t.Errorf("%s is held twice", x)
			}
			seen[x] = true
		}
	}
	if _, err := apply(t, s, svcYAML("onemore", "")); err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("a Service in a full range: %v", err)
	}
}
