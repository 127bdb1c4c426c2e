package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/store/kube"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// balancer is a Service of type LoadBalancer, created that many minutes after the first.
func balancer(name string, minute int, more ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID("uid-" + name),
		Annotations:       map[string]string{},
		CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC))},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.43.7.7", ClusterIPs: []string{"10.43.7.7"},
			Ports: []corev1.ServicePort{{Port: 80}}}}
	for _, f := range more {
		f(s)
	}
	return s
}

func with(annotation, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations[annotation] = value }
}

func status(ingress ...corev1.LoadBalancerIngress) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = ingress }
}

func (c *cluster) add(services ...*corev1.Service) {
	c.t.Helper()
	for _, s := range services {
		if _, err := c.client.CoreV1().Services(s.Namespace).Create(c.ctx, s, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) pool(name string, addresses ...any) {
	c.t.Helper()
	p := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "warren.dev/v1alpha1", "kind": "AddressPool",
		"metadata": map[string]any{"name": name, "uid": "uid-" + name}, "spec": map[string]any{"addresses": addresses}}}
	if _, err := c.own.Resource(kube.PoolResource).Create(c.ctx, p, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) service(name string) *corev1.Service {
	c.t.Helper()
	s, err := c.client.CoreV1().Services("d").Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cluster) change(name string, f func(*corev1.Service)) {
	c.t.Helper()
	s := c.service(name)
	f(s)
	if _, err := c.client.CoreV1().Services("d").Update(c.ctx, s, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func addressesOf(s *corev1.Service) string {
	var out []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		x := in.IP + in.Hostname
		if in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
			x += "(" + string(*in.IPMode) + ")"
		}
		out = append(out, x)
	}
	return strings.Join(out, " ")
}

// has waits until Services have addresses, written as "name=address address".
func (c *cluster) has(want ...string) {
	c.t.Helper()
	c.until(strings.Join(want, ", "), func() error {
		for _, w := range want {
			name, addrs, _ := strings.Cut(w, "=")
			if got := addressesOf(c.service(name)); got != addrs {
				return fmt.Errorf("%s has %q", name, got)
			}
		}
		return nil
	})
}

func (c *cluster) eventsOf(name, reason string) (out []string) {
	c.t.Helper()
	events, err := c.client.CoreV1().Events("").List(c.ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range events.Items {
		if e.InvolvedObject.Name == name && e.Reason == reason {
			out = append(out, e.Message)
		}
	}
	return out
}

func (c *cluster) writesTo(name string) (n int) {
	for _, a := range c.client.Actions() {
		if p, ok := a.(interface{ GetName() string }); ok && a.GetVerb() == "patch" && a.GetResource().Resource == "services" &&
			p.GetName() == name {
			n++
		}
	}
	return n
}

// Without a pool nothing is changed. When a pool is created, matching Services get an address, the oldest first.
func TestLoadBalancer_PoolAppearsLater_ServicesGetAddresses(t *testing.T) {
	c := newCluster(t)
	c.add(balancer("old", 0), balancer("young", 1), balancer("named", 2, with(lbpool.RequestAnnotation, "192.0.2.33")),
		balancer("outside", 3, with(lbpool.RequestAnnotation, "203.0.113.9")))
	c.lead()
	c.etcdServes("n1", "https://192.0.2.11:52379")
	c.untilCluster("52379")
	for _, n := range []string{"old", "young", "named", "outside"} {
		if c.writesTo(n) != 0 || len(c.eventsOf(n, "NoAddress")) != 0 {
			t.Errorf("%s was touched without a pool", n)
		}
	}
	c.pool("lan", "192.0.2.32/31")
	c.has("old=192.0.2.32", "young=", "named=192.0.2.33", "outside=")
	c.untilEvent("outside", "NoAddress")
	c.untilEvent("young", "NoAddress")
	if e := c.eventsOf("outside", "NoAddress"); len(e) != 1 || e[0] != "203.0.113.9 lies in no pool" {
		t.Errorf("events %q", e)
	}
	if note := c.service("old").Annotations[lbpool.RecordAnnotation]; note != "192.0.2.32" {
		t.Errorf("noted %q", note)
	}
	c.until("the pool's status", func() error {
		p, err := c.own.Resource(kube.PoolResource).Get(c.ctx, "lan", metav1.GetOptions{})
		if err == nil && fmt.Sprint(p.Object["status"]) != "map[free:0 used:2]" {
			err = fmt.Errorf("%v", p.Object["status"])
		}
		return err
	})
}

// The pool is exhausted: the Service waits, one Event reports it, and it gets the next address that is released.
func TestLoadBalancer_PoolExhausted_WaitsForFreedAddress(t *testing.T) {
	c := newCluster(t)
	c.pool("lan", "192.0.2.32/32")
	c.add(balancer("a", 0))
	c.lead()
	c.has("a=192.0.2.32")
	c.add(balancer("b", 1), balancer("c", 2), balancer("d", 3))
	c.untilEvent("b", "NoAddress")
	c.change("b", func(s *corev1.Service) { s.Labels = map[string]string{"x": "y"} }) // no reason to report it again
	if err := c.client.CoreV1().Services("d").Delete(c.ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.has("b=192.0.2.32", "c=")
	if e := c.eventsOf("b", "NoAddress"); len(e) != 1 || e[0] != "every IPv4 address of lan is taken" {
		t.Errorf("events %q", e)
	}
	// The type changes: the API server clears the status, and a fake one does not.
	c.change("b", func(s *corev1.Service) {
		s.Spec.Type, s.Status.LoadBalancer.Ingress = corev1.ServiceTypeClusterIP, nil
	})
	c.has("c=192.0.2.32")
	// It is of another class from now on: not ours to look at.
	c.change("c", func(s *corev1.Service) {
		class := "example.com/lb"
		s.Spec.LoadBalancerClass, s.Status.LoadBalancer.Ingress = &class, nil
	})
	c.has("d=192.0.2.32", "b=", "c=")
	c.pool("more", "192.0.2.40/32")
	c.change("b", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
	c.has("b=192.0.2.40", "c=")
	c.untilEvent("b", "AddressAssigned")
}

// Two Services request one address: the older one gets it. With a sharing key both do.
func TestLoadBalancer_TwoRequestOneAddress_OlderGetsIt(t *testing.T) {
	c := newCluster(t)
	c.pool("lan", "192.0.2.32/29")
	request := with(lbpool.RequestAnnotation, "192.0.2.35")
	c.add(balancer("young", 5, request), balancer("old", 1, request))
	c.lead()
	c.has("old=192.0.2.35", "young=")
	c.untilEvent("young", "NoAddress")
	if e := c.eventsOf("young", "NoAddress"); e[0] != "192.0.2.35 is held by service d/old" {
		t.Errorf("events %q", e)
	}
	share := with(lbpool.ShareAnnotation, "k")
	c.change("old", share)
	c.change("young", func(s *corev1.Service) { share(s); s.Spec.Ports[0].Port = 81 })
	c.has("old=192.0.2.35", "young=192.0.2.35")
	// An invalid request keeps the address; another valid request replaces it.
	c.change("young", with(lbpool.RequestAnnotation, "192.0.2.350"))
	c.until("an Event about the request", func() error {
		for _, e := range c.eventsOf("young", "NoAddress") {
			if strings.Contains(e, "not an IP address") {
				return nil
			}
		}
		return errMissing
	})
	c.has("young=192.0.2.35")
	c.change("young", with(lbpool.RequestAnnotation, "192.0.2.36"))
	c.has("old=192.0.2.35", "young=192.0.2.36")
}

// The status that another controller wrote, and Services of other classes, are not changed.
func TestLoadBalancer_StatusOfAnotherController_IsKept(t *testing.T) {
	c := newCluster(t)
	c.pool("lan", "192.0.2.32/29")
	proxy := corev1.LoadBalancerIPModeProxy
	class := func(name string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &name }
	}
	foreign := []*corev1.Service{
		balancer("class", 0, class("example.com/lb")),
		balancer("class-with", 0, class("example.com/lb"), status(corev1.LoadBalancerIngress{IP: "192.0.2.33"})),
		balancer("ip", 0, status(corev1.LoadBalancerIngress{IP: "203.0.113.1"})),
		balancer("name", 0, status(corev1.LoadBalancerIngress{Hostname: "lb.example.org"})),
		balancer("proxy", 0, status(corev1.LoadBalancerIngress{IP: "192.0.2.34", IPMode: &proxy})),
		balancer("proxied", 0, func(s *corev1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
		}),
		balancer("node-port", 0, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }),
	}
	var before []string
	for _, s := range foreign {
		before = append(before, addressesOf(s))
	}
	c.add(foreign...)
	c.add(balancer("ours", 1, class(lbpool.Class)), balancer("named", 2, with(lbpool.RequestAnnotation, "192.0.2.33")))
	c.lead()
	c.until("ours", func() error {
		if addressesOf(c.service("ours")) == "" {
			return errMissing
		}
		return nil
	})
	c.untilEvent("named", "NoAddress") // another class has it
	// An operator writes a status that has warren's address, which the API permits.
	patch := []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.7"}]}}}`)
	if _, err := c.client.CoreV1().Services("d").Patch(c.ctx, "ours", types.MergePatchType, patch, metav1.PatchOptions{},
		"status"); err != nil {
		t.Fatal(err)
	}
	c.add(balancer("later", 9))
	c.until("a later pass", func() error {
		if addressesOf(c.service("later")) == "" {
			return errMissing
		}
		return nil
	})
	c.has("ours=203.0.113.7")
	for i, s := range foreign {
		if got := addressesOf(c.service(s.Name)); got != before[i] || c.writesTo(s.Name) != 0 || len(c.eventsOf(s.Name, "NoAddress")) != 0 {
			t.Errorf("%s was touched: %q, before %q", s.Name, got, before[i])
		}
	}
}

// A new leader reads the held addresses from the statuses: it writes nothing, even if their pool has changed, and assigns no
// held address to another Service.
func TestLoadBalancer_NewLeader_KeepsAllAddresses(t *testing.T) {
	c := newCluster(t)
	c.pool("lan", "192.0.2.32/31")
	c.add(balancer("a", 0), balancer("b", 1))
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan error, 1)
	go func() { done <- Lead(ctx, c.config()) }()
	full := func() error {
		if addressesOf(c.service("a")) == "" || addressesOf(c.service("b")) == "" {
			return errMissing
		}
		return nil
	}
	c.until("both", full)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	a, b := addressesOf(c.service("a")), addressesOf(c.service("b"))
	if err := c.own.Resource(kube.PoolResource).Delete(c.ctx, "lan", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.pool("next", "192.0.2.33/32", "192.0.2.48/32")
	c.add(balancer("c", 0, func(s *corev1.Service) { s.CreationTimestamp = metav1.NewTime(time.Unix(0, 0)) })) // older than both
	c.client.ClearActions()
	c.lead()
	c.has("a="+a, "b="+b, "c=192.0.2.48")
	if n := c.writesTo("a") + c.writesTo("b"); n != 0 {
		t.Errorf("%d writes", n)
	}
	// Annotated as warren's, so that a request can replace it although its pool was deleted.
	holder := "a"
	if a == "192.0.2.33" {
		holder = "b"
	}
	if err := c.client.CoreV1().Services("d").Delete(c.ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.change(holder, with(lbpool.RequestAnnotation, "192.0.2.48"))
	c.has(holder + "=192.0.2.48")
}

// The version that this process wrote is used before the watch delivers it.
func TestLoadBalancer_WriteNotYetWatched_Counts(t *testing.T) {
	s := balancer("a", 0)
	s.ResourceVersion = "5"
	to := s.DeepCopy()
	to.ResourceVersion, to.Status.LoadBalancer.Ingress = "6", []corev1.LoadBalancerIngress{{IP: "192.0.2.32"}}
	k := &controller{wrote: map[types.UID]written{s.UID: {s, to}}}
	relisted := s.DeepCopy()
	for _, seen := range []*corev1.Service{s, relisted} {
		if got := k.latest([]*corev1.Service{seen}); got[0] != to {
			t.Error("the watch's older version counts")
		}
	}
	newer := to.DeepCopy()
	newer.ResourceVersion = "7"
	if got := k.latest([]*corev1.Service{newer}); got[0] != newer || len(k.wrote) != 0 {
		t.Error("the version that the watch delivered is not used")
	}
}

// Ranges and addresses of the cluster are in no pool, even if an AddressPool contains them.
func TestLoadBalancer_OverlappingPools_AreReported(t *testing.T) {
	c := newCluster(t)
	c.pool("lan", "192.0.2.11-192.0.2.12", "10.43.0.0/28", "192.0.2.40/28", "192.0.2.13-192.0.2.13")
	c.add(balancer("a", 0), balancer("b", 1))
	c.lead()
	c.has("a=192.0.2.13", "b=")
	c.untilEvent("lan", "Invalid")
	e := strings.Join(c.eventsOf("lan", "Invalid"), "\n")
	for _, want := range []string{"overlaps 192.0.2.11 of node n1", "overlaps 192.0.2.12 of node n2", "(Services)",
		"must be a CIDR without host bits"} {
		if !strings.Contains(e, want) {
			t.Errorf("no %q in %q", want, e)
		}
	}
}

// Both families, in the Service's order.
func TestLoadBalancer_DualStack_GetsBothFamilies(t *testing.T) {
	pools, _ := planPools(view{pools: []*unstructured.Unstructured{{Object: map[string]any{"metadata": map[string]any{"name": "lan"},
		"spec": map[string]any{"addresses": []any{"192.0.2.32/32", "fd77::1-fd77::1"}}}}}}, clusterFile{})
	s := balancer("a", 0, func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"fd43::7", "10.43.7.7"} })
	grants, _ := planAddresses([]*corev1.Service{s}, pools, nil)
	if len(grants) != 1 || lbpool.Record(grants[0].addrs) != "fd77::1,192.0.2.32" || !grants[0].writes() {
		t.Fatalf("%+v", grants)
	}
	s.Annotations[lbpool.RecordAnnotation] = "fd77::1,192.0.2.32"
	for _, ip := range []string{"fd77::1", "192.0.2.32"} {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
	}
	grants, _ = planAddresses([]*corev1.Service{s}, pools, nil)
	if len(grants) != 1 || grants[0].writes() || len(grants[0].pending) != 0 || !slices.Equal(grants[0].has, grants[0].addrs) {
		t.Errorf("second time: %+v", grants)
	}
}

// The cost of a pass in a cluster with many addresses: without changes, and with all addresses new.
func BenchmarkPlanAddresses(b *testing.B) {
	pools, _ := planPools(view{pools: []*unstructured.Unstructured{{Object: map[string]any{"metadata": map[string]any{"name": "lan"},
		"spec": map[string]any{"addresses": []any{"192.168.0.0/16"}}}}}}, clusterFile{})
	var services []*corev1.Service
	for i := range 1000 {
		services = append(services, balancer(fmt.Sprint("s", i), i))
	}
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			planAddresses(services, pools, nil)
		}
	})
	grants, _ := planAddresses(services, pools, nil)
	for _, g := range grants {
		g.service.Annotations[lbpool.RecordAnnotation] = lbpool.Record(g.addrs)
		g.service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: g.addrs[0].String()}}
	}
	b.Run("same", func(b *testing.B) {
		for b.Loop() {
			planAddresses(services, pools, nil)
		}
	})
}
