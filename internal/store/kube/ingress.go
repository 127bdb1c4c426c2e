package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// IngressStore watches the objects that routes are compiled from.
type IngressStore struct {
	conn    *Connection
	changed chan struct{}

	mu        sync.Mutex
	missing   map[string]bool // kinds that have not been listed yet
	ingresses map[model.ObjectName]*model.Ingress
	classes   map[model.ObjectName]*model.IngressClass
	secrets   map[model.ObjectName]*model.TLSSecret
	services  map[model.ObjectName]*model.Service
	slices    map[model.ObjectName]*model.EndpointSlice
	lists     model.IngressObjects // those of kinds that have not changed are used again
	revision  int64                // of this process: the number of states
}

// NewIngressStore makes an IngressStore of a connection.
func NewIngressStore(conn *Connection) *IngressStore {
	return &IngressStore{conn: conn, changed: make(chan struct{}, 1), missing: map[string]bool{},
		ingresses: map[model.ObjectName]*model.Ingress{}, classes: map[model.ObjectName]*model.IngressClass{},
		secrets: map[model.ObjectName]*model.TLSSecret{}, services: map[model.ObjectName]*model.Service{},
		slices: map[model.ObjectName]*model.EndpointSlice{}}
}

// ingressKind is one watched resource.
type ingressKind struct {
	name   string
	object runtime.Object
	fields string
	list   listFunc[runtime.Object]
	watch  func(context.Context, metav1.ListOptions) (watch.Interface, error)
	put    func(any)
	drop   func(model.ObjectName)
	clear  func()
}

func (s *IngressStore) kinds() []ingressKind {
	c := s.conn.Client
	net := c.NetworkingV1()
	return []ingressKind{
		{"ingresses", &networkingv1.Ingress{}, "", lister(net.Ingresses("").List), net.Ingresses("").Watch,
			func(o any) {
				x := objects.Ingress(o.(*networkingv1.Ingress))
				s.ingresses[x.ObjectName] = x
				s.lists.Ingresses = nil
			},
			func(n model.ObjectName) { delete(s.ingresses, n); s.lists.Ingresses = nil },
			func() { clear(s.ingresses); s.lists.Ingresses = nil }},
		{"ingressclasses", &networkingv1.IngressClass{}, "", lister(net.IngressClasses().List), net.IngressClasses().Watch,
			func(o any) {
				x := objects.IngressClass(o.(*networkingv1.IngressClass))
				s.classes[model.ObjectName{Name: x.Name}] = x
			},
			func(n model.ObjectName) { delete(s.classes, n) }, func() { clear(s.classes) }},
		{"secrets", &corev1.Secret{}, fields.OneTermEqualSelector("type", string(corev1.SecretTypeTLS)).String(),
			lister(c.CoreV1().Secrets("").List), c.CoreV1().Secrets("").Watch,
			func(o any) {
				if x, ok := objects.TLSSecret(o.(*corev1.Secret)); ok {
					s.secrets[x.ObjectName] = x
				}
			},
			func(n model.ObjectName) { delete(s.secrets, n) }, func() { clear(s.secrets) }},
		{"services", &corev1.Service{}, "", lister(c.CoreV1().Services("").List), c.CoreV1().Services("").Watch,
			func(o any) {
				x := objects.Service(o.(*corev1.Service))
				s.services[x.ObjectName] = &x
				s.lists.Services = nil
			},
			func(n model.ObjectName) { delete(s.services, n); s.lists.Services = nil },
			func() { clear(s.services); s.lists.Services = nil }},
		{"endpointslices", &discoveryv1.EndpointSlice{}, "", lister(c.DiscoveryV1().EndpointSlices("").List),
			c.DiscoveryV1().EndpointSlices("").Watch,
			func(o any) {
				x := o.(*discoveryv1.EndpointSlice)
				s.lists.Slices = nil
				if v, ok := objects.Slice(x); ok {
					s.slices[v.ObjectName] = &v
				} else {
					delete(s.slices, model.ObjectName{Namespace: x.Namespace, Name: x.Name})
				}
			},
			func(n model.ObjectName) { delete(s.slices, n); s.lists.Slices = nil }, func() { clear(s.slices); s.lists.Slices = nil }},
	}
}

// Watch calls on with the state after all kinds have been listed, and after each burst of changes, until ctx ends. It calls
// state with an error when the API server stops answering, and with nil when it answers.
func (s *IngressStore) Watch(ctx context.Context, on func(*model.IngressObjects), state func(error)) {
	quiet := logr.Discard()
	rctx := klog.NewContext(ctx, quiet)
	var wg sync.WaitGroup
	defer wg.Wait()
	kinds := s.kinds()
	for _, k := range kinds {
		s.missing[k.name] = true
	}
	for _, k := range kinds {
		r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(k.listWatch(state), s.conn.Client), k.object,
			&ingressSink{s, k}, cache.ReflectorOptions{Name: k.name, Logger: &quiet,
				Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.3, Steps: 6, Cap: 5 * time.Second}})
		wg.Go(func() { r.RunWithContext(rctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
		if o := s.objects(); o != nil {
			on(o)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(burst):
		}
	}
}

// objects is the current state, nil until all kinds have been listed.
func (s *IngressStore) objects() *model.IngressObjects {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missing) > 0 {
		return nil
	}
	s.revision++
	if s.lists.Ingresses == nil {
		s.lists.Ingresses = slices.Collect(maps.Values(s.ingresses))
	}
	if s.lists.Services == nil {
		s.lists.Services = slices.Collect(maps.Values(s.services))
	}
	if s.lists.Slices == nil {
		s.lists.Slices = slices.SortedFunc(maps.Values(s.slices), func(a, b *model.EndpointSlice) int { return a.Compare(b.ObjectName) })
	}
	o := s.lists
	o.Revision = s.revision
	o.Classes, o.Secrets = slices.Collect(maps.Values(s.classes)), slices.Collect(maps.Values(s.secrets))
	return &o
}

func (k *ingressKind) listWatch(state func(error)) *cache.ListWatch {
	report := func(err error) {
		if err != nil && !answered(err) {
			err = fmt.Errorf("%s: %w", k.name, err)
		} else {
			err = nil
		}
		state(err)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = k.fields
			l, err := k.list(ctx, o)
			report(err)
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = k.fields
			w, err := k.watch(ctx, o)
			report(err)
			return w, err
		},
	}
}

// ingressSink receives the objects of a reflector and stores their converted form.
type ingressSink struct {
	s *IngressStore
	k ingressKind
}

func (x *ingressSink) do(f func()) error {
	x.s.mu.Lock()
	f()
	x.s.mu.Unlock()
	select {
	case x.s.changed <- struct{}{}:
	default:
	}
	return nil
}

// Add stores a new object.
func (x *ingressSink) Add(o any) error { return x.do(func() { x.k.put(o) }) }

// Update stores a changed object.
func (x *ingressSink) Update(o any) error { return x.Add(o) }

// Delete removes an object.
func (x *ingressSink) Delete(o any) error {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	return x.do(func() { x.k.drop(model.ObjectName{Namespace: m.GetNamespace(), Name: m.GetName()}) })
}

// Replace replaces all objects of the kind by a list.
func (x *ingressSink) Replace(all []any, _ string) error {
	return x.do(func() {
		x.k.clear()
		for _, o := range all {
			x.k.put(o)
		}
		delete(x.s.missing, x.k.name)
	})
}

// Resync does nothing: the store has no queue.
func (x *ingressSink) Resync() error { return nil }
