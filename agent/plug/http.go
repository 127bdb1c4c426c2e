package plug

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// maxBody bounds a request. GC lists every attachment of the node, about 100 bytes each.
const maxBody = 1 << 20

// handle turns a call into an HTTP handler: its value is answered as JSON, its error as api.Error.
func (s *Server) handle(call func(*request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := call(&request{Request: r, w: w})
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		answer(w, http.StatusOK, v)
	}
}

// request is one call of the plugin.
type request struct {
	*http.Request
	w http.ResponseWriter
}

// decode reads the body strictly: one JSON value, no unknown field, nothing behind it.
func (r *request) decode(v any) error {
	d := json.NewDecoder(http.MaxBytesReader(r.w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &api.Error{Code: api.CodeDecode, Message: "cannot read the request", Details: err.Error()}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &api.Error{Code: api.CodeDecode, Message: "the request has something behind its JSON value"}
	}
	return nil
}

func answer(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		status = http.StatusInternalServerError
		b.Reset()
		fmt.Fprintf(&b, `{"code":%d,"message":"cannot write the answer"}`, api.CodeInternal)
	}
	w.Header().Set("Content-Type", "application/json")
	// The plugin's own small client reads a length, no chunks.
	w.Header().Set("Content-Length", fmt.Sprint(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // a plugin that went away is seen by its connection
}

// refuse answers with an error and gives it the code that the runtime sees.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	if e.Code == api.CodeInternal {
		s.Log.Warn("cni request failed", "path", r.URL.Path, "err", err)
	}
	status := http.StatusInternalServerError
	switch e.Code {
	case api.CodeDecode, api.CodeConfig:
		status = http.StatusBadRequest
	case api.CodeUnknown:
		status = http.StatusNotFound
	case api.CodeAttached, api.CodeHeld, api.CodeFull:
		status = http.StatusConflict
	case api.CodeTryAgain:
		status = http.StatusServiceUnavailable
	}
	answer(w, status, e)
}

func asError(err error) *api.Error {
	var (
		e    *api.Error
		full *ipam.FullError
		held *ipam.HeldError
		bad  *ipam.RequestError
	)
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &full):
		return &api.Error{Code: api.CodeFull, Message: err.Error()}
	case errors.As(err, &held), errors.As(err, &bad):
		return &api.Error{Code: api.CodeHeld, Message: err.Error()}
	case errors.Is(err, ipam.ErrNoBlock):
		return &api.Error{Code: api.CodeTryAgain, Message: err.Error()}
	}
	return &api.Error{Code: api.CodeInternal, Message: err.Error()}
}
