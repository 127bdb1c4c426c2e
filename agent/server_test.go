package agent

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/httpserve"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
	"go.uber.org/goleak"
)

// newTestAgent returns an agent that does not run. No process listens at its store's address; last is the snapshot on its disk.
func newTestAgent(t *testing.T, last *model.Snapshot) *Agent {
	t.Helper()
	cfg := config.Default()
	cfg.NodeName, cfg.StateDir, cfg.RunDir, cfg.CNIConfDir = "n1", t.TempDir(), t.TempDir(), ""
	cfg.Etcd.Endpoints, cfg.Etcd.Cluster = []string{"http://127.0.0.1:1"}, "default"
	if last != nil {
		if err := disk.Dir(cfg.StateDir).SetSnapshot(last); err != nil {
			t.Fatal(err)
		}
	}
	a, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.store.Close() })
	if err := a.openPool(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.links.Close(); a.pool.Close() })
	return a
}

// An agent whose node has no Pod CIDR, no snapshot, no tunnel and no balancer yet answers everything.
func TestLocalAPI_BeforeFirstClaim_EveryRouteAnswers(t *testing.T) {
	bodies := map[string]string{"POST " + api.PodLabelsPath: `{"pod":"default/p"}`, "POST " + api.PodProbePath: `{"pod":"default/p"}`}
	for _, last := range []*model.Snapshot{nil, {Slices: []model.EndpointSlice{{Service: "s", Endpoints: []model.Endpoint{{}}}}}} {
		a := newTestAgent(t, last)
		for pattern, handler := range a.routes() {
			method, path, _ := strings.Cut(pattern, " ")
			t.Run(strings.ReplaceAll(pattern, "/", "."), func(t *testing.T) {
				w := httptest.NewRecorder()
				handler(w, httptest.NewRequest(method, path, strings.NewReader(bodies[pattern])))
				if !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") || w.Body.Len() == 0 {
					t.Errorf("status %d, body %q", w.Code, w.Body)
				}
			})
		}
		if _, err := a.registry().Gather(); err != nil {
			t.Errorf("metrics: %v", err)
		}
	}
}

// The flow table is unmapped only after the last handler has read it, and handlers that start later find none.
func TestDataPath_StopWhileHandlersRead_UnmapsAfterThem(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	a := &Agent{log: slog.New(slog.DiscardHandler)}
	lb, err := servicelb.New(servicelb.Config{FlowFile: filepath.Join(t.TempDir(), "flows")})
	if err != nil {
		t.Fatal(err)
	}
	a.path.open(lb, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var clients, server sync.WaitGroup
	server.Go(func() {
		if err := httpserve.Run(ctx, &http.Server{Handler: http.HandlerFunc(a.serveFlows)}, l); err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if resp, err := (&http.Client{Transport: transport}).Get("http://" + l.Addr().String()); err == nil {
					resp.Body.Close()
				}
			}
		})
		clients.Go(func() { // as the metrics do
			for ctx.Err() == nil {
				a.path.use(func(lb *servicelb.Balancer, _ *tunnel.Tunnel) { lb.Stats() })
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	a.closeBalancer(lb) // while all of them run
	time.Sleep(20 * time.Millisecond)
	cancel()
	clients.Wait()
	server.Wait()
	if a.path.use(func(*servicelb.Balancer, *tunnel.Tunnel) {}) {
		t.Error("a closed data path is lent")
	}
}
