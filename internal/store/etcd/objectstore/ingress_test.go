package objectstore_test

import (
	"context"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
	"github.com/warrennet/warren/internal/store/objects"
	"github.com/warrennet/warren/internal/testutil"
)

const ingressYAML = `
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: warren}
spec: {controller: warren.dev/ingress}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  ingressClassName: warren
  tls: [{hosts: [web.test], secretName: web}]
  rules: [{host: web.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}]}}]
`

// WatchIngress delivers all objects and their changes. Objects that did not change keep their pointers. Agents' snapshots have none
// of the Secrets and Ingresses.
func TestWatchIngress_ObjectsChange_StatesFollow(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "ingress")
	mustApply(t, s, ranges, svcYAML("a", ""), svcYAML("b", ""), testutil.TLSSecret(t, "default/web", "web.test"), ingressYAML)
	ctx, cancel := context.WithCancel(t.Context())
	states := make(chan *model.IngressObjects, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.WatchIngress(ctx, func(o *model.IngressObjects) { states <- o }, func() {})
	}()
	defer func() { cancel(); <-done }()
	first := <-states
	if len(first.Ingresses) != 1 || len(first.Classes) != 1 || len(first.Secrets) != 1 || len(first.Services) != 2 ||
		len(first.Problems) != 0 {
		t.Fatalf("first state %+v", first)
	}
	if in := first.Ingresses[0]; in.Class != "warren" || in.TLS[0].Secret != "web" || in.Created.IsZero() {
		t.Errorf("Ingress %+v", in)
	}
	mustApply(t, s, svcYAML("b", "type: NodePort"))
	second := <-states
	if second.Ingresses[0] != first.Ingresses[0] || second.Secrets[0] != first.Secrets[0] || second.Services[0] != first.Services[0] {
		t.Error("an unchanged object has another pointer")
	}
	if second.Services[1] == first.Services[1] || second.Services[1].Type != model.NodePort || second.Revision <= first.Revision {
		t.Errorf("the change of a Service is missing: %+v", second.Services[1])
	}
	mustApply(t, s, strings.Replace(ingressYAML, "path: /,", "path: /x,", 1))
	third := <-states
	if third.Ingresses[0] == first.Ingresses[0] || third.Ingresses[0].Rules[0].Paths[0].Path != "/x" {
		t.Errorf("the change of the Ingress is missing: %+v", third.Ingresses[0])
	}
	k, err := objects.KindNamed("secrets")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Objects.Delete(t.Context(), k, "default", "web"); err != nil {
		t.Fatal(err)
	}
	if last := <-states; len(last.Secrets) != 0 {
		t.Errorf("a deleted Secret is still there: %+v", last.Secrets)
	}
	sctx, stop := context.WithCancel(t.Context())
	_ = s.Watch(sctx, func(snap *model.Snapshot) {
		stop()
		if len(snap.Services) != 2 || len(snap.Problems) != 0 {
			t.Errorf("the agents' snapshot has %d Services and problems %v", len(snap.Services), snap.Problems)
		}
	}, func() {})
}
