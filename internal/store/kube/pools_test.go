package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
)

func pool(name string, addresses ...any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "warren.dev/v1alpha1", "kind": "AddressPool",
		"metadata": map[string]any{"name": name}, "spec": map[string]any{"addresses": addresses}}}
}

func fakePools(objects ...runtime.Object) *dynamicfake.FakeDynamicClient {
	return dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{PoolResource: "AddressPoolList"}, objects...)
}

func TestWatch_PoolsChange_AreDelivered(t *testing.T) {
	dyn := fakePools(pool("lan", "192.0.2.0/28", "192.0.2.40-192.0.2.60"))
	ctx, cancel := context.WithCancel(t.Context())
	out := make(chan *Objects, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(&Connection{Client: fake.NewClientset(), Dynamic: dyn, dial: &dialer{}}, "n1", slog.New(slog.DiscardHandler)).Watch(ctx,
			func(o *Objects) { out <- o }, func(error) {})
	}()
	defer func() { cancel(); <-done }()
	see := func(want string) {
		t.Helper()
		var got string
		for {
			select {
			case o := <-out:
				var b strings.Builder
				for _, p := range o.Pools {
					fmt.Fprintf(&b, "%s %v ", p.Name, p.Ranges)
				}
				for _, p := range o.PoolProblems {
					fmt.Fprintf(&b, "! %s ", p)
				}
				if got = strings.TrimSpace(b.String()); got == want {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("last saw %q, expected %q", got, want)
			}
		}
	}
	const lan = "lan [192.0.2.0-192.0.2.15 192.0.2.40-192.0.2.60]"
	see(lan)
	api := dyn.Resource(PoolResource)
	if _, err := api.Create(ctx, pool("bad", "192.0.2.65/28", "fd77::1-fd77::5"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	see("bad [fd77::1-fd77::5] " + lan +
		` ! AddressPool bad: spec.addresses[0]: Invalid value: "192.0.2.65/28": must be a CIDR without host bits, such as 192.0.2.0/28, or a range, such as 192.0.2.10-192.0.2.20`)
	if err := api.Delete(ctx, "bad", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	see(lan)
}

// An API server without the kind gets one request per pause and is not reported as unreachable. Its pools are listed once it has
// the kind.
func TestWatch_PoolKindMissing_IsRetried(t *testing.T) {
	dyn := fakePools()
	var there atomic.Bool
	var asked atomic.Int32
	absent := func(k8stesting.Action) (bool, runtime.Object, error) {
		asked.Add(1)
		if there.Load() {
			return false, nil, nil
		}
		return true, nil, apierrors.NewNotFound(PoolResource.GroupResource(), "")
	}
	dyn.PrependReactor("list", "*", absent)
	dyn.PrependWatchReactor("*", func(a k8stesting.Action) (bool, watch.Interface, error) {
		_, _, err := absent(a)
		return err != nil, nil, err
	})
	p := newPoolSource(dyn)
	p.pause = 100 * time.Millisecond
	s := New(&Connection{Client: fake.NewClientset(), Dynamic: dyn, dial: &dialer{}}, "n1", slog.New(slog.DiscardHandler))
	k := s.poolKind()
	k.list, k.watch = p.list, p.watch
	s.missing[k.name] = true
	var away error
	lw := cache.ToListWatcherWithWatchListSemantics(s.listWatch(k, func(err error) { away = errors.Join(away, err) }), dyn)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		cache.NewReflectorWithOptions(lw, k.object, &sink{s: s, kind: k}, cache.ReflectorOptions{Name: k.name}).RunWithContext(ctx)
	}()
	defer func() { cancel(); <-done }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("never: " + what)
			}
		}
	}
	until("an empty list", func() bool { return s.objects() != nil })
	time.Sleep(450 * time.Millisecond)
	if n := asked.Load(); n > 7 || n < 2 {
		t.Errorf("%d requests in four and a half pauses", n)
	}
	if _, err := dyn.Resource(PoolResource).Create(ctx, pool("lan", "192.0.2.0/28"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	there.Store(true)
	until("the pool", func() bool { return len(s.objects().Pools) == 1 })
	cancel()
	<-done
	if away != nil && !errors.Is(away, context.Canceled) {
		t.Errorf("the API server was called away: %v", away)
	}
}
