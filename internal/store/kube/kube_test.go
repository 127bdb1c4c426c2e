package kube

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// follow runs a store against the fake API server and returns a function that waits for a state.
func follow(t *testing.T, client *fake.Clientset) func(what string, ok func(*Objects) bool) *Objects {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out := make(chan *Objects, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(&Connection{Client: client, dial: &dialer{}}, "n1", slog.New(slog.DiscardHandler)).Watch(ctx,
			func(o *Objects) { out <- o }, func(error) {})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func(what string, ok func(*Objects) bool) *Objects {
		t.Helper()
		for {
			select {
			case o := <-out:
				if ok(o) {
					return o
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("never saw: %s", what)
			}
		}
	}
}

func TestWatch_ObjectsChange_SnapshotsFollow(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("run", testWatch)
}

func testWatch(t *testing.T) {
	ctx := context.Background()
	yes := true
	client := fake.NewClientset(
		&corev1.Service{ObjectMeta: named("b", "web"), Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.7",
			Ports: []corev1.ServicePort{{Port: 80}}}},
		&corev1.Service{ObjectMeta: named("a", "web"), Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.6",
			Ports: []corev1.ServicePort{{Port: 80}}}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "names",
			Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeFQDN, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"example.org"}}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}},
			Spec: corev1.NodeSpec{PodCIDRs: []string{"10.42.3.0/24"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"},
				{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}},
		&networkingv1.ServiceCIDR{ObjectMeta: named("", "kubernetes"), Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.43.0.0/16"}}},
	)
	see := follow(t, client)
	first := see("the first list", func(*Objects) bool { return true })
	if len(first.Services) != 2 || first.Services[0].Namespace != "a" || len(first.Slices) != 0 {
		t.Fatalf("services %v, slices %v; expected a/web and b/web, and no slice of names", first.Services, first.Slices)
	}
	n := first.Node
	if !n.Known || n.UID != "u1" || n.Zone != "z1" || n.Deleting ||
		!slices.Equal(n.PodCIDRs, []netip.Prefix{netip.MustParsePrefix("10.42.3.0/24")}) ||
		!slices.Equal(n.Addresses, []netip.Addr{netip.MustParseAddr("192.0.2.1")}) {
		t.Fatalf("node %+v", n)
	}
	if !slices.Equal(first.ServiceCIDRs, []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}) {
		t.Fatalf("service ranges %v", first.ServiceCIDRs)
	}

	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web-1",
		Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.3.9"},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes}}}}
	if _, err := client.DiscoveryV1().EndpointSlices("a").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	with := see("the new slice", func(o *Objects) bool { return len(o.Slices) == 1 })
	// One that loses its Service label is no slice of a Service any more.
	slice.Labels = nil
	if _, err := client.DiscoveryV1().EndpointSlices("a").Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	see("the slice gone", func(o *Objects) bool { return len(o.Slices) == 0 })
	if len(with.Slices) != 1 || len(with.Slices[0].Endpoints) != 1 {
		t.Fatal("a snapshot changed after it was handed on")
	}
	if err := client.CoreV1().Services("a").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	see("the Service gone", func(o *Objects) bool { return len(o.Services) == 1 && o.Services[0].Namespace == "b" })
	if len(first.Services) != 2 || first.Services[0].Namespace != "a" {
		t.Fatal("a snapshot changed after it was handed on")
	}
}

// A Node that is being deleted, by the API or by the autoscaler, must not get new connections.
func TestNode_DeletedOrScaledDown_IsDeleting(t *testing.T) {
	gone := metav1.Now()
	for want, n := range map[bool][]*corev1.Node{
		false: {{}, {Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "node.kubernetes.io/unreachable"}}}}},
		true: {{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &gone}},
			{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: toBeDeleted}}}}},
	} {
		for _, x := range n {
			if got := node(x); got.Deleting != want {
				t.Errorf("%+v: deleting %v, expected %v", x, got.Deleting, want)
			}
		}
	}
}

// The Pods of this node are requested, with AllPods those of every node.
func TestWatch_PodSelection_DependsOnAllPods(t *testing.T) {
	s := New(&Connection{Client: fake.NewClientset(), dial: &dialer{}}, "n1", slog.New(slog.DiscardHandler))
	selector := func() string {
		for _, k := range s.kinds() {
			if k.name == "pods" {
				return k.fields
			}
		}
		return "none"
	}
	if got := selector(); got != "spec.nodeName=n1" {
		t.Errorf("field selector %q", got)
	}
	if s.AllPods = true; selector() != "" {
		t.Errorf("field selector %q; expected that of every Pod", selector())
	}
}

func TestList_RandomChanges_StaysSorted(t *testing.T) {
	l := list[model.Pod]{name: func(p *model.Pod) model.ObjectName { return p.ObjectName }}
	pod := func(n string) model.Pod { return model.Pod{ObjectName: model.ObjectName{Namespace: "x", Name: n}} }
	for _, n := range []string{"m", "c", "z", "a", "c"} {
		l.set(pod(n))
	}
	before := l.view()
	if !l.remove(pod("c").ObjectName) || l.remove(pod("c").ObjectName) {
		t.Error("remove does not report whether the value existed")
	}
	names := func(ps []model.Pod) (out string) {
		for _, p := range ps {
			out += p.Name
		}
		return out
	}
	if names(before) != "acmz" || names(l.view()) != "amz" {
		t.Errorf("before %q, after %q; expected acmz and amz", names(before), names(l.view()))
	}
}

func TestParseServer_EachForm_HostAndPortOrError(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1": "192.0.2.1:6443", "192.0.2.1:443": "192.0.2.1:443",
		"2001:db8::1":        "[2001:db8::1]:6443",
		"[2001:db8::1]:8443": "[2001:db8::1]:8443", "https://api.example.org:6443": "api.example.org:6443",
		"api.example.org": "api.example.org:6443"} {
		t.Run(in, func(t *testing.T) {
			if got, err := ParseServer(in); err != nil || got != want {
				t.Errorf("ParseServer(%q) = %q, %v; expected %q", in, got, err, want)
			}
		})
	}
	for _, in := range []string{"", "a b", "192.0.2.1:0", "192.0.2.1:70000", "http://192.0.2.1/x:1"} {
		if got, err := ParseServer(in); err == nil {
			t.Errorf("ParseServer(%q) = %q; expected an error", in, got)
		}
	}
}
