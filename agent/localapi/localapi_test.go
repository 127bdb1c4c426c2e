package localapi

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/warrennet/warren/agent/datapath"
	"github.com/warrennet/warren/internal/httpserve"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/internal/testutil"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
	"go.uber.org/goleak"
)

// newBalancer returns a balancer with flows in a mapped file.
func newBalancer(t *testing.T) *servicelb.Balancer {
	t.Helper()
	lb, err := servicelb.New(servicelb.Config{FlowFile: filepath.Join(t.TempDir(), "flows")})
	if err != nil {
		t.Fatal(err)
	}
	var b servicelb.Builder
	node := netip.MustParseAddr("192.0.2.1")
	lb.Set(b.Build(servicelb.Self{Node: "n1", PodRanges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")}, Addrs: []netip.Addr{node},
		MasqueradePorts: [2]uint16{13000, 29999}}, &model.Snapshot{}))
	for i := range byte(100) { // UDP from a Pod to an external network: masqueraded
		pkt := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, packet.ProtoUDP, 0, 0, 10, 42, 1, 10 + i, 198, 51, 100, 1, 0x9c, 0x40, 0, 53, 0, 8, 0,
			0}
		var p packet.Packet
		if p.Parse(pkt) != packet.OK {
			t.Fatal("the test's packet is invalid")
		}
		lb.Outbound(&p)
	}
	if n := len(lb.Flows(nil, 0)); n != 100 {
		t.Fatalf("%d flows, expected 100", n)
	}
	return lb
}

// The flow table is unmapped only after the last handler has read it, and handlers that start later find none.
func TestServer_StopWhileHandlersRead_FlowTableUnmappedAfterThem(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	lb := newBalancer(t)
	var path datapath.Guard
	path.Open(lb, nil)
	s := New(Config{DataPath: &path})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var clients, server sync.WaitGroup
	server.Go(func() {
		if err := httpserve.Run(ctx, &http.Server{Handler: http.HandlerFunc(s.flows)}, l); err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	var served, read atomic.Int64 // requests, and uses of the balancer
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if resp, err := (&http.Client{Transport: transport}).Get("http://" + l.Addr().String()); err == nil {
					resp.Body.Close()
					served.Add(1)
				}
			}
		})
		clients.Go(func() { // as the metrics do
			for ctx.Err() == nil {
				path.Use(func(lb *servicelb.Balancer, _ *tunnel.Tunnel) { lb.Stats(); read.Add(1) })
			}
		})
	}
	testutil.EventuallyTrue(t, "readers of both kinds run", func() bool { return served.Load() >= 20 && read.Load() >= 20 })
	path.Close() // while all of them run
	if err := lb.Close(); err != nil {
		t.Error(err)
	}
	closed := served.Load()
	testutil.EventuallyTrue(t, "requests after the close", func() bool { return served.Load() >= closed+20 })
	cancel()
	clients.Wait()
	server.Wait()
	if path.Use(func(*servicelb.Balancer, *tunnel.Tunnel) {}) {
		t.Error("a closed data path gives access")
	}
}
