package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/ingress/bridge"
	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/ingress/route"
	"github.com/warrennet/warren/internal/httpserve"
	"github.com/warrennet/warren/internal/model"
)

// Process is one ingress process.
type Process struct {
	cfg     Config
	source  Source
	log     *slog.Logger
	table   atomic.Pointer[route.Table] // nil until the first state was compiled
	storeMu sync.Mutex                  // of writers
	store   atomic.Pointer[storeState]
	ending  atomic.Bool
	metrics *metrics
	access  *accessLog
}

// storeState is why the store does not answer, and since when.
type storeState struct {
	err   string // "": it answers
	since time.Time
}

// New validates the configuration. It opens nothing.
func New(c Config, source Source, log *slog.Logger) (*Process, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Routes.Fallback == nil {
		fallback, err := selfSigned()
		if err != nil {
			return nil, fmt.Errorf("make a self-signed certificate: %w", err)
		}
		c.Routes.Fallback = fallback
	}
	p := &Process{cfg: c, source: source, log: log}
	p.metrics = newMetrics(p)
	p.store.Store(&storeState{err: "no answer yet", since: time.Now()})
	return p, nil
}

// Run serves until ctx ends, then finishes the requests in progress. The listeners open after the first routes were compiled, so that
// no request is refused because the process has just started.
func (p *Process) Run(ctx context.Context) error {
	access, err := openAccessLog(p.cfg.AccessLog, p.cfg.Sample)
	if err != nil {
		return err
	}
	p.access = access
	defer access.close()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx)) // ends after the last request
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	failed := make(chan error, 4)
	if err := p.serveAdmin(work, &wg, failed); err != nil {
		return err
	}
	compiled := make(chan struct{})
	wg.Go(func() { p.follow(work, compiled) })
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	case <-compiled:
	}
	return p.serve(ctx, &wg, failed)
}

// serve opens the listeners for clients and serves them until ctx ends.
func (p *Process) serve(ctx context.Context, wg *sync.WaitGroup, failed chan error) error {
	srv := bridge.New(bridge.Config{Router: func() engine.Router { return p.table.Load() }, Observe: p.observe, Log: p.log,
		TrustedProxies: p.cfg.TrustedProxies})
	for _, l := range []struct {
		number  int
		address string
	}{{HTTP, p.cfg.HTTP}, {HTTPS, p.cfg.HTTPS}} {
		if l.address == "" {
			continue
		}
		listener, err := net.Listen("tcp", l.address)
		if err != nil {
			return errors.Join(fmt.Errorf("listen for clients: %w", err), srv.Shutdown(ctx))
		}
		p.log.Info("the ingress accepts connections", "address", listener.Addr())
		wg.Go(func() {
			if err := srv.Serve(listener, l.number, l.number == HTTPS); err != nil {
				failed <- fmt.Errorf("serve %s: %w", listener.Addr(), err)
			}
		})
	}
	p.metrics.ready.Set(1)
	var result error
	select {
	case result = <-failed:
	case <-ctx.Done():
		p.ending.Store(true) // readiness fails, so that load balancers stop to send new connections
		p.metrics.ready.Set(0)
		select {
		case result = <-failed:
		case <-time.After(p.cfg.Linger):
		}
	}
	drain, cancel := context.WithTimeout(context.Background(), p.cfg.Drain)
	defer cancel()
	return errors.Join(result, srv.Shutdown(drain))
}

// follow compiles each state of the objects and publishes the table.
func (p *Process) follow(ctx context.Context, compiled chan struct{}) {
	c := route.New(p.cfg.Routes)
	first := sync.OnceFunc(func() { close(compiled) })
	var known map[string]bool
	p.source(ctx, func(o *model.IngressObjects) {
		start := time.Now()
		t := c.Compile(o)
		for _, text := range o.Problems {
			t.Problems = append(t.Problems, route.Problem{Kind: "Record", Reason: "RecordInvalid", Message: text})
		}
		p.table.Store(t)
		took := time.Since(start)
		p.metrics.compiled(took)
		p.log.Debug("compiled the routes", "count", t.Hosts(), "duration", took)
		known = p.logProblems(t, known)
		first()
	}, p.setStore)
}

// logProblems logs the problems that the former table did not have.
func (p *Process) logProblems(t *route.Table, known map[string]bool) map[string]bool {
	now := make(map[string]bool, len(t.Problems))
	for _, x := range t.Problems {
		text := x.String()
		if !known[text] {
			p.log.Warn("an object cannot be served as it is", "problem", text)
		}
		now[text] = true
	}
	return now
}

func (p *Process) setStore(err error) {
	now := &storeState{since: time.Now()}
	if err != nil {
		now.err = err.Error()
	}
	p.storeMu.Lock()
	defer p.storeMu.Unlock()
	if was := p.store.Load(); was.err == now.err {
		return
	} else if now.err == "" {
		p.log.Info("the store answers")
	} else if was.err == "" {
		p.log.Warn("the store does not answer; the last routes remain in use", "err", now.err)
	}
	p.store.Store(now)
}

// Ready returns why the process is not ready, nil if it is: routes were compiled and the process was not ended.
func (p *Process) Ready() error {
	switch {
	case p.ending.Load():
		return errors.New("the process ends")
	case p.table.Load() == nil:
		return fmt.Errorf("no routes yet: the store: %s", p.store.Load().err)
	case p.metrics.isReady() == 0:
		return errors.New("the listeners are not open yet")
	}
	return nil
}

func (p *Process) observe(e *engine.Event) {
	p.metrics.observe(e)
	p.access.write(e)
}

// serveAdmin serves metrics and health, and the local API.
func (p *Process) serveAdmin(ctx context.Context, wg *sync.WaitGroup, failed chan error) error {
	run := func(l net.Listener, h http.Handler) {
		wg.Go(func() {
			if err := httpserve.Run(ctx, &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}, l); err != nil {
				failed <- err
			}
		})
	}
	if p.cfg.Status != "" {
		l, err := net.Listen("tcp", p.cfg.Status)
		if err != nil {
			return fmt.Errorf("listen for metrics and health: %w", err)
		}
		run(l, p.statusHandler())
	}
	if p.cfg.Socket != "" {
		if err := os.Remove(p.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the socket of a former process: %w", err)
		}
		l, err := net.Listen("unix", p.cfg.Socket)
		if err != nil {
			return fmt.Errorf("listen for the local API: %w", err)
		}
		if err := os.Chmod(p.cfg.Socket, 0o600); err != nil {
			return errors.Join(err, l.Close())
		}
		run(l, p.apiHandler())
	}
	return nil
}
