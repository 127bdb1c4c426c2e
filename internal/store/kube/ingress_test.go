package kube

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// The state has all kinds once each was listed, follows changes, and keeps the pointers of what did not change.
func TestIngressStore_ObjectsChange_StatesFollow(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	class := "warren"
	ingress := &networkingv1.Ingress{ObjectMeta: named("a", "in"), Spec: networkingv1.IngressSpec{IngressClassName: &class}}
	port := int32(8080)
	client := fake.NewClientset(ingress,
		&networkingv1.IngressClass{ObjectMeta: named("", "warren"),
			Spec: networkingv1.IngressClassSpec{Controller: "warren.dev/ingress"}},
		&corev1.Service{ObjectMeta: named("a", "web"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web-1",
			Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}, AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.7"}}}},
		&corev1.Secret{ObjectMeta: named("a", "tls"), Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": []byte("c")}},
		&corev1.Secret{ObjectMeta: named("a", "other"), Type: corev1.SecretTypeOpaque})
	ctx, cancel := context.WithCancel(t.Context())
	states, done := make(chan *model.IngressObjects, 100), make(chan struct{})
	go func() {
		defer close(done)
		NewIngressStore(&Connection{Client: client, dial: &dialer{}}).Watch(ctx, func(o *model.IngressObjects) { states <- o },
			func(error) {})
	}()
	defer func() { cancel(); <-done }()
	until := func(what string, ok func(*model.IngressObjects) bool) *model.IngressObjects {
		t.Helper()
		for {
			select {
			case o := <-states:
				if ok(o) {
					return o
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("never seen: %s", what)
			}
		}
	}
	first := until("the first state", func(*model.IngressObjects) bool { return true })
	if len(first.Ingresses) != 1 || len(first.Classes) != 1 || len(first.Services) != 1 || len(first.Slices) != 1 ||
		len(first.Secrets) != 1 || string(first.Secrets[0].Certificate) != "c" || first.Ingresses[0].Class != "warren" {
		t.Fatalf("first state %+v", first)
	}
	changed := ingress.DeepCopy()
	changed.Spec.Rules = []networkingv1.IngressRule{{Host: "x.test"}}
	if _, err := client.NetworkingV1().Ingresses("a").Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	second := until("the changed Ingress", func(o *model.IngressObjects) bool { return len(o.Ingresses[0].Rules) == 1 })
	if second.Services[0] != first.Services[0] || second.Slices[0] != first.Slices[0] || second.Ingresses[0] == first.Ingresses[0] ||
		second.Revision <= first.Revision {
		t.Error("unchanged objects have other pointers, or the changed one has not")
	}
	if err := client.CoreV1().Secrets("a").Delete(ctx, "tls", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until("the deletion of the Secret", func(o *model.IngressObjects) bool { return len(o.Secrets) == 0 })
}

// While one kind cannot be listed there is no state, and the reason is reported.
func TestIngressStore_KindRefused_ReportsAndDeliversNothing(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("list", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("refused")
	})
	ctx, cancel := context.WithCancel(t.Context())
	reported, done := make(chan error, 100), make(chan struct{})
	go func() {
		defer close(done)
		NewIngressStore(&Connection{Client: client, dial: &dialer{}}).Watch(ctx, func(*model.IngressObjects) {
			t.Error("a state without Secrets")
		}, func(err error) {
			if err != nil {
				select {
				case reported <- err:
				default:
				}
			}
		})
	}()
	defer func() { cancel(); <-done }()
	select {
	case err := <-reported:
		if err.Error() != "secrets: refused" {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("no report")
	}
}
