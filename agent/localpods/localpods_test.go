package localpods

import (
	"errors"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// On Kubernetes only the API server changes a Pod's labels and readiness.
func TestPods_OnKubernetes_RefusesChanges(t *testing.T) {
	p := New(Config{Kubernetes: true})
	if _, err := p.ChangeLabels(api.PodLabels{Pod: "default/p"}); !errors.Is(err, ErrKubernetes) {
		t.Errorf("labels: %v", err)
	}
	if _, err := p.ChangeProbe(api.PodProbe{Pod: "default/p"}); !errors.Is(err, ErrKubernetes) {
		t.Errorf("probe: %v", err)
	}
}

func TestPods_ChangeOfUnknownPod_UnknownError(t *testing.T) {
	p := New(Config{Records: func() []ipam.Record { return nil }})
	var unknown *UnknownError
	if _, err := p.ChangeLabels(api.PodLabels{Pod: "default/p", Set: map[string]string{"app": "web"}}); !errors.As(err, &unknown) {
		t.Error(err)
	}
	var invalid *InvalidError
	if _, err := p.ChangeLabels(api.PodLabels{Pod: "default/p", Set: map[string]string{"-": "web"}}); !errors.As(err, &invalid) {
		t.Error(err)
	}
}
