package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/warrennet/warren/internal/store/etcd/registry"
	"github.com/warrennet/warren/internal/store/kube"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// sources are the watches. Single objects are watched by name, so that the controller's role can be restricted to them.
type sources struct {
	namespace string
	changed   chan struct{} // has one entry if something has changed since the last receive
	all       []cache.SharedIndexInformer

	configs, systemConfigs, secrets, services []cache.SharedIndexInformer // one object each
	nodes, agents, policies                   cache.SharedIndexInformer
	ingresses, classes                        cache.SharedIndexInformer
	allServices                               cache.SharedIndexInformer
	pools                                     cache.SharedIndexInformer // their kind may be defined later
	serviceCIDRs                              cache.SharedIndexInformer // nil if the API server does not have the kind
	apiSlices, dnsSlices                      cache.SharedIndexInformer
}

// view is the state of the watches at one moment. The objects belong to the informers and must not be changed; a missing
// object is nil.
type view struct {
	operator, cluster, etcd, kubeadm, kubelet *corev1.ConfigMap
	ca, client                                *corev1.Secret
	apiService, dnsService                    *corev1.Service
	serviceCIDRs                              []*networkingv1.ServiceCIDR
	apiSlices, dnsSlices                      []*discoveryv1.EndpointSlice
	nodes                                     []*corev1.Node
	agents                                    []*corev1.Pod
	policies                                  []*networkingv1.NetworkPolicy
	ingresses                                 []*networkingv1.Ingress
	classes                                   []*networkingv1.IngressClass
	allServices                               []*corev1.Service
	pools                                     []*unstructured.Unstructured
}

const (
	systemNamespace = "kube-system"
	kubeDNS         = "kube-dns"
)

func newSources(ctx context.Context, c kubernetes.Interface, own dynamic.Interface, namespace string) (*sources, error) {
	s := &sources{namespace: namespace, changed: make(chan struct{}, 1)}
	add := func(i cache.SharedIndexInformer) cache.SharedIndexInformer {
		s.all = append(s.all, i)
		return i
	}
	none := cache.Indexers{}
	for _, name := range []string{OperatorConfig, ClusterConfig, registry.Name} {
		s.configs = append(s.configs, add(coreinformers.NewFilteredConfigMapInformer(c, namespace, 0, none, named(name))))
	}
	for _, name := range []string{"kubeadm-config", "kubelet-config"} {
		s.systemConfigs = append(s.systemConfigs, add(coreinformers.NewFilteredConfigMapInformer(c, systemNamespace, 0, none,
			named(name))))
	}
	for _, name := range []string{CASecret, ClientSecret} {
		s.secrets = append(s.secrets, add(coreinformers.NewFilteredSecretInformer(c, namespace, 0, none, named(name))))
	}
	s.services = []cache.SharedIndexInformer{
		add(coreinformers.NewFilteredServiceInformer(c, metav1.NamespaceDefault, 0, none, named("kubernetes"))),
		add(coreinformers.NewFilteredServiceInformer(c, systemNamespace, 0, none, named(kubeDNS))),
	}
	s.apiSlices = add(discoveryinformers.NewFilteredEndpointSliceInformer(c, metav1.NamespaceDefault, 0, none, slicesOf("kubernetes")))
	s.dnsSlices = add(discoveryinformers.NewFilteredEndpointSliceInformer(c, systemNamespace, 0, none, slicesOf(kubeDNS)))
	s.nodes = add(coreinformers.NewNodeInformer(c, 0, none))
	s.agents = add(coreinformers.NewFilteredPodInformer(c, namespace, 0, none,
		func(o *metav1.ListOptions) { o.LabelSelector = AgentSelector }))
	s.policies = add(networkinginformers.NewNetworkPolicyInformer(c, metav1.NamespaceAll, 0, none))
	s.ingresses = add(networkinginformers.NewIngressInformer(c, metav1.NamespaceAll, 0, none))
	s.classes = add(networkinginformers.NewIngressClassInformer(c, 0, none))
	s.allServices = add(coreinformers.NewServiceInformer(c, metav1.NamespaceAll, 0, none))
	s.pools = add(cache.NewSharedIndexInformer(kube.PoolLister(own), &unstructured.Unstructured{}, 0, none))

	// Clusters before 1.33 have no ServiceCIDR objects; an informer would request them in a loop.
	_, err := c.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{Limit: 1})
	switch {
	case err == nil:
		s.serviceCIDRs = add(networkinginformers.NewServiceCIDRInformer(c, 0, none))
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	return s, s.prepare()
}

func named(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}
}

func slicesOf(service string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) { o.LabelSelector = discoveryv1.LabelServiceName + "=" + service }
}

func (s *sources) prepare() error {
	note := func() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	for _, i := range s.all {
		if err := i.SetTransform(slim); err != nil {
			return err
		}
		if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { note() }, UpdateFunc: func(any, any) { note() }, DeleteFunc: func(any) { note() },
		}); err != nil {
			return err
		}
	}
	return nil
}

// slim returns a copy of an object without large fields that are not used. Other code may share the object itself.
func slim(o any) (any, error) {
	x, ok := o.(runtime.Object)
	if !ok {
		return o, nil
	}
	x = x.DeepCopyObject()
	if m, err := meta.Accessor(x); err == nil {
		m.SetManagedFields(nil)
	}
	if n, ok := x.(*corev1.Node); ok {
		n.Status.Images = nil
	}
	return x, nil
}

// start starts the informers; stop ends them and waits for their goroutines.
func (s *sources) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, i := range s.all {
		wg.Go(func() { i.RunWithContext(ctx) })
	}
	return func() { cancel(); wg.Wait() }
}

func (s *sources) wait(ctx context.Context) bool {
	var synced []cache.InformerSynced
	for _, i := range s.all {
		synced = append(synced, i.HasSynced)
	}
	return cache.WaitForCacheSync(ctx.Done(), synced...)
}

func (s *sources) view() view {
	return view{
		operator:     one[*corev1.ConfigMap](s.configs[0], s.namespace, OperatorConfig),
		cluster:      one[*corev1.ConfigMap](s.configs[1], s.namespace, ClusterConfig),
		etcd:         one[*corev1.ConfigMap](s.configs[2], s.namespace, registry.Name),
		kubeadm:      one[*corev1.ConfigMap](s.systemConfigs[0], systemNamespace, "kubeadm-config"),
		kubelet:      one[*corev1.ConfigMap](s.systemConfigs[1], systemNamespace, "kubelet-config"),
		ca:           one[*corev1.Secret](s.secrets[0], s.namespace, CASecret),
		client:       one[*corev1.Secret](s.secrets[1], s.namespace, ClientSecret),
		apiService:   one[*corev1.Service](s.services[0], metav1.NamespaceDefault, "kubernetes"),
		dnsService:   one[*corev1.Service](s.services[1], systemNamespace, kubeDNS),
		serviceCIDRs: list[*networkingv1.ServiceCIDR](s.serviceCIDRs),
		apiSlices:    list[*discoveryv1.EndpointSlice](s.apiSlices),
		dnsSlices:    list[*discoveryv1.EndpointSlice](s.dnsSlices),
		nodes:        list[*corev1.Node](s.nodes),
		agents:       list[*corev1.Pod](s.agents),
		policies:     list[*networkingv1.NetworkPolicy](s.policies),
		ingresses:    list[*networkingv1.Ingress](s.ingresses),
		classes:      list[*networkingv1.IngressClass](s.classes),

		allServices: list[*corev1.Service](s.allServices),
		pools:       list[*unstructured.Unstructured](s.pools),
	}
}

func one[T any](i cache.SharedIndexInformer, namespace, name string) (out T) {
	if o, found, err := i.GetStore().GetByKey(namespace + "/" + name); err == nil && found {
		out, _ = o.(T)
	}
	return out
}

// list returns the objects in the order of their names.
func list[T metav1.Object](i cache.SharedIndexInformer) (out []T) {
	if i == nil {
		return nil
	}
	for _, o := range i.GetStore().List() {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b T) int {
		return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
	})
	return out
}
