package announce_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/announce"
)

// An announcer without links announces nothing. It still follows which node announces an address.
func ExampleAnnouncer() {
	a := announce.New(announce.Config{Node: "n1", Keys: announce.Keys{Own: func() []model.Key { return nil }},
		Sockets: listen.New(listen.Config{}), Log: slog.New(slog.DiscardHandler)})
	a.Set(announce.Desired{Addresses: []announce.Address{{Addr: netip.MustParseAddr("198.51.100.1")}}})

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	for len(a.View().Addresses) == 0 {
		time.Sleep(time.Millisecond) // Run has not applied the desired state yet
	}
	for _, x := range a.View().Addresses {
		fmt.Printf("%s: state %s, owner %q: %s\n", x.Addr, x.State, x.Owner, x.Note)
	}
	cancel()
	<-done
	// Output:
	// 198.51.100.1: state idle, owner "": not a host address in the subnet of any link of this node
}
