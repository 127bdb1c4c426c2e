package agent

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
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
		for pattern, handler := range a.api.Routes() {
			method, path, _ := strings.Cut(pattern, " ")
			t.Run(strings.ReplaceAll(pattern, "/", "."), func(t *testing.T) {
				w := httptest.NewRecorder()
				handler(w, httptest.NewRequest(method, path, strings.NewReader(bodies[pattern])))
				if !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") || w.Body.Len() == 0 {
					t.Errorf("status %d, body %q", w.Code, w.Body)
				}
			})
		}
		w := httptest.NewRecorder()
		a.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if !strings.Contains(w.Body.String(), "warren_ready 0") {
			t.Errorf("metrics: %d %s", w.Code, w.Body)
		}
	}
}
