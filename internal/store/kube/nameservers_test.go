package kube

import (
	"bytes"
	"context"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func nameserverMap(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: named("kube-system", "kube-dns"), Data: data}
}

// lockedLog collects the log of a store.
type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The ConfigMap is created, changed, made invalid, corrected and deleted during the watch.
func TestWatch_NameserversChange_AreDelivered(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	client := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: named("kube-system", "other"),
		Data: map[string]string{upstreamsKey: `["192.0.2.99"]`}})
	var log lockedLog
	out, done := make(chan *Objects, 1000), make(chan struct{})
	go func() {
		defer close(done)
		New(&Connection{Client: client, dial: &dialer{}}, "n1", slog.New(slog.NewTextHandler(&log, nil))).Watch(ctx,
			func(o *Objects) { out <- o }, func(error) {})
	}()
	t.Cleanup(func() { cancel(); <-done })
	see := func(what string, want *model.Nameservers) {
		t.Helper()
		var last any
		for {
			select {
			case o := <-out:
				if last = o.Nameservers; reflect.DeepEqual(o.Nameservers, want) {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: last saw %+v, want %+v", what, last, want)
			}
		}
	}
	maps := client.CoreV1().ConfigMaps("kube-system")
	see("none", &model.Nameservers{})
	if _, err := maps.Create(ctx, nameserverMap(map[string]string{stubDomainsKey: `{"Corp.Example.": ["10.42.1.7", "192.0.2.54:5353"]}`,
		"federations": "x"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	stubs := model.Nameservers{StubDomains: map[string][]string{"corp.example": {"10.42.1.7", "192.0.2.54:5353"}}}
	see("created", &stubs)
	both := model.Nameservers{StubDomains: stubs.StubDomains, Upstreams: []string{"192.0.2.53", "2001:db8::53"}}
	change := func(data map[string]string) {
		t.Helper()
		if _, err := maps.Update(ctx, nameserverMap(data), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	good := map[string]string{stubDomainsKey: `{"corp.example": ["10.42.1.7", "192.0.2.54:5353"]}`,
		upstreamsKey: `["192.0.2.53", "2001:db8::53"]`}
	change(good)
	see("changed", &both)
	change(map[string]string{stubDomainsKey: `{}`, upstreamsKey: `["192.0.2.53"`})
	see("spoilt", &both)
	if text := log.text(); !strings.Contains(text, upstreamsKey) || !strings.Contains(text, "kube-system/kube-dns") {
		t.Errorf("the log does not name the key: %s", text)
	}
	change(map[string]string{upstreamsKey: `["192.0.2.60"]`})
	see("corrected", &model.Nameservers{Upstreams: []string{"192.0.2.60"}})
	if err := maps.Delete(ctx, "kube-dns", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	see("deleted", &model.Nameservers{})
	for _, a := range client.Actions() {
		if l, ok := a.(k8stesting.ListAction); ok && a.GetResource().Resource == "configmaps" {
			if a.GetNamespace() != "kube-system" || l.GetListRestrictions().Fields.String() != "metadata.name=kube-dns" {
				t.Errorf("listed %s with %v: the role allows one object alone", a.GetNamespace(), l.GetListRestrictions())
			}
		}
	}
}

// A content that was bad from the start leaves nothing to go by: nil, so that what the node kept from its last run serves.
func TestWatch_InvalidNameserversAtStart_AreReported(t *testing.T) {
	s := New(&Connection{Client: fake.NewClientset(), dial: &dialer{}}, "n1", slog.New(slog.DiscardHandler))
	k := s.nameserverKind()
	k.replace([]any{nameserverMap(map[string]string{upstreamsKey: "192.0.2.53"})})
	if got := s.nameservers.now(); got != nil {
		t.Errorf("%+v", got)
	}
	k.replace(nil)
	if got := s.nameservers.now(); got == nil || len(got.Upstreams) != 0 {
		t.Errorf("deleted: %+v", got)
	}
}

func TestReadNameservers_InvalidValue_IsRefused(t *testing.T) {
	for _, c := range []struct{ key, value, says string }{
		{stubDomainsKey, `["192.0.2.1"]`, "expected JSON such as"},
		{stubDomainsKey, `{"corp.example": "192.0.2.1"}`, "expected JSON such as"},
		{stubDomainsKey, `{"corp.example": []}`, `"corp.example" has no servers`},
		{stubDomainsKey, `{"corp.example": ["ns.corp.example"]}`, `"ns.corp.example" is not a server's address`},
		{stubDomainsKey, `{".": ["192.0.2.1"]}`, `"." is not a domain name`},
		{stubDomainsKey, `{"a b": ["192.0.2.1"]}`, `"a b" is not a domain name`},
		{stubDomainsKey, `{"a.b": ["192.0.2.1"], "A.b.": ["192.0.2.2"]}`, "is listed twice"},
		{upstreamsKey, `{"a": 1}`, "expected JSON such as"},
		{upstreamsKey, `["0.0.0.0"]`, `"0.0.0.0" is not a server's address`},
		{upstreamsKey, `["192.0.2.1:0"]`, `"192.0.2.1:0" is not`},
	} {
		t.Run(c.key+" "+c.value, func(t *testing.T) {
			if got, err := readNameservers(map[string]string{c.key: c.value}); err == nil ||
				!strings.HasPrefix(err.Error(), c.key+": ") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s %s: %+v, %v", c.key, c.value, got, err)
			}
		})
	}
	if got, err := readNameservers(map[string]string{stubDomainsKey: " ", upstreamsKey: ""}); err != nil ||
		!reflect.DeepEqual(got, model.Nameservers{}) {
		t.Errorf("empty values: %+v, %v", got, err)
	}
}
