package kube

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// dialTimeout bounds one attempt: with two of three servers unreachable, a connection takes four seconds at most.
const dialTimeout = 2 * time.Second

// dialer connects to the first of several servers that accepts a connection. It ignores the address that client-go dials.
//
// Any process can listen at the address of an API server that is down. So a server is tried first only after a TLS handshake with
// it, which verifies its certificate; one whose connection ends without a handshake is tried last.
type dialer struct {
	mu      sync.Mutex
	servers []string
	last    string          // of the last TLS handshake
	failed  map[string]bool // servers whose last connection ended without a TLS handshake
}

func (d *dialer) set(servers []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.servers, d.failed = slices.Clone(servers), nil
}

// order lists the servers: the one of the last TLS handshake, those that did not fail, then those that did.
func (d *dialer) order() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]string, 0, len(d.servers))
	if slices.Contains(d.servers, d.last) {
		out = append(out, d.last)
	}
	for _, failed := range []bool{false, true} {
		for _, s := range d.servers {
			if d.failed[s] == failed && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// verified notes a TLS handshake with a server.
func (d *dialer) verified(server string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = server
	delete(d.failed, server)
}

// unverified notes that a server cannot be reached, or that a connection to it ended without a TLS handshake.
func (d *dialer) unverified(server string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == server {
		d.last = ""
	}
	if d.failed == nil {
		d.failed = map[string]bool{}
	}
	d.failed[server] = true
}

// DialContext has the form that rest.Config wants.
func (d *dialer) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	var errs []error
	for _, s := range d.order() {
		nd := net.Dialer{Timeout: dialTimeout, KeepAlive: 10 * time.Second}
		conn, err := nd.DialContext(ctx, network, s)
		if err == nil {
			return &serverConn{Conn: conn, dialer: d, server: s}, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		d.unverified(s)
	}
	if len(errs) == 0 {
		return nil, errors.New("no address of an API server is configured (kubernetes.servers)")
	}
	return nil, errors.Join(errs...)
}

// serverConn is a connection to a server.
type serverConn struct {
	net.Conn
	dialer   *dialer
	server   string
	verified atomic.Bool
}

// Close ends the connection. Without a TLS handshake before it, the server counts as failed.
func (c *serverConn) Close() error {
	if !c.verified.Load() {
		c.dialer.unverified(c.server)
	}
	return c.Conn.Close()
}

// observe returns a transport that notes for each request the server of its connection. The HTTP transport selects a
// connection only after the TLS handshake.
func (d *dialer) observe(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
			t, ok := i.Conn.(*tls.Conn)
			if !ok {
				return
			}
			if c, ok := t.NetConn().(*serverConn); ok && !c.verified.Swap(true) {
				d.verified(c.server)
			}
		}}
		return next.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	})
}

// roundTripper is a function with the form of http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls the function.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
