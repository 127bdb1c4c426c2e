package ingress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrennet/warren/ingress/route"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
	"github.com/warrennet/warren/internal/store/objects"
)

// BenchmarkChange_OneOf5000Ingresses_Live measures from the end of the write of a changed Ingress in etcd until requests are routed by it.
// .
func BenchmarkChange_OneOf5000Ingresses_Live(b *testing.B) {
	const n = 5000
	s := etcdtest.Open(b, etcdtest.Start(b), "live")
	apply := func(text string) {
		b.Helper()
		list, err := objects.Parse(strings.NewReader(text), "default")
		if err != nil {
			b.Fatal(err)
		}
		for _, o := range list {
			if _, err := s.Objects.Apply(b.Context(), o); err != nil {
				b.Fatal(err)
			}
		}
	}
	one := func(i int, path string) string {
		return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: in-%[1]d}\nspec: {ingressClassName: warren, "+
			"rules: [{host: h%[1]d.test, http: {paths: [{path: %[2]s, pathType: Exact, "+
			"backend: {service: {name: a, port: {number: 80}}}}]}}]}\n",
			i, path)
	}
	apply("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: warren}\nspec: {controller: warren.dev/ingress}\n")
	for i := range n {
		apply(one(i, "/v"))
	}
	var table atomic.Pointer[route.Table]
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := route.New(route.Config{})
		s.FollowIngress(ctx, func(o *model.IngressObjects) { table.Store(c.Compile(o)) }, func(error) {})
	}()
	defer func() { cancel(); <-done }()
	for table.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	var took []time.Duration
	i := 0
	for b.Loop() {
		i++
		host, path := fmt.Sprintf("h%d.test", i*7919%n), fmt.Sprintf("/v%d", i)
		apply(one(i*7919%n, path))
		start := time.Now()
		for table.Load().Lookup(host, path) == nil {
			time.Sleep(50 * time.Microsecond)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
}
