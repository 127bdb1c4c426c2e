package clusterdns

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/testutil"
	"go.uber.org/goleak"
)

// Each change of the addresses ends the goroutine that watches the previous ones.
func TestServer_AddressesChange_RestartsAndJoinsWatchers(t *testing.T) {
	testutil.NeedRoot(t) // the server listens on port 53
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	sockets := listen.New(listen.Config{})
	defer sockets.Close()
	s := newTestServer(Config{Sockets: sockets})
	s.SetAddresses(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	for _, a := range []string{"127.0.0.53", "127.0.0.54", "127.0.0.55"} {
		s.SetAddresses([]netip.Addr{netip.MustParseAddr(a)})
		for end := time.Now().Add(10 * time.Second); s.Current() == nil; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("no server on %s", a)
			}
		}
		s.SetAddresses(nil)
		for end := time.Now().Add(10 * time.Second); s.Current() != nil; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the server on %s was not stopped", a)
			}
		}
	}
	cancel()
	<-done
}
