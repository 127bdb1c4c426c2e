package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/store/kube"
)

// On Kubernetes only the API server changes a Pod's labels and readiness.
func TestPodAPI_OnKubernetes_RefusesChanges(t *testing.T) {
	a := &Agent{kube: &kube.Connection{}}
	for path, call := range map[string]http.HandlerFunc{api.PodLabelsPath: a.labelPod, api.PodProbePath: a.probePod} {
		w := httptest.NewRecorder()
		call(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"pod":"default/p"}`)))
		if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "use kubectl") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
