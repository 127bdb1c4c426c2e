package httpserve

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRun_ContextEndsDuringRequest_WaitsForHandler(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, c := range []struct {
		name    string
		handler func(r *http.Request)
	}{
		{"handler ends within the grace period", func(*http.Request) { time.Sleep(100 * time.Millisecond) }},
		{"handler ends when its connection is closed", func(r *http.Request) { <-r.Context().Done() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			entered, ended := make(chan struct{}), atomic.Bool{}
			srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				close(entered)
				c.handler(r)
				ended.Store(true)
			})}
			ctx, cancel := context.WithCancel(t.Context())
			l, done, answered := listen(t), make(chan error, 1), make(chan struct{})
			go func() { done <- Run(ctx, srv, l) }()
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			go func() {
				defer close(answered)
				if resp, err := client.Get("http://" + l.Addr().String()); err == nil {
					resp.Body.Close()
				}
			}()
			<-entered
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if !ended.Load() {
				t.Error("Run returned while the handler was running")
			}
			<-answered
		})
	}
}

func TestRun_ListenerFails_ReturnsError(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	l := listen(t)
	l.Close()
	if err := Run(t.Context(), &http.Server{Handler: http.NotFoundHandler()}, l); err == nil {
		t.Error("no error")
	}
}
