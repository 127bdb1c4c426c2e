package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
)

// The service manager is notified when a member serves clients, and when it begins to stop.
func TestEtcd_ServiceManager_IsNotified(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	clients := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t))
	peers := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() {
		c := root()
		c.SetArgs([]string{"etcd", "--data-dir", filepath.Join(dir, "data"), "--client-urls", clients, "--peer-urls", peers, "--insecure",
			"--log-level", "fatal"})
		done <- c.ExecuteContext(ctx)
	}()
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		_ = manager.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := manager.Read(buf); err != nil || string(buf[:n]) != want {
			t.Fatalf("received %q, %v; expected %q", buf[:n], err, want)
		}
	}
	expect("READY=1")
	cli, err := client.Dial(client.Config{Endpoints: []string{clients}})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	if _, err := cli.Get(t.Context(), "k"); err != nil {
		t.Errorf("not served yet: %v", err)
	}
	stop()
	expect("STOPPING=1")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// If no member answers, the commands return an error with the addresses within seconds.
func TestEtcdTools_NoServerAnswers_ReturnError(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	silent, closed := "http://"+mute.Addr().String(), fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t))
	for _, args := range [][]string{{"member", "list"}, {"snapshot", "save", filepath.Join(t.TempDir(), "s")}} {
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			c := root()
			c.SetArgs(append([]string{"etcd", "--endpoints", silent + "," + closed}, args...))
			c.SetOut(io.Discard)
			c.SetErr(io.Discard)
			err := c.ExecuteContext(t.Context())
			if err == nil || !strings.Contains(err.Error(), "no server of etcd answers at "+silent+", "+closed) {
				t.Errorf("%v", err)
			}
		})
	}
}
