package hostio

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/model"
	"go.uber.org/goleak"
)

func TestHealthChecks_Set_AnswersPerServiceAndJoinsServers(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h := NewHealthChecks(func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/30")} },
		slog.New(slog.DiscardHandler))
	defer h.Close()
	check := plan.HealthCheck{Service: model.ObjectName{Namespace: "default", Name: "web"}, LocalEndpoints: 2}
	if opened, err := h.Set(map[uint16]plan.HealthCheck{30001: check, 30002: {}}); !opened || err != nil {
		t.Error("no listener was opened")
	}
	if opened, err := h.Set(map[uint16]plan.HealthCheck{30001: check, 30002: {}}); opened || err != nil {
		t.Error("a listener was opened again")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		name     string
		nodePort uint16
		addr     string
		status   int
	}{
		{"endpoints on this node", 30001, "127.0.0.1", http.StatusOK},
		{"no endpoint on this node", 30002, "127.0.0.1", http.StatusServiceUnavailable},
		{"not a Pod-net address", 30001, "127.1.0.1", http.StatusForbidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := client.Get(fmt.Sprintf("http://%s:%d/", c.addr, h.Ports()[c.nodePort]))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("status %d, expected %d", resp.StatusCode, c.status)
			}
		})
	}
	if _, err := h.Set(map[uint16]plan.HealthCheck{30001: check}); err != nil {
		t.Error(err)
	}
	if len(h.Ports()) != 1 {
		t.Errorf("listeners %v, expected one", h.Ports())
	}
}
