// Package echo is the server in a lab's Pods. It returns its host name and the client's address over TCP, UDP and HTTP. It owns
// its three listeners while Serve runs.
package echo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"
	"time"
)

// Config has the addresses to listen on; an empty address disables that server.
type Config struct{ TCP, UDP, HTTP string }

// Serve answers until ctx ends; ready is called once all servers listen.
//
// TCP: one line "host=NAME client=ADDR server=ADDR", then everything read is sent back. UDP: each datagram is answered
// by that line and the datagram. HTTP: the line and the request's headers.
func Serve(ctx context.Context, c Config, ready func()) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{host: host}
	var serve []func(context.Context) error
	if c.TCP != "" {
		l, err := net.Listen("tcp", c.TCP)
		if err != nil {
			return err
		}
		defer l.Close()
		serve = append(serve, func(ctx context.Context) error { return s.tcp(ctx, l) })
	}
	if c.UDP != "" {
		l, err := net.ListenPacket("udp", c.UDP)
		if err != nil {
			return err
		}
		defer l.Close()
		serve = append(serve, func(ctx context.Context) error { return s.udp(ctx, l) })
	}
	if c.HTTP != "" {
		l, err := net.Listen("tcp", c.HTTP)
		if err != nil {
			return err
		}
		defer l.Close()
		serve = append(serve, func(ctx context.Context) error { return s.http(ctx, l) })
	}
	ready()
	results := make(chan error)
	for _, f := range serve {
		go func() { results <- f(ctx) }()
	}
	var errs []error
	for range serve {
		if err := <-results; err != nil {
			errs = append(errs, err)
			cancel()
		}
	}
	return errors.Join(errs...)
}

type server struct{ host string }

func (s *server) line(client, local net.Addr) string {
	return fmt.Sprintf("host=%s client=%s server=%s\n", s.host, client, local)
}

func (s *server) tcp(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if _, err := io.WriteString(c, s.line(c.RemoteAddr(), c.LocalAddr())); err == nil {
				_, _ = io.Copy(c, bufio.NewReader(c)) // ends with the client
			}
		}()
	}
}

func (s *server) udp(ctx context.Context, c net.PacketConn) error {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	buf := make([]byte, 65535)
	for {
		n, from, err := c.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		_, _ = c.WriteTo(append([]byte(s.line(from, c.LocalAddr())), buf[:n]...), from) // UDP: the client detects a lost answer
	}
}

func (s *server) http(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: http.HandlerFunc(s.page), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *server) page(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	fmt.Fprintf(w, "host=%s client=%s server=%s\n%s %s %s\nHost: %s\n", s.host, r.RemoteAddr, local, r.Method, r.URL, r.Proto, r.Host)
	var names []string
	for k := range r.Header {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		for _, v := range r.Header[k] {
			fmt.Fprintf(w, "%s: %s\n", k, v)
		}
	}
}

// Call sends a request to a server of this package, or to any HTTP server, and returns the answer: the page of an http URL, or the
// first line of tcp://HOST:PORT or udp://HOST:PORT.
func Call(ctx context.Context, target string) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	switch u.Scheme {
	case "http", "https":
		return get(ctx, target)
	case "tcp", "udp":
	default:
		return "", fmt.Errorf("%q: expected http://, tcp:// or udp://", target)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, u.Scheme, u.Host)
	if err != nil {
		return "", err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if u.Scheme == "udp" {
		if _, err := c.Write([]byte("hi\n")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(buf[:n]), "\n")
	return line + "\n", nil
}

func get(ctx context.Context, target string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(page), err
}
