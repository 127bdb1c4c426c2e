package agent

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/store/kube"
)

// What kube-proxy's port says: 503 to load balancers while the Node is being deleted or nothing is applied, while the
// agent itself stays alive.
func TestProxyHealth(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		what          string
		applied       *appliedState
		deleting      bool
		health, alive int
	}{
		{"works", &appliedState{first: true, at: now}, false, 200, 200},
		{"the Node is being deleted", &appliedState{first: true, at: now}, true, 503, 200},
		{"nothing applied yet", nil, false, 503, 503},
		{"the first plan failed", &appliedState{at: now}, false, 503, 503},
		{"the loop stands still", &appliedState{first: true, at: now.Add(-2 * proxyStale)}, false, 503, 503},
	} {
		a := &Agent{kube: &kubernetes{objects: &kube.Objects{Node: kube.Node{Known: true, Deleting: c.deleting}}}}
		a.applied.Store(c.applied)
		for eligible, want := range map[bool]int{true: c.health, false: c.alive} {
			w := httptest.NewRecorder()
			a.proxyHealth(w, eligible)
			var body struct{ NodeEligible bool }
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != want || body.NodeEligible == c.deleting {
				t.Errorf("%s: %d %s %v, expected %d", c.what, w.Code, w.Body, err, want)
			}
		}
	}
}

// A kube-proxy that was left running holds the port: that is a problem to show, and ours once it is gone.
func TestProxyPortIsTakenUp(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.servePort(ctx, "setting", other.Addr().String(), http.NotFoundHandler())
	}()
	defer func() { cancel(); <-done }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	taken := func() bool { _, ok := a.portTaken.Load("setting"); return ok }
	until("the taken port is not reported", taken)
	other.Close()
	until("the port was not taken up", func() bool {
		resp, err := http.Get("http://" + other.Addr().String())
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && !taken()
	})
}
