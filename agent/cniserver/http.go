package cniserver

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

// handle makes an HTTP handler of a call. The call's value is the response as JSON, its error one as api.Error.
func (s *Server) handle(call func(*request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := call(&request{Request: r, w: w})
		if err != nil {
			s.respondError(w, r, err)
			return
		}
		respond(w, http.StatusOK, v)
	}
}

// request is one call of the plugin.
type request struct {
	*http.Request
	w http.ResponseWriter
}

// decode decodes the body strictly: one JSON value, no unknown field, no data after it.
func (r *request) decode(v any) error {
	d := json.NewDecoder(http.MaxBytesReader(r.w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &api.Error{Code: api.CodeDecode, Message: "cannot read the request", Details: err.Error()}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &api.Error{Code: api.CodeDecode, Message: "cannot read the request", Details: "expected one JSON value, found data after it"}
	}
	return nil
}

func respond(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		status = http.StatusInternalServerError
		b.Reset()
		fmt.Fprintf(&b, `{"code":%d,"message":"cannot encode the response"}`, api.CodeInternal)
	}
	w.Header().Set("Content-Type", "application/json")
	// The plugin's HTTP client does not implement chunked encoding.
	w.Header().Set("Content-Length", fmt.Sprint(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the ConnState hook handles the end of the connection
}

// respondError sends an error with the code that the runtime receives.
func (s *Server) respondError(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	if e.Code == api.CodeInternal {
		s.Log.Warn("CNI request failed", "url", r.URL.Path, "err", err)
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
	respond(w, status, e)
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
