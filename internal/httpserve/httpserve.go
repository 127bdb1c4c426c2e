// Package httpserve runs an http.Server until a context ends and joins the goroutines of its connections.
//
// http.Server.Close does not wait for running handlers, and Shutdown waits without a limit. Run returns only after every
// connection's goroutine has ended: its handler and its ConnState hook have returned. The wait is bounded. The package
// starts no goroutine that outlives a handler, and logs nothing.
package httpserve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// grace is the time that running requests have to end after the context ended. Then their connections are closed, which
// cancels the requests' contexts, and their handlers have forced more to return.
const (
	grace  = time.Second
	forced = 4 * time.Second
)

// ErrHandlersRunning is returned when handlers still ran after their connections were closed.
var ErrHandlersRunning = errors.New("handlers still run after the server's connections were closed")

// Run serves l with srv until ctx ends, then joins the connections' goroutines. It returns nil after a stop by ctx, and
// it closes l. The caller must not use srv for another Run.
func Run(ctx context.Context, srv *http.Server, l net.Listener) error {
	var conns sync.WaitGroup
	hook := srv.ConnState
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1) // in the goroutine of Serve, so before Wait
		}
		if hook != nil {
			hook(c, s)
		}
		if s == http.StateClosed || s == http.StateHijacked {
			conns.Done()
		}
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		_ = srv.Shutdown(ctx) // what it did not end, Close does
		srv.Close()
	})
	err := srv.Serve(l)
	if stop() { // ctx has not ended: the listener failed
		srv.Close()
		return errors.Join(fmt.Errorf("serve %s: %w", l.Addr(), err), join(&conns))
	}
	<-stopped
	if err := join(&conns); err != nil {
		return fmt.Errorf("stop the server on %s: %w", l.Addr(), err)
	}
	return nil
}

func join(conns *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() { conns.Wait(); close(done) }()
	t := time.NewTimer(forced)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
		return ErrHandlersRunning
	}
}
