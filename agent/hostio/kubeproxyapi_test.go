package hostio

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/listen"
	"go.uber.org/goleak"
)

// /healthz answers 503 to load balancers while the Node is being deleted or nothing is applied; /livez only for the latter.
func TestKubeProxyAPI_NodeState_HealthzAndLivezStatus(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name           string
		updated        time.Time
		eligible       bool
		healthz, livez int
	}{
		{"applied", now, true, 200, 200},
		{"Node is being deleted", now, false, 503, 200},
		{"nothing applied yet", time.Time{}, true, 503, 503},
		{"apply loop blocked", now.Add(-2 * proxyStale), true, 503, 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthzHandler(func() (time.Time, bool) { return c.updated, c.eligible })
			for path, want := range map[string]int{"/healthz": c.healthz, "/livez": c.livez} {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				var body struct{ NodeEligible bool }
				if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != want || body.NodeEligible != c.eligible {
					t.Errorf("%s: %d %s %v, expected %d", path, w.Code, w.Body, err, want)
				}
			}
		})
	}
}

func TestKubeProxyAPI_PortTakenByAnotherProcess_ReportedThenServed(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sockets := listen.New(listen.Config{})
	defer sockets.Close()
	k := NewKubeProxyAPI(KubeProxyConfig{Metrics: other.Addr().String(), Sockets: sockets})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
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
	until("the taken port is not reported", func() bool { return len(sockets.Problems()) == 1 })
	other.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	until("the free port is not served", func() bool {
		resp, err := client.Get("http://" + other.Addr().String() + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && len(sockets.Problems()) == 0
	})
}
