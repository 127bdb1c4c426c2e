package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/warrennet/warren/agent/localpods"
	"github.com/warrennet/warren/internal/api"
)

// maxRequest bounds the body of a request in bytes.
const maxRequest = 64 << 10

// read decodes the body of a request strictly.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	return nil
}

func (a *Agent) labelPod(w http.ResponseWriter, r *http.Request) {
	changePod(w, r, a.pods.ChangeLabels)
}

func (a *Agent) probePod(w http.ResponseWriter, r *http.Request) {
	changePod(w, r, a.pods.ChangeProbe)
}

func changePod[Q any](w http.ResponseWriter, r *http.Request, change func(Q) (api.Pod, error)) {
	var q Q
	if err := read(w, r, &q); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	pod, err := change(q)
	if err != nil {
		refuse(w, podStatus(err), err)
		return
	}
	reply(w, pod)
}

func podStatus(err error) int {
	var invalid *localpods.InvalidError
	var unknown *localpods.UnknownError
	switch {
	case errors.As(err, &invalid):
		return http.StatusBadRequest
	case errors.As(err, &unknown):
		return http.StatusNotFound
	case errors.Is(err, localpods.ErrKubernetes), errors.Is(err, localpods.ErrTooMany):
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}
