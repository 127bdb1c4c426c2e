// Package bridge serves HTTP for a Router with net/http and httputil.ReverseProxy.
//
// It owns the connections to clients and endpoints. It reads no API object, and decides nothing that the Router decides.
package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/internal/netx"
)

// Config is what a Server needs.
type Config struct {
	Router  func() engine.Router // called once for each request
	Observe func(*engine.Event)  // called once for each request that has ended
	Log     *slog.Logger
	// TrustedProxies are those whose X-Forwarded-For and X-Forwarded-Proto count. The fields of other clients are replaced.
	TrustedProxies []netip.Prefix
}

// Limits of the server.
const (
	headerTimeout   = 10 * time.Second // to receive the head of a request
	idleTimeout     = 120 * time.Second
	maxHeaderBytes  = 64 << 10
	connectTimeout  = 5 * time.Second
	readTimeout     = 60 * time.Second // without a byte from the endpoint before the head of the response
	defaultAttempts = 3
	idlePerEndpoint = 64
)

// StatusClientClosed is logged for a request whose client closed the connection before the response began, as nginx does.
const StatusClientClosed = 499

// Server serves any number of listeners.
type Server struct {
	cfg     Config
	clear   *http.Transport
	h2c     *http.Transport
	mu      sync.Mutex
	secure  map[*tls.Config]*http.Transport
	servers []*http.Server
	closed  bool
	running sync.WaitGroup // requests, also those that became other protocols, which http.Server does not wait for
	ended   chan struct{}  // closed at the end of Shutdown's patience: upgraded connections are closed
}

// New makes a Server.
func New(c Config) *Server {
	s := &Server{ended: make(chan struct{}), cfg: c, clear: transport(), h2c: transport(), secure: map[*tls.Config]*http.Transport{}}
	s.h2c.Protocols = &http.Protocols{}
	s.h2c.Protocols.SetUnencryptedHTTP2(true)
	return s
}

func transport() *http.Transport {
	return &http.Transport{DialContext: (&net.Dialer{Timeout: connectTimeout}).DialContext, DisableCompression: true,
		MaxIdleConnsPerHost: idlePerEndpoint, IdleConnTimeout: idleTimeout, ResponseHeaderTimeout: readTimeout}
}

// Serve accepts connections until Shutdown. listener is the number that the Router receives.
func (s *Server) Serve(l net.Listener, listener int, secure bool) error {
	srv := &http.Server{Handler: &handler{s, listener}, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug)}
	srv.Protocols = &http.Protocols{}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(http.ErrServerClosed, l.Close())
	}
	s.servers = append(s.servers, srv)
	s.mu.Unlock()
	if !secure {
		return ended(srv.Serve(l))
	}
	srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12,
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cfg.Router().Certificate(listener, h) }}
	return ended(srv.ServeTLS(l, "", ""))
}

func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown closes the listeners and waits for the requests in progress and for upgraded connections such as WebSockets, until ctx ends.
// Then it closes their connections. It is called once.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	servers := s.servers
	s.mu.Unlock()
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, srv := range servers {
		wg.Go(func() {
			if err := srv.Shutdown(ctx); err != nil {
				errs[i] = srv.Close()
			}
		})
	}
	wg.Wait()
	stop := context.AfterFunc(ctx, func() { close(s.ended) })
	s.running.Wait()
	stop()
	s.clear.CloseIdleConnections()
	s.h2c.CloseIdleConnections()
	return errors.Join(errs...)
}

func (s *Server) transport(u *engine.Upstream) http.RoundTripper {
	switch {
	case u.TLS != nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		t := s.secure[u.TLS]
		if t == nil {
			t = transport()
			t.TLSClientConfig, t.ForceAttemptHTTP2 = u.TLS, true
			s.secure[u.TLS] = t
		}
		return t
	case u.H2C:
		return s.h2c
	}
	return s.clear
}

type handler struct {
	*Server
	listener int
}

// exchange is one request.
type exchange struct {
	http.ResponseWriter
	s        *Server
	decision engine.Decision
	event    engine.Event
	hops     int // how often an ingress forwarded the request before
	body     *countedBody
}

// countedBody counts what is read of a request's body.
type countedBody struct {
	io.ReadCloser
	n int64
}

// Read counts.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}

// WriteHeader notes the status.
func (x *exchange) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		x.event.Status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (x *exchange) Write(p []byte) (int, error) {
	if x.event.Status == 0 {
		x.event.Status = http.StatusOK
	}
	n, err := x.ResponseWriter.Write(p)
	x.event.Sent += int64(n)
	return n, err
}

// Unwrap gives http.ResponseController the writer of the server, for flushing and upgrades.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// ServeHTTP routes and forwards one request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	h.running.Add(1)
	defer h.running.Done()
	x := &exchange{ResponseWriter: w, s: h.Server, body: &countedBody{ReadCloser: r.Body}}
	if r.Body != http.NoBody {
		r.Body = x.body
	}
	req := h.request(r)
	x.event.Request = req
	defer func() { // also while ReverseProxy aborts the response by a panic
		x.event.Received, x.event.Duration = x.body.n, time.Since(start)
		if x.event.Status == 0 {
			x.event.Status = StatusClientClosed
		}
		h.cfg.Observe(&x.event)
	}()
	if x.hops, _ = strconv.Atoi(r.Header.Get(engine.HopsField)); x.hops >= engine.MaxHops {
		respond(x, &engine.Decision{Status: http.StatusLoopDetected, Body: "the request passed an ingress too often\n"})
		return
	}
	x.decision = h.cfg.Router().Route(req)
	x.event.Rule = x.decision.Rule
	if x.decision.Upstream.Pick == nil {
		respond(x, &x.decision)
		return
	}
	x.forward(r, req)
}

func respond(w http.ResponseWriter, d *engine.Decision) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, f := range d.Headers {
		w.Header().Add(f[0], f[1])
	}
	w.WriteHeader(d.Status)
	_, _ = io.WriteString(w, d.Body) // the client may be gone
}

// request converts the head of a request.
func (h *handler) request(r *http.Request) *engine.Request {
	client, _ := netip.ParseAddrPort(r.RemoteAddr) // always valid for TCP
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	out := &engine.Request{Method: r.Method, Scheme: "http", Host: hostOf(r.Host), Path: r.URL.EscapedPath(), Query: r.URL.RawQuery,
		Header: header(r.Header), Client: client, TLS: r.TLS != nil, Listener: h.listener}
	if r.TLS != nil {
		out.Scheme, out.ServerName = "https", strings.ToLower(r.TLS.ServerName)
	}
	if netx.Contains(h.cfg.TrustedProxies, client.Addr()) {
		if p := strings.ToLower(r.Header.Get("X-Forwarded-Proto")); p == "http" || p == "https" {
			out.Scheme = p
		}
		out.Client = h.clientOf(r, client)
	} else {
		for _, f := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "X-Real-Ip"} {
			r.Header.Del(f)
		}
	}
	return out
}

// clientOf is the last address of X-Forwarded-For that is no trusted proxy.
func (h *handler) clientOf(r *http.Request, client netip.AddrPort) netip.AddrPort {
	list := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(list) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(list[i]))
		if err != nil {
			break
		}
		client = netip.AddrPortFrom(a.Unmap(), 0)
		if !netx.Contains(h.cfg.TrustedProxies, client.Addr()) {
			break
		}
	}
	return client
}

// hostOf is the host of a Host field in lower case, without port and final dot.
func hostOf(s string) string {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

type header http.Header

// Get returns the first value.
func (h header) Get(name string) string { return http.Header(h).Get(name) }

// Values returns all values.
func (h header) Values(name string) []string { return http.Header(h).Values(name) }

func (x *exchange) forward(r *http.Request, req *engine.Request) {
	if most := x.decision.MaxBody; most > 0 {
		if r.ContentLength > most {
			respond(x, &engine.Decision{Status: http.StatusRequestEntityTooLarge, Body: "the body is too large\n"})
			return
		}
		r.Body = http.MaxBytesReader(x, r.Body, most)
	}
	if r.Header.Get("Upgrade") != "" { // the server does not end such a request by itself
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		go func() {
			select {
			case <-x.s.ended:
				cancel()
			case <-ctx.Done():
			}
		}()
		r = r.WithContext(ctx)
	}
	if t := x.decision.Timeouts.Request; t > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), t)
		defer cancel()
		r = r.WithContext(ctx)
	}
	proxy := &httputil.ReverseProxy{FlushInterval: -1, Transport: x, ErrorLog: slog.NewLogLogger(x.s.cfg.Log.Handler(), slog.LevelDebug),
		Rewrite:        func(p *httputil.ProxyRequest) { x.rewrite(p, req) },
		ModifyResponse: x.modify, ErrorHandler: x.fail}
	proxy.ServeHTTP(x, r)
}

func (x *exchange) rewrite(p *httputil.ProxyRequest, req *engine.Request) {
	p.Out.URL.Scheme, p.Out.URL.Host = "http", "endpoint" // RoundTrip sets the endpoint
	if x.decision.Upstream.TLS != nil {
		p.Out.URL.Scheme = "https"
	}
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	if prior := p.In.Header["X-Forwarded-For"]; len(prior) > 0 {
		p.Out.Header["X-Forwarded-For"] = prior
	}
	p.SetXForwarded()
	p.Out.Header.Set("X-Forwarded-Proto", req.Scheme)
	p.Out.Header.Set("X-Real-Ip", req.Client.Addr().String())
	p.Out.Header.Set(engine.HopsField, strconv.Itoa(max(x.hops, 0)+1))
	p.Out.Host = p.In.Host
	w := x.decision.Rewrite
	if w == nil {
		return
	}
	if w.Host != "" {
		p.Out.Host = w.Host
	}
	if w.Path != "" {
		if path, err := url.PathUnescape(w.Path); err == nil {
			p.Out.URL.Path, p.Out.URL.RawPath = path, w.Path
		}
	}
	change(p.Out.Header, &w.Request)
}

func change(h http.Header, c *engine.HeaderChanges) {
	for _, f := range c.Remove {
		h.Del(f)
	}
	for _, f := range c.Set {
		h.Set(f[0], f[1])
	}
	for _, f := range c.Add {
		h.Add(f[0], f[1])
	}
}

func (x *exchange) modify(r *http.Response) error {
	if r.StatusCode == http.StatusSwitchingProtocols {
		x.event.Status = r.StatusCode // it is written past WriteHeader
	}
	if w := x.decision.Rewrite; w != nil {
		change(r.Header, &w.Response)
	}
	return nil
}

// errNoEndpoint is the error of a request that no endpoint is left for.
var errNoEndpoint = errors.New("no endpoint is available")

func (x *exchange) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadGateway
	var timeout net.Error
	var tooLarge *http.MaxBytesError
	switch {
	case r.Context().Err() != nil && !errors.Is(r.Context().Err(), context.DeadlineExceeded):
		return // the client is gone
	case errors.As(err, &tooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, errNoEndpoint):
		status = http.StatusServiceUnavailable
	case errors.As(err, &timeout) && timeout.Timeout():
		status = http.StatusGatewayTimeout
	}
	x.s.cfg.Log.Debug("a request failed at all endpoints that were tried", "endpoint", x.event.Endpoint, "err", err)
	respond(w, &engine.Decision{Status: status, Body: strings.ToLower(http.StatusText(status)) + "\n"})
}

// RoundTrip sends a request to an endpoint, and to another one if that is safe.
func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	u := &x.decision.Upstream
	attempts := x.decision.Retry.Attempts
	if attempts == 0 {
		attempts = defaultAttempts
	}
	var tried []netip.AddrPort
	last := errNoEndpoint
	for len(tried) < attempts {
		addr, ok := u.Pick(tried)
		if !ok {
			return nil, last
		}
		tried = append(tried, addr)
		x.event.Endpoint, x.event.Attempts = addr, len(tried)
		out := r.Clone(r.Context())
		out.URL.Host = addr.String()
		if r.Body != nil {
			out.Body = io.NopCloser(r.Body) // a failed attempt must not close it; ReverseProxy does at the end
		}
		resp, err := x.s.transport(u).RoundTrip(out)
		if err == nil {
			resp.Body = finish(resp.Body, func() { u.Done(addr, engine.Answered) })
			return resp, nil
		}
		last = err
		result := outcome(r, err)
		u.Done(addr, result)
		if result == engine.Canceled || x.body.n > 0 || result == engine.Broken && (r.Body != nil || !idempotent(r.Method)) {
			return nil, err
		}
	}
	return nil, last
}

func outcome(r *http.Request, err error) engine.Result {
	var op *net.OpError
	switch {
	case r.Context().Err() != nil:
		return engine.Canceled
	case errors.As(err, &op) && op.Op == "dial":
		return engine.ConnectFailed
	}
	return engine.Broken
}

// idempotent methods are those of RFC 9110, section 9.2.2.
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// finished calls done once, when the body is closed.
type finished struct {
	io.ReadCloser
	done func()
}

// Close calls done.
func (f *finished) Close() error {
	f.done()
	return f.ReadCloser.Close()
}

// finishedUpgrade is the body of a response 101, which is written to as well.
type finishedUpgrade struct {
	io.ReadWriteCloser
	done func()
}

// Close calls done.
func (f *finishedUpgrade) Close() error {
	f.done()
	return f.ReadWriteCloser.Close()
}

func finish(body io.ReadCloser, done func()) io.ReadCloser {
	once := sync.OnceFunc(done)
	if rw, ok := body.(io.ReadWriteCloser); ok {
		return &finishedUpgrade{rw, once}
	}
	return &finished{body, once}
}
