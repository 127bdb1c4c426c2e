package controller

import (
	"fmt"
	"testing"

	"github.com/warrennet/warren/ingress/route"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func ingressClass(name, controller string, annotations map[string]string) *networkingv1.IngressClass {
	return &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
		Spec: networkingv1.IngressClassSpec{Controller: controller}}
}

// ingressOf is an Ingress with a default backend; "" is no class. addresses are those in its status.
func ingressOf(name, class string, backend networkingv1.IngressBackend, addresses ...string) *networkingv1.Ingress {
	x := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
		Spec: networkingv1.IngressSpec{DefaultBackend: &backend}}
	if class != "" {
		x.Spec.IngressClassName = &class
	}
	for _, a := range addresses {
		x.Status.LoadBalancer.Ingress = append(x.Status.LoadBalancer.Ingress, networkingv1.IngressLoadBalancerIngress{IP: a})
	}
	return x
}

func toService(name string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name,
		Port: networkingv1.ServiceBackendPort{Number: 80}}}
}

func frontService(addresses ...string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: IngressNamespace, Name: IngressService, UID: "front"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}}}
	for _, a := range addresses {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return s
}

func (c *cluster) ingressAddresses(name string) (out []string) {
	c.t.Helper()
	x, err := c.client.NetworkingV1().Ingresses("shop").Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, a := range x.Status.LoadBalancer.Ingress {
		out = append(out, a.IP)
	}
	return out
}

func (c *cluster) untilAddresses(name, want string) {
	c.t.Helper()
	c.until("the addresses of "+name, func() error {
		if got := fmt.Sprint(c.ingressAddresses(name)); got != want {
			return fmt.Errorf("addresses %s, expected %s", got, want)
		}
		return nil
	})
}

// Ingresses of warren's classes get the addresses of the Service, others keep their status.
func TestController_Ingresses_GetTheAddressesOfTheService(t *testing.T) {
	web := toService("web")
	c := newCluster(t, frontService("192.0.2.80"), ingressClass("warren", route.Controller, nil),
		ingressClass("nginx", "k8s.io/ingress-nginx", nil),
		ingressOf("ours", "warren", web), ingressOf("stale", "warren", web, "198.51.100.1"),
		ingressOf("theirs", "nginx", web, "192.0.2.80"), ingressOf("unknown", "nosuch", web, "198.51.100.2"),
		ingressOf("classless", "", web), ingressOf("former", "removed", web, "192.0.2.80"))
	c.lead()
	for name, want := range map[string]string{"ours": "[192.0.2.80]", "stale": "[192.0.2.80]", "former": "[]"} {
		c.untilAddresses(name, want)
	}
	for name, want := range map[string]string{"theirs": "[192.0.2.80]", "unknown": "[198.51.100.2]", "classless": "[]"} {
		if got := fmt.Sprint(c.ingressAddresses(name)); got != want {
			t.Errorf("%s has %s, expected %s", name, got, want)
		}
	}
	s := frontService("192.0.2.81", "2001:db8::1")
	if _, err := c.client.CoreV1().Services(IngressNamespace).Update(c.ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.untilAddresses("ours", "[192.0.2.81 2001:db8::1]")
	if err := c.client.CoreV1().Services(IngressNamespace).Delete(c.ctx, IngressService, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.untilAddresses("ours", "[]")
	c.untilEvent("ours", "NotServed")
}

// The default class serves Ingresses without one.
func TestController_DefaultIngressClass_ServesIngressesWithoutClass(t *testing.T) {
	c := newCluster(t, frontService("192.0.2.80"), ingressClass("warren", route.Controller,
		map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}), ingressOf("classless", "", toService("web")))
	c.lead()
	c.untilAddresses("classless", "[192.0.2.80]")
}

// Problems of Ingresses are Events with the reason; endpoints and Secrets are not judged, because the controller does not read them.
func TestController_IngressProblems_AreEvents(t *testing.T) {
	bucket := networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{Kind: "Bucket", Name: "b"}}
	good := ingressOf("good", "warren", toService("web"))
	good.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"x.test"}, SecretName: "unknown"}}
	good.Spec.Rules = []networkingv1.IngressRule{{Host: "x.test"}}
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "web"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	c := newCluster(t, frontService("192.0.2.80"), web, ingressClass("warren", route.Controller, nil), good,
		ingressOf("bucket", "warren", bucket), ingressOf("nosuch", "warren", toService("nosuch")))
	c.lead()
	c.untilEvent("bucket", string(route.BackendResource))
	c.untilEvent("nosuch", string(route.ServiceNotFound))
	events, err := c.client.CoreV1().Events("").List(c.ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if e.InvolvedObject.Name == "good" {
			t.Errorf("Event %s: %s", e.Reason, e.Message)
		}
	}
}

// A write with an outdated version is left to the next pass.
func TestIngressStatus_ForeignIngress_IsNeverWritten(t *testing.T) {
	addresses := []networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.80"}}
	for _, c := range []struct {
		name          string
		ours, foreign bool
		have          []string
		write         bool
	}{
		{"ours without", true, false, nil, true},
		{"ours with", true, false, []string{"192.0.2.80"}, false},
		{"another controller's, same address", false, true, []string{"192.0.2.80"}, false},
		{"no controller's, our address", false, false, []string{"192.0.2.80"}, true},
		{"no controller's, another address", false, false, []string{"192.0.2.81"}, false},
		{"no controller's, none", false, false, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, write := ingressStatus(ingressOf("x", "", toService("a"), c.have...), c.ours, c.foreign, addresses); write != c.write {
				t.Errorf("write is %v", !c.write)
			}
		})
	}
}
