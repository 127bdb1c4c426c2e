package kube

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A cluster of 10,000 Services and 100,000 endpoints: what it keeps, what one change costs until it is a snapshot.
func BenchmarkLargeCluster(b *testing.B) {
	const services, each = 10000, 10
	s := New(&Connection{Client: fake.NewClientset(), dial: &dialer{}}, "n1", slog.New(slog.DiscardHandler))
	sinks := map[string]*sink{}
	for _, k := range s.kinds() {
		s.missing[k.name] = true
		sinks[k.name] = &sink{s: s, kind: k}
	}
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1e6
	}
	before := heap()
	var list []any
	for i := range services {
		list = append(list, apiService(i))
	}
	replace(b, sinks["services"], list)
	list = nil
	for i := range services {
		list = append(list, apiSlice(i, each))
	}
	replace(b, sinks["endpointslices"], list)
	list = nil
	for name, k := range sinks {
		if name != "services" && name != "endpointslices" {
			replace(b, k, nil)
		}
	}
	if o := s.objects(); len(o.Services) != services || len(o.Slices) != services {
		b.Fatalf("%d Services, %d slices", len(o.Services), len(o.Slices))
	}
	kept := heap() - before
	changed := apiSlice(services/2, each-1)
	for b.Loop() {
		if err := sinks["endpointslices"].Update(changed); err != nil {
			b.Fatal(err)
		}
		_ = s.objects()
	}
	b.ReportMetric(kept, "MB-kept")
}

func replace(b *testing.B, k *sink, list []any) {
	b.Helper()
	if err := k.Replace(list, ""); err != nil {
		b.Fatal(err)
	}
}

func apiService(i int) *corev1.Service {
	ip := fmt.Sprintf("10.43.%d.%d", i/250, i%250+1)
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%d", i%100), Name: fmt.Sprintf("service-%d", i),
		UID:    "7a1d0a3e-0000-4000-8000-000000000000",
		Labels: map[string]string{"app": "web"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl",
			FieldsV1: &metav1.FieldsV1{}}}},
		Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
}

func apiSlice(i, endpoints int) *discoveryv1.EndpointSlice {
	yes, name, port, proto := true, "http", int32(8080), corev1.ProtocolTCP
	out := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%d", i%100),
		Name: fmt.Sprintf("service-%d-abcde", i), UID: "7a1d0a3e-0000-4000-8000-000000000000",
		Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("service-%d", i)}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}}}
	for j := range endpoints {
		node, zone := fmt.Sprintf("node-%d", (i+j)%100), fmt.Sprintf("zone-%d", j%3)
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.%d.%d", (i+j)%100, i%250+1)},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes}, NodeName: &node, Zone: &zone,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: out.Namespace, Name: fmt.Sprintf("web-7d4b9c8f6d-%05d", i*endpoints+
				j)}})
	}
	return out
}
