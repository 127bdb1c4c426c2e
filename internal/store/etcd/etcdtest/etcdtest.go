// Package etcdtest runs the real etcd on loopback for tests. It owns the server and its temporary directory, and removes
// both at the end of the test.
package etcdtest

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/etcd/server"
)

// Start runs one member and returns its client URL.
func Start(t testing.TB) string {
	t.Helper()
	url := fmt.Sprintf("http://127.0.0.1:%d", FreePort(t))
	cfg := server.Config{Name: "t", DataDir: t.TempDir(), ClientURLs: []string{url},
		PeerURLs: []string{fmt.Sprintf("http://127.0.0.1:%d", FreePort(t))}, Insecure: true, LogLevel: "fatal"}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- server.Run(ctx, cfg, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("etcd: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("etcd did not start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("etcd was not ready within a minute")
	}
	return url
}

// Open connects a Store to url for the length of the test.
func Open(t testing.TB, url, cluster string) *etcd.Store {
	t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: []string{url}, Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// FreePort returns a TCP port of loopback that no process uses now.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
