package localapi

import (
	"errors"
	"net/http"

	"github.com/warrennet/warren/agent/localpods"
	"github.com/warrennet/warren/internal/api"
)

// changePod reads a request of type Q, makes the change and answers with the changed Pod.
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
