package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/api"
)

// On Kubernetes nobody but the API server says what a Pod's labels are and whether it is ready.
func TestPodsOfKubernetesAreNotChanged(t *testing.T) {
	a := &Agent{kube: &kubernetes{}}
	for path, call := range map[string]http.HandlerFunc{api.PodLabelsPath: a.labelPod, api.PodProbePath: a.probePod} {
		w := httptest.NewRecorder()
		call(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"pod":"default/p"}`)))
		if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "use kubectl") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
