package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// After a snapshot, changes are collected for burst plus perObject for each object: the first change after a snapshot
// copies its list. A change after a longer pause is delivered at once.
const (
	burst     = 2 * time.Millisecond
	perObject = time.Microsecond
)

// Objects is an immutable snapshot of the API server's objects.
type Objects struct {
	Services     []model.Service       // sorted by namespace and name
	Slices       []model.EndpointSlice // sorted by namespace and name
	Pods         []model.Pod           // of this node, or of all (Store.AllPods), sorted by namespace and name
	ServiceCIDRs []netip.Prefix
	Pools        []model.AddressPool // sorted by name
	PoolProblems []lbpool.Problem
	Nameservers  *model.Nameservers // of ConfigMap kube-system/kube-dns; nil if its content is invalid
	Node         Node
}

// Node is this node's Node object.
type Node struct {
	Known     bool // the API server has one of this name
	UID       string
	Zone      string // label topology.kubernetes.io/zone
	PodCIDRs  []netip.Prefix
	Addresses []netip.Addr // of type InternalIP, in their order
	Deleting  bool         // being deleted, or tainted by the autoscaler to be
}

// Store watches the API server's objects for one node.
type Store struct {
	AllPods bool // watch the Pods of every node instead of this one's; set before Watch

	conn *Connection
	node string
	log  *slog.Logger

	mu          sync.Mutex
	services    list[model.Service]
	slices      list[model.EndpointSlice]
	pods        list[model.Pod]
	cidrs       map[string][]netip.Prefix
	pools       poolTable
	nameservers nameservers
	self        Node
	missing     map[string]bool // kinds not listed yet
	names       interner
	changed     chan struct{}
}

// New prepares a store for the node of that name. Watch starts its goroutines.
func New(conn *Connection, node string, log *slog.Logger) *Store {
	s := &Store{conn: conn, node: node, log: log, cidrs: map[string][]netip.Prefix{}, pools: newPoolTable(),
		missing: map[string]bool{}, changed: make(chan struct{}, 1)}
	s.services.name = func(x *model.Service) model.ObjectName { return x.ObjectName }
	s.slices.name = func(x *model.EndpointSlice) model.ObjectName { return x.ObjectName }
	s.pods.name = func(x *model.Pod) model.ObjectName { return x.ObjectName }
	s.names = interner{}
	return s
}

// Watch calls on with a snapshot after all kinds have been listed, and after each burst of changes, until ctx ends. It calls
// state with an error when the API server stops answering, and with nil when it answers.
func (s *Store) Watch(ctx context.Context, on func(*Objects), state func(error)) {
	var wg sync.WaitGroup
	// Errors are reported through state; the reflectors would log each of them once for every kind.
	quiet := logr.Discard()
	rctx := klog.NewContext(ctx, quiet)
	for _, k := range s.kinds() {
		s.missing[k.name] = true
	}
	for _, k := range s.kinds() {
		r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(s.listWatch(k, state), s.conn.Client),
			k.object, &sink{s: s, kind: k}, cache.ReflectorOptions{Name: k.name, Logger: &quiet,
				Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.3, Steps: 6, Cap: 5 * time.Second}})
		wg.Go(func() { r.RunWithContext(rctx) })
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.changed:
			pause := burst
			if o := s.objects(); o != nil {
				on(o)
				pause += time.Duration(len(o.Services)+len(o.Slices)) * perObject
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}
	wg.Wait()
}

// objects is the current state, nil until all kinds have been listed.
func (s *Store) objects() *Objects {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missing) > 0 {
		return nil
	}
	o := &Objects{Services: s.services.view(), Slices: s.slices.view(), Pods: s.pods.view(), Node: s.self,
		Pools: s.pools.pools.view(), PoolProblems: s.pools.problemList(), Nameservers: s.nameservers.now()}
	for _, c := range s.cidrs {
		for _, p := range c {
			if !slices.Contains(o.ServiceCIDRs, p) {
				o.ServiceCIDRs = append(o.ServiceCIDRs, p)
			}
		}
	}
	slices.SortFunc(o.ServiceCIDRs, netip.Prefix.Compare)
	return o
}

// kind is one watched resource.
type kind struct {
	name     string
	object   runtime.Object
	fields   string // field selector
	optional bool   // an API server may not have it, or an older role not allow it
	list     listFunc[runtime.Object]
	watch    func(context.Context, metav1.ListOptions) (watch.Interface, error)
	// put, drop and replace change the store; the caller holds its lock.
	put     func(any)
	drop    func(model.ObjectName)
	replace func([]any)
}

func (s *Store) kinds() []kind {
	c := s.conn.Client
	kinds := []kind{
		{name: "services", object: &corev1.Service{}, list: lister(c.CoreV1().Services("").List), watch: c.CoreV1().Services("").Watch,
			put:  func(o any) { s.services.set(s.service(o)) },
			drop: func(n model.ObjectName) { s.services.remove(n) }, replace: func(all []any) {
				s.services.replace(convert(all,
					s.service))
			}},
		{name: "endpointslices", object: &discoveryv1.EndpointSlice{}, list: lister(c.DiscoveryV1().EndpointSlices("").List),
			watch: c.DiscoveryV1().EndpointSlices("").Watch,
			put:   s.putSlice, drop: func(n model.ObjectName) { s.slices.remove(n) }, replace: s.replaceSlices},
		{name: "pods", object: &corev1.Pod{}, fields: s.whichPods(),
			list: lister(c.CoreV1().Pods("").List), watch: c.CoreV1().Pods("").Watch,
			put:  func(o any) { s.pods.set(s.pod(o)) },
			drop: func(n model.ObjectName) { s.pods.remove(n) }, replace: func(all []any) { s.pods.replace(convert(all, s.pod)) }},
		{name: "nodes", object: &corev1.Node{}, fields: fields.OneTermEqualSelector("metadata.name", s.node).String(),
			list: lister(c.CoreV1().Nodes().List), watch: c.CoreV1().Nodes().Watch,
			put: func(o any) { s.self = node(o.(*corev1.Node)) }, drop: func(model.ObjectName) { s.self = Node{} },
			replace: func(all []any) {
				s.self = Node{}
				for _, o := range all {
					s.self = node(o.(*corev1.Node))
				}
			}},
		{name: "servicecidrs", object: &networkingv1.ServiceCIDR{}, optional: true,
			list: lister(c.NetworkingV1().ServiceCIDRs().List), watch: c.NetworkingV1().ServiceCIDRs().Watch,
			put: s.putCIDR, drop: func(n model.ObjectName) { delete(s.cidrs, n.Name) },
			replace: func(all []any) {
				clear(s.cidrs)
				for _, o := range all {
					s.putCIDR(o)
				}
			}},
		s.nameserverKind(),
	}
	if s.conn.Dynamic != nil {
		kinds = append(kinds, s.poolKind())
	}
	return kinds
}

func (s *Store) whichPods() string {
	if s.AllPods {
		return ""
	}
	return fields.OneTermEqualSelector("spec.nodeName", s.node).String()
}

type listFunc[L runtime.Object] func(context.Context, metav1.ListOptions) (L, error)

// lister makes a list function of one kind a list function of any object.
func lister[L runtime.Object](f listFunc[L]) listFunc[runtime.Object] {
	return func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return f(ctx, o) }
}

func convert[T any](all []any, f func(any) T) []T {
	out := make([]T, 0, len(all))
	for _, o := range all {
		out = append(out, f(o))
	}
	return out
}

func (s *Store) service(o any) model.Service {
	v := objects.Service(o.(*corev1.Service))
	v.Namespace = s.names.one(v.Namespace)
	return v
}

func (s *Store) pod(o any) model.Pod { return pod(o.(*corev1.Pod)) }

func (s *Store) putSlice(o any) {
	if v, ok := s.slice(o); ok {
		s.slices.set(v)
	} else {
		x := o.(*discoveryv1.EndpointSlice)
		s.slices.remove(model.ObjectName{Namespace: x.Namespace, Name: x.Name})
	}
}

func (s *Store) replaceSlices(all []any) {
	out := make([]model.EndpointSlice, 0, len(all))
	for _, o := range all {
		if v, ok := s.slice(o); ok {
			out = append(out, v)
		}
	}
	s.slices.replace(out)
}

// slice converts an EndpointSlice and interns the strings that many endpoints share.
func (s *Store) slice(o any) (model.EndpointSlice, bool) {
	v, ok := objects.Slice(o.(*discoveryv1.EndpointSlice))
	v.Namespace = s.names.one(v.Namespace)
	for i := range v.Endpoints {
		e := &v.Endpoints[i]
		e.Node, e.Zone, e.Pod.Namespace = s.names.one(e.Node), s.names.one(e.Zone), s.names.one(e.Pod.Namespace)
	}
	return v, ok
}

func (s *Store) putCIDR(o any) {
	c := o.(*networkingv1.ServiceCIDR)
	var out []netip.Prefix
	for _, x := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(x); err == nil {
			out = append(out, p.Masked())
		}
	}
	s.cidrs[c.Name] = out
}

// interner stores one copy of frequent strings: the names of nodes, zones and namespaces.
type interner map[string]string

func (in interner) one(v string) string {
	if have, ok := in[v]; ok {
		return have
	}
	if len(in) > 1<<16 {
		clear(in) // bounds the memory in a cluster that creates namespaces all the time
	}
	in[v] = v
	return v
}

// listWatch lists and watches a kind and reports to state whether the API server answers. An optional kind that the server
// does not have counts as empty.
func (s *Store) listWatch(k kind, state func(error)) *cache.ListWatch {
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
			if k.optional && (notServed(err) || apierrors.IsForbidden(err)) {
				s.absent(k)
			}
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

func (s *Store) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
