package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// Bounds of a probe.
const (
	minInterval = 100 * time.Millisecond
	maxInterval = time.Hour
	maxFailures = 100
	maxPath     = 1024
	maxTimeout  = 10 * time.Second
)

// Check returns an error with all problems of a probe.
func Check(p api.Probe) error {
	var errs []error
	switch p.Kind {
	case "tcp":
		if p.Path != "" {
			errs = append(errs, errors.New("path: expected none for a tcp probe"))
		}
	case "http":
		if u, err := url.ParseRequestURI(p.Path); err != nil || !strings.HasPrefix(p.Path, "/") || u.Host != "" || len(p.Path) > maxPath {
			errs = append(errs, fmt.Errorf("path %q: expected a URL path that begins with / and has at most %d bytes", p.Path, maxPath))
		}
	default:
		errs = append(errs, fmt.Errorf("kind %q: expected tcp or http", p.Kind))
	}
	if p.Port == 0 {
		errs = append(errs, errors.New("port 0: expected 1 to 65535"))
	}
	if ms := int64(p.IntervalMillis); ms < minInterval.Milliseconds() || ms > maxInterval.Milliseconds() {
		errs = append(errs, fmt.Errorf("interval %dms: expected %v to %v", p.IntervalMillis, minInterval, maxInterval))
	}
	if p.Failures < 1 || p.Failures > maxFailures {
		errs = append(errs, fmt.Errorf("failures %d: expected 1 to %d", p.Failures, maxFailures))
	}
	return errors.Join(errs...)
}

func interval(p api.Probe) time.Duration { return time.Duration(p.IntervalMillis) * time.Millisecond }

// attempt makes one attempt. It ends before the next one starts.
func attempt(ctx context.Context, t Target) error {
	timeout := min(interval(t.Probe)*4/5, maxTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no response within %v", timeout))
	defer cancel()
	err := connect(ctx, t)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// connect opens a TCP connection or sends an HTTP request.
func connect(ctx context.Context, t Target) error {
	at := netip.AddrPortFrom(t.Addr, t.Probe.Port)
	if t.Probe.Kind == "http" {
		return get(ctx, "http://"+at.String()+t.Probe.Path)
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	return c.Close()
}

// client sends requests to the Pod only: it uses no proxy, follows no redirect and keeps no connection.
var client = http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func get(ctx context.Context, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "warren-probe")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("GET %s: %s", target, resp.Status)
	}
	return nil
}
