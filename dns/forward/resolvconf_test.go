package forward

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// startForwarder runs a Forwarder until the test ends.
func startForwarder(t *testing.T, c Config) *Forwarder {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	c.CacheBytes, c.InFlight, c.StaleFor, c.Now, c.Log = 1<<20, 100, time.Hour, time.Now, slog.New(slog.DiscardHandler)
	c.LoopZone = "\x04loop\x07cluster\x05local\x00"
	c.Spawn = func(fn func(ctx context.Context)) bool {
		tasks.Go(func() { fn(ctx) })
		return true
	}
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		tasks.Wait()
		f.Close()
	})
	return f
}

func TestForwarder_ResolvConfChanges_UsesItsServers(t *testing.T) {
	dir := t.TempDir()
	stub, list := filepath.Join(dir, "stub", "resolv.conf"), filepath.Join(dir, "real", "resolv.conf")
	was := resolvedFiles
	resolvedFiles = []string{list}
	defer func() { resolvedFiles = was }()
	put := func(path, text string) {
		t.Helper()
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put(stub, "# comment\nsearch x\nnameserver 127.0.0.53\n")
	put(list, "nameserver 192.0.2.53\nnameserver not-an-address\nnameserver 2001:db8::53\n")
	f := startForwarder(t, Config{ResolvConf: stub})
	has := func(want string) {
		t.Helper()
		testutil.EventuallyTrue(t, "upstreams are "+want, func() bool {
			var got []string
			for _, u := range f.Upstreams() {
				got = append(got, u.Name)
			}
			return strings.Join(got, " ") == want
		})
	}
	has("192.0.2.53:53 [2001:db8::53]:53")
	put(list, "nameserver 192.0.2.54\n")
	has("192.0.2.54:53")
	put(stub, "nameserver 192.0.2.55\n")
	has("192.0.2.55:53")
	if err := os.Remove(stub); err != nil {
		t.Fatal(err)
	}
	has("")
	put(stub, "nameserver 192.0.2.56\n")
	has("192.0.2.56:53")
}
