package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/internal/testutil"
)

// from returns a connection to the server with a loopback address as its source. Each address is a client.
func from(t testing.TB, network, source string, at netip.AddrPort) *mdns.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0)), Timeout: 10 * time.Second}
	if network == "tcp" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0))
	}
	c, err := d.DialContext(t.Context(), network, at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &mdns.Conn{Conn: c}
}

// query returns the answer to a question on a connection, or nil if none arrives in time.
func query(c *mdns.Conn, name string) *mdns.Msg {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	q := new(mdns.Msg).SetQuestion(name, mdns.TypeA)
	if c.WriteMsg(q) != nil {
		return nil
	}
	for {
		r, err := c.ReadMsg()
		if err != nil || r.Id == q.Id {
			return r
		}
	}
}

// One client queries names without end below a domain whose servers do not answer. Another one gets an answer to every
// query, of names that are not cached.
func TestServer_ClientWithUnansweredNames_OtherClientNotAffected(t *testing.T) {
	hold := make(chan struct{})
	silent := newFake(t, func(*mdns.Msg) []*mdns.Msg { <-hold; return nil })
	good := newFake(t, answers("192.0.2.15"))
	t.Cleanup(func() { close(hold) })
	s, at := start(t, Config{Upstreams: []string{good.addr.String()}, InFlight: 60,
		StubDomains: map[string][]string{"slow.example": {silent.addr.String()}}})
	abusive := from(t, "udp", "127.0.0.2", at)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			_ = abusive.WriteMsg(new(mdns.Msg).SetQuestion(fmt.Sprintf("n%d.slow.example.", i), mdns.TypeA))
		}
	})
	testutil.EventuallyTrue(t, "the abusive client has its share", func() bool { return s.forward.Stats().Refused > 100 })
	honest := from(t, "udp", "127.0.0.3", at)
	const queries = 300
	var took []time.Duration
	for i := range queries {
		begin := time.Now()
		r := query(honest, fmt.Sprintf("n%d.good.example.", i))
		if r == nil || r.Rcode != mdns.RcodeSuccess || len(r.Answer) != 1 {
			t.Fatalf("query %d of the honest client: %v", i, r)
		}
		took = append(took, time.Since(begin))
	}
	close(stop)
	wg.Wait()
	slices.Sort(took)
	t.Logf("honest client: %d of %d queries answered, p50 %v, p99 %v; refused to the abusive client: %d",
		queries, queries, took[queries/2], took[queries*99/100], s.forward.Stats().Refused)
}

// Twenty clients open TCP connections until they are refused, and keep them. Other clients still get theirs.
func TestServer_ClientsWithTCPConnections_OtherClientNotAffected(t *testing.T) {
	s, at := start(t, Config{})
	for client := range 20 {
		for range maxConnsPerClient {
			from(t, "tcp", fmt.Sprintf("127.0.0.%d", 10+client), at)
		}
	}
	testutil.EventuallyTrue(t, "connections are refused", func() bool { return s.stats.tcpRefused.Load() > 0 })
	for i := range 10 {
		honest := from(t, "tcp", "127.0.0.3", at)
		if r := query(honest, "web.default.svc.cluster.local."); r == nil || r.Rcode != mdns.RcodeSuccess {
			t.Errorf("connection %d of the honest client: %v", i, r)
		}
	}
}
