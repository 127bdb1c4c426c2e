package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/pki"
	"github.com/warrennet/warren/internal/store/etcd/registry"
	"github.com/warrennet/warren/internal/store/kube"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

const ns = "warren-system"

// cluster is a fake API server with the objects of a cluster without a network, and a running leader.
type cluster struct {
	t      *testing.T
	client *fake.Clientset
	own    *dynamicfake.FakeDynamicClient
	ctx    context.Context
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	port := int32(6443)
	objects = append(objects,
		serviceCIDR("kubernetes", 1, "10.43.0.0/16"),
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"},
			Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.43.0.1"}}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default",
			Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
			Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.11"}}}},
		node("n1", "192.0.2.11"), node("n2", "192.0.2.12"), agentPod("n1", true), agentPod("n2", false))
	c := &cluster{t: t, client: fake.NewClientset(objects...), ctx: context.Background(),
		own: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
			map[schema.GroupVersionResource]string{kube.PoolResource: "AddressPoolList"})}
	return c
}

func node(name, ip string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name},
			{Type: corev1.NodeInternalIP, Address: ip}}}}
}

func agentPod(node string, ready bool) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "warren-" + node, Namespace: ns,
		Labels: map[string]string{"app.kubernetes.io/name": "warren", "app.kubernetes.io/component": "agent"}},
		Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady,
			Status: status}}}}
}

// lead starts a leader for the length of the test.
func (c *cluster) lead() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan error, 1)
	go func() { done <- Lead(ctx, c.config()) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
}

func (c *cluster) config() Config {
	return Config{Client: c.client, Dynamic: c.own, Namespace: ns, Identity: "test", Log: slog.New(slog.DiscardHandler)}
}

func (c *cluster) until(what string, f func() error) {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// etcdServes registers an etcd member that serves.
func (c *cluster) etcdServes(name, url string) {
	c.t.Helper()
	r := registry.Registry{Client: c.client, Namespace: ns}
	m := registry.Member{ClientURL: url, ID: "1"}
	if _, err := r.Found(c.ctx, name, m); err != nil {
		c.t.Fatal(err)
	}
	if err := r.Record(c.ctx, name, m, true); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) clusterYAML() (string, error) {
	cm, err := c.client.CoreV1().ConfigMaps(ns).Get(c.ctx, ClusterConfig, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return cm.Data[clusterKey], nil
}

func (c *cluster) untilCluster(parts ...string) {
	c.t.Helper()
	c.until("cluster.yaml", func() error {
		text, err := c.clusterYAML()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				return fmt.Errorf("no %q in %q (%w)", p, text, errors.Join(err, errMissing))
			}
		}
		return err
	})
}

var errMissing = errors.New("missing")

// An empty cluster gets the objects that agents wait for.
func TestController_NewCluster_WritesItsObjects(t *testing.T) {
	c := newCluster(t)
	c.lead()
	for _, name := range []string{CASecret, ClientSecret} {
		c.until("Secret "+name, func() error {
			_, err := c.client.CoreV1().Secrets(ns).Get(c.ctx, name, metav1.GetOptions{})
			return err
		})
	}
	if text, err := c.clusterYAML(); !apierrors.IsNotFound(err) {
		t.Fatalf("before etcd serves there is %q, %v", text, err)
	}
	c.etcdServes("n1", "https://192.0.2.11:52379")
	c.untilCluster("https://192.0.2.11:52379", "192.0.2.11:6443", "10.42.0.0/16", "10.43.0.0/16", "10.43.0.10", "cluster.local")
	r := registry.Registry{Client: c.client, Namespace: ns}
	if err := r.Record(c.ctx, "n2", registry.Member{ClientURL: "https://192.0.2.12:52379", ID: "2"}, true); err != nil {
		t.Fatal(err)
	}
	c.untilCluster("https://192.0.2.12:52379")
	cm, err := c.client.CoreV1().ConfigMaps(ns).Get(c.ctx, OperatorConfig, metav1.GetOptions{})
	if err != nil || cm.Data[operatorKey] == "" {
		t.Errorf("the operator's ConfigMap: %v %v", cm, err)
	}
}

// A controller that loses the race for the Secrets continues with those of the winner.
func TestController_SecretRaceLost_UsesTheWinners(t *testing.T) {
	c := newCluster(t)
	winner, err := pki.NewCA("winner")
	if err != nil {
		t.Fatal(err)
	}
	var raced atomic.Bool
	c.client.PrependReactor("create", "secrets", func(a k8stesting.Action) (bool, runtime.Object, error) {
		s := a.(k8stesting.CreateAction).GetObject().(*corev1.Secret)
		if s.Name != CASecret || !raced.CompareAndSwap(false, true) {
			return false, nil, nil
		}
		other := s.DeepCopy()
		other.Data = map[string][]byte{pki.CAFile: winner.Trusted(), pki.CAKeyFile: winner.KeyPEM()}
		if err := c.client.Tracker().Add(other); err != nil {
			t.Error(err)
		}
		return true, nil, apierrors.NewAlreadyExists(corev1.Resource("secrets"), s.Name)
	})
	c.lead()
	c.until("the agents' certificate is the winner's", func() error {
		s, err := c.client.CoreV1().Secrets(ns).Get(c.ctx, ClientSecret, metav1.GetOptions{})
		if err == nil && clientDue(winner, s, time.Now()) {
			t.Fatal("it is another authority's")
		}
		return err
	})
}

// The certificate is renewed when a third of its validity is left and when the authority changes. The operator's own
// certificate is not changed.
func TestController_CertificateExpiring_IsRenewed(t *testing.T) {
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	old, err := ca.Sign(pki.Request{Name: "old", Valid: 2 * time.Minute}) // and an hour before now: more than two thirds are gone
	if err != nil {
		t.Fatal(err)
	}
	caSecret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: CASecret, Namespace: ns},
		Data: map[string][]byte{pki.CAFile: ca.Trusted(), pki.CAKeyFile: ca.KeyPEM()}}
	client := func(managed bool) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: ClientSecret, Namespace: ns},
			Data: map[string][]byte{pki.CAFile: ca.Trusted(), corev1.TLSCertKey: old.Cert, corev1.TLSPrivateKeyKey: old.Key}}
		if managed {
			s.Labels = labels("etcd")
		}
		return s
	}
	t.Run("ours", func(t *testing.T) {
		c := newCluster(t, caSecret, client(true))
		c.lead()
		c.until("renewal", func() error {
			s, err := c.client.CoreV1().Secrets(ns).Get(c.ctx, ClientSecret, metav1.GetOptions{})
			if err == nil && clientDue(ca, s, time.Now()) {
				return errMissing
			}
			return err
		})
	})
	t.Run("the operator's", func(t *testing.T) {
		c := newCluster(t, caSecret, client(false))
		c.lead()
		c.etcdServes("n1", "https://192.0.2.11:52379")
		c.untilCluster("52379") // a later step than the Secrets
		s, err := c.client.CoreV1().Secrets(ns).Get(c.ctx, ClientSecret, metav1.GetOptions{})
		if err != nil || string(s.Data[corev1.TLSCertKey]) != string(old.Cert) {
			t.Errorf("it was changed: %v", err)
		}
	})
}

// With the operator's own etcd, no authority is created.
func TestController_ExternalEtcd_MakesNoAuthority(t *testing.T) {
	c := newCluster(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: OperatorConfig, Namespace: ns},
		Data: map[string]string{operatorKey: "etcd: {endpoints: ['https://192.0.2.99:2379']}"}})
	c.lead()
	c.untilCluster("https://192.0.2.99:2379")
	if _, err := c.client.CoreV1().Secrets(ns).Get(c.ctx, CASecret, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("Secret %s: %v", CASecret, err)
	}
}

// The cluster DNS Service is created, and its endpoints are the nodes with a ready agent.
func TestController_AgentsChange_DNSEndpointsFollow(t *testing.T) {
	c := newCluster(t)
	c.lead()
	endpoints := func(want string) {
		t.Helper()
		c.until("endpoints "+want, func() error {
			s, err := c.client.DiscoveryV1().EndpointSlices("kube-system").Get(c.ctx, "kube-dns-warren-ipv4", metav1.GetOptions{})
			if err != nil {
				return err
			}
			var got []string
			for _, e := range s.Endpoints {
				got = append(got, *e.NodeName+"="+e.Addresses[0]+"="+e.TargetRef.Name)
			}
			if strings.Join(got, " ") != want {
				return fmt.Errorf("got %v", got)
			}
			return nil
		})
	}
	endpoints("n1=192.0.2.11=warren-n1")
	svc, err := c.client.CoreV1().Services("kube-system").Get(c.ctx, "kube-dns", metav1.GetOptions{})
	if err != nil || svc.Spec.ClusterIP != "10.43.0.10" || len(svc.Spec.Selector) != 0 || svc.Labels["k8s-app"] != "kube-dns" {
		t.Errorf("Service: %+v %v", svc, err)
	}
	update := func(p *corev1.Pod) {
		t.Helper()
		if _, err := c.client.CoreV1().Pods(ns).Update(c.ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	update(agentPod("n2", true))
	endpoints("n1=192.0.2.11=warren-n1 n2=192.0.2.12=warren-n2")
	update(agentPod("n1", false))
	endpoints("n2=192.0.2.12=warren-n2")
	if err := c.client.DiscoveryV1().EndpointSlices("kube-system").Delete(c.ctx,
		"kube-dns-warren-ipv4", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	endpoints("n2=192.0.2.12=warren-n2")
}

// A Service kube-dns that selects Pods is never changed.
func TestController_CoreDNSPresent_IsNotChanged(t *testing.T) {
	c := newCluster(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Namespace: "kube-system"},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"k8s-app": "kube-dns"}, ClusterIPs: []string{"10.43.0.10"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}}})
	c.lead()
	c.etcdServes("n1", "https://192.0.2.11:52379")
	c.untilCluster("addresses: []")
	c.untilEvent("kube-dns", "ClusterDNS")
	for _, a := range c.client.Actions() {
		if a.GetNamespace() == "kube-system" && a.GetVerb() != "list" && a.GetVerb() != "watch" && a.GetResource().Resource != "events" {
			t.Errorf("%s %s in kube-system", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

func (c *cluster) untilEvent(object, reason string) {
	c.t.Helper()
	c.until("Event "+reason, func() error {
		events, err := c.client.CoreV1().Events("").List(c.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.InvolvedObject.Name == object && e.Reason == reason {
				return nil
			}
		}
		return errMissing
	})
}

func TestController_NetworkPolicy_IsReported(t *testing.T) {
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny", Namespace: "shop", UID: "1"}}
	c := newCluster(t, policy)
	c.lead()
	c.untilEvent("deny", "NotEnforced")
}

// External IPs that the operator does not permit are reported, permitted ones are not.
func TestController_ExternalIPs_RefusedOnesAreReported(t *testing.T) {
	service := func(name, addr string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID(name)},
			Spec: corev1.ServiceSpec{ExternalIPs: []string{addr}, Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	v := view{allServices: []*corev1.Service{service("refused", "192.0.2.2"), service("permitted", "198.51.100.7")}}
	events := record.NewFakeRecorder(8)
	k := &controller{Config: Config{Log: slog.New(slog.DiscardHandler)}, logged: map[string]string{}, events: events}
	for range 2 {
		if err := k.reportExternalIPs(v, operator{externalIPs: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(events.Events); n != 1 {
		t.Fatalf("%d Events, expected 1", n)
	}
	if e := <-events.Events; !strings.Contains(e, "ExternalIPsRefused") || !strings.Contains(e, "192.0.2.2") {
		t.Errorf("Event %q", e)
	}
}

// The condition is cleared if it is True and the agent is ready, and never changed otherwise.
func TestController_NodeNetworkUnavailable_IsCleared(t *testing.T) {
	with := func(name, ip string) *corev1.Node {
		n := node(name, ip)
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue},
			{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue}}
		return n
	}
	c := newCluster(t, with("n3", "192.0.2.13"), agentPod("n3", true), with("n4", "192.0.2.14"), agentPod("n4", false))
	c.lead()
	c.until("n3", func() error {
		n, err := c.client.CoreV1().Nodes().Get(c.ctx, "n3", metav1.GetOptions{})
		if err == nil && networkUnavailable(n) {
			return errMissing
		}
		if err == nil && len(n.Status.Conditions) != 2 {
			t.Fatalf("conditions: %v", n.Status.Conditions)
		}
		return err
	})
	for _, a := range c.client.Actions() {
		if p, ok := a.(k8stesting.PatchAction); ok && a.GetResource().Resource == "nodes" && p.GetName() != "n3" {
			t.Errorf("patched node %s", p.GetName())
		}
	}
}

// When nothing changes, nothing is written.
func TestController_SecondPass_WritesNothing(t *testing.T) {
	c := newCluster(t)
	c.lead()
	c.etcdServes("n1", "https://192.0.2.11:52379")
	c.untilCluster("52379")
	c.until("endpoints", func() error {
		_, err := c.client.DiscoveryV1().EndpointSlices("kube-system").Get(c.ctx, "kube-dns-warren-ipv4", metav1.GetOptions{})
		return err
	})
	s, err := newSources(c.ctx, c.client, c.own, ns)
	if err != nil {
		t.Fatal(err)
	}
	stop := s.start(c.ctx)
	defer stop()
	if !s.wait(c.ctx) {
		t.Fatal("no sync")
	}
	writes := func() (n int) {
		for _, a := range c.client.Actions() {
			switch a.GetVerb() {
			case "create", "update", "patch", "delete":
				n++
			}
		}
		return n
	}
	before := writes()
	k := &controller{Config: c.config(), sources: s, logged: map[string]string{}}
	for range 3 {
		if err := k.pass(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if after := writes(); after != before {
		t.Errorf("%d writes", after-before)
	}
}

// An API server without ServiceCIDRs is not an error.
func TestController_APIServerWithoutServiceCIDR_Works(t *testing.T) {
	c := newCluster(t)
	c.client.PrependReactor("list", "servicecidrs", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(networkingv1.Resource("servicecidrs"), "")
	})
	c.lead()
	c.etcdServes("n1", "https://192.0.2.11:52379")
	c.untilCluster("10.43.0.0/16", "10.43.0.10")
}

// One of two controllers leads; the other one takes over when the first one ends.
func TestController_TwoReplicas_OneLeads(t *testing.T) {
	c := newCluster(t)
	var ends []func() error
	for i := range 2 {
		cfg := c.config()
		cfg.Identity = fmt.Sprint("c", i)
		ctx, cancel := context.WithCancel(c.ctx)
		done := make(chan error, 1)
		go func() { done <- Run(ctx, cfg) }()
		ends = append(ends, func() error { cancel(); return <-done })
		c.until("leader", func() error { _, err := c.leader(); return err })
	}
	if err := ends[0](); err != nil {
		t.Error(err)
	}
	c.until("the second leads", func() error {
		if l, err := c.leader(); l != "c1" {
			return fmt.Errorf("leader %q %w", l, errors.Join(err, errMissing))
		}
		return nil
	})
	if err := ends[1](); err != nil {
		t.Error(err)
	}
}

func (c *cluster) leader() (string, error) {
	l, err := c.client.CoordinationV1().Leases(ns).Get(c.ctx, LeaseName, metav1.GetOptions{})
	if err != nil || l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" {
		return "", errors.Join(err, errMissing)
	}
	return *l.Spec.HolderIdentity, nil
}
