package kube

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// PoolResource is the API resource of AddressPools. The API server may not have it.
var PoolResource = schema.GroupVersionResource{Group: "warren.dev", Version: "v1alpha1", Resource: "addresspools"}

// absentPause is the interval of requests to an API server that does not have the resource.
const absentPause = 30 * time.Second

// poolSource lists and watches AddressPools. If the API server does not have the resource, the list is empty without an
// error, and one request per pause checks for it.
type poolSource struct {
	api    dynamic.ResourceInterface
	pause  time.Duration
	absent atomic.Bool // result of the last list
}

// PoolLister lists and watches AddressPools, also if the resource is defined later or never.
func PoolLister(c dynamic.Interface) cache.ListerWatcher {
	p := newPoolSource(c)
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{ListWithContextFunc: p.list, WatchFuncWithContext: p.watch}, c)
}

func newPoolSource(c dynamic.Interface) *poolSource {
	return &poolSource{api: c.Resource(PoolResource), pause: absentPause}
}

func (p *poolSource) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	l, err := p.api.List(ctx, o)
	p.absent.Store(notServed(err))
	if notServed(err) {
		return &unstructured.UnstructuredList{}, nil
	}
	return l, err
}

func (p *poolSource) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if !p.absent.Load() {
		return p.api.Watch(ctx, o)
	}
	// A watch that starts with a list fails at once, so that the reflector lists. A watch after an empty list waits here
	// until the resource exists: the intervals of the reflector's own retries would grow.
	for p.absent.Load() && (o.SendInitialEvents == nil || !*o.SendInitialEvents) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(p.pause):
		}
		_, err := p.api.List(ctx, metav1.ListOptions{Limit: 1})
		p.absent.Store(notServed(err))
	}
	// After this error reflectors list again without logging it.
	return nil, apierrors.NewResourceExpired("the API server did not have " + PoolResource.Resource)
}

// Pool converts an AddressPool. The API schema accepts invalid addresses: they are left out and reported as problems.
func Pool(u *unstructured.Unstructured) (model.AddressPool, []lbpool.Problem) {
	var p objects.AddressPool
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &p); err != nil {
		return model.AddressPool{Name: u.GetName()}, []lbpool.Problem{{Pool: u.GetName(), Text: err.Error()}}
	}
	if err := objects.Validate(&p); err != nil {
		return objects.Pool(&p), []lbpool.Problem{{Pool: p.Name, Text: err.Error()}}
	}
	return objects.Pool(&p), nil
}

// poolTable is the current state of AddressPools.
type poolTable struct {
	pools    list[model.AddressPool]
	problems map[string][]lbpool.Problem // by pool
}

func newPoolTable() poolTable {
	name := func(p *model.AddressPool) model.ObjectName { return model.ObjectName{Name: p.Name} }
	return poolTable{list[model.AddressPool]{name: name}, map[string][]lbpool.Problem{}}
}

func (t *poolTable) put(o any) {
	p, problems := Pool(o.(*unstructured.Unstructured))
	t.pools.set(p)
	t.problems[p.Name] = problems
}

func (t *poolTable) drop(n model.ObjectName) {
	t.pools.remove(n)
	delete(t.problems, n.Name)
}

func (t *poolTable) replace(all []any) {
	t.pools.replace(nil)
	clear(t.problems)
	for _, o := range all {
		t.put(o)
	}
}

// problemList lists the problems, sorted by pool.
func (t *poolTable) problemList() (out []lbpool.Problem) {
	for _, p := range t.pools.items {
		out = append(out, t.problems[p.Name]...)
	}
	return out
}

func (s *Store) poolKind() kind {
	p := newPoolSource(s.conn.Dynamic)
	return kind{name: PoolResource.Resource, object: &unstructured.Unstructured{}, optional: true, list: p.list, watch: p.watch,
		put: s.pools.put, drop: s.pools.drop, replace: s.pools.replace}
}
