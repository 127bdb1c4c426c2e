package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Without TLS a member does not start unless the configuration requests it.
func TestRun_WithoutTLS_Refused(t *testing.T) {
	files := newAuthority(t).member("m")
	for _, c := range []struct {
		name    string
		cfg     Config
		clients string
		peers   string
		want    []string // in the error; none: accepted
	}{
		{"no files", Config{}, "https://127.0.0.1:1", "https://127.0.0.1:2",
			[]string{"--ca-file", "--cert-file", "--key-file", "--insecure"}},
		{"no authority", Config{CertFile: "crt", KeyFile: "key"}, "https://127.0.0.1:1", "https://127.0.0.1:2", []string{"--ca-file"}},
		{"http for clients", files, "http://127.0.0.1:1", "https://127.0.0.1:2", []string{`--client-urls: "http://127.0.0.1:1"`}},
		{"upper case", files, "HTTP://127.0.0.1:1", "https://127.0.0.1:2", []string{`--client-urls: "HTTP://127.0.0.1:1"`}},
		{"http for members", files, "https://127.0.0.1:1", "http://127.0.0.1:2", []string{`--peer-urls: "http://127.0.0.1:2"`}},
		{"TLS", files, "https://127.0.0.1:1", "https://127.0.0.1:2", nil},
		{"insecure", Config{Insecure: true}, "http://127.0.0.1:1", "http://127.0.0.1:2", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Name, c.cfg.DataDir, c.cfg.ClientURLs, c.cfg.PeerURLs = "m", t.TempDir(), []string{c.clients}, []string{c.peers}
			_, err := c.cfg.embed()
			if (err != nil) != (len(c.want) > 0) {
				t.Fatalf("error %v, expected one with %q", err, c.want)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %v, expected %q in it", err, part)
				}
			}
		})
	}
}

// The port of clients serves gRPC only: no JSON over HTTP.
func TestRun_JSONRequest_NotServed(t *testing.T) {
	plain := func() string { return strings.Replace(freeURL(t), "https://", "http://", 1) }
	at := plain()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Name: "m", DataDir: t.TempDir(), ClientURLs: []string{at}, PeerURLs: []string{plain()}, Insecure: true,
			LogLevel: "fatal"}, func() { close(ready) })
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-ready:
	case <-time.After(time.Minute):
		t.Fatal("not ready")
	}
	for path, body := range map[string]string{"/v3/kv/range": `{"key":"Lw=="}`, "/v3/kv/put": `{"key":"Lw==","value":"Lw=="}`,
		"/v3/cluster/member/list": "{}"} {
		resp, err := http.Post(at+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s, expected %s", path, resp.Status, fmt.Sprint(http.StatusNotFound))
		}
	}
}
