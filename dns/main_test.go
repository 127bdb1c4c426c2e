package dns

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, a := range s {
		out = append(out, netip.MustParsePrefix(a))
	}
	return out
}

func name(ns, n string) model.ObjectName { return model.ObjectName{Namespace: ns, Name: n} }

// sample is a cluster with one Service of each kind.
func sample() *model.Snapshot {
	web := model.Service{ObjectName: name("default", "web"), ClusterIPs: addrs("10.43.0.5", "fd43::5"), Ports: []model.ServicePort{
		{Name: "http", Protocol: model.TCP, Port: 80}, {Name: "dns", Protocol: model.UDP, Port: 53}}}
	four := model.Service{ObjectName: name("default", "four"), ClusterIPs: addrs("10.43.0.6"),
		Ports: []model.ServicePort{{Protocol: model.TCP, Port: 1}}}
	digit := model.Service{ObjectName: name("default", "3scale"), ClusterIPs: addrs("10.43.0.7")}
	db := model.Service{ObjectName: name("prod", "db"), Headless: true,
		Ports: []model.ServicePort{{Name: "pg", Protocol: model.TCP, Port: 5432}}}
	all := model.Service{ObjectName: name("prod", "all"), Headless: true, PublishNotReady: true}
	none := model.Service{ObjectName: name("prod", "none"), Headless: true}
	alias := func(n, to string) model.Service {
		return model.Service{ObjectName: name("ext", n), Type: model.ExternalName, ExternalName: to}
	}
	pg := []model.EndpointPort{{Name: "pg", Protocol: model.TCP, Port: 5432}}
	end := func(a, host string, ready bool) model.Endpoint {
		return model.Endpoint{Addr: netip.MustParseAddr(a), Hostname: host, Ready: ready}
	}
	return &model.Snapshot{
		Revision: 7,
		Cluster:  model.Cluster{Domain: "cluster.local", PodCIDRs: prefixes("10.42.0.0/16", "fd42::/48")},
		Nodes: []model.Node{{Name: "n1", Addresses: addrs("192.0.2.1", "2001:db8::1")}, {Name: "n2", Addresses: addrs("192.0.2.2")},
			{Name: "ip-10-0-0-1.ec2.internal", Addresses: addrs("10.0.0.1")}},
		ServiceCIDRs: prefixes("10.43.0.0/16", "fd43::/112"),
		Services: []model.Service{digit, four, web, alias("away", "www.example.com"), alias("here", "web.default.svc.cluster.local"),
			alias("ring1", "ring2.ext.svc.cluster.local"), alias("ring2", "ring1.ext.svc.cluster.local"),
			alias("wrong", "nope.default.svc.cluster.local"), all, db, none},
		Slices: []model.EndpointSlice{
			{ObjectName: name("prod", "all-1"), Service: "all", Ports: pg, Endpoints: []model.Endpoint{end("10.42.0.9", "", false)}},
			{ObjectName: name("prod", "db-1"), Service: "db", Ports: pg, Endpoints: []model.Endpoint{
				end("10.42.0.2", "db-0", true), end("10.42.1.2", "db-1", true), end("10.42.2.2", "", true),
				end("10.42.3.2", "db-3", false)}},
			{ObjectName: name("prod", "db-2"), Service: "db", Family: model.IPv6, Ports: pg,
				Endpoints: []model.Endpoint{end("fd42::2", "db-0", true), end("203.0.113.9", "out", true)}},
			{ObjectName: name("prod", "none-1"), Service: "none", Ports: pg, Endpoints: []model.Endpoint{end("10.42.0.3", "x", false)}},
		},
		Pods: []model.Pod{{ObjectName: name("jobs", "p1"), Addrs: addrs("10.42.0.44")}},
	}
}

// start runs a server on a loopback port of its own, with the sample cluster.
func start(t testing.TB, c Config) (*Server, netip.AddrPort) {
	t.Helper()
	if c.Listen == nil {
		c.Listen = []netip.AddrPort{freePort(t)}
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Set(sample())
	run(t, s)
	return s, c.Listen[0]
}

func run(t testing.TB, s *Server) {
	t.Helper()
	t.Cleanup(runServer(t, s))
}

// runServer starts a server and returns a function that stops it.
func runServer(t testing.TB, s *Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// testClock is a clock that a test can advance.
type testClock struct{ offset atomic.Int64 }

func (c *testClock) Now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *testClock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// openSockets opens an address for one worker, without a further descriptor that outlives the test's own.
func openSockets(t testing.TB, at netip.AddrPort) *sockets {
	t.Helper()
	from := listen.New(listen.Config{})
	defer from.Close()
	k, err := listenAll(t.Context(), from, []netip.AddrPort{at}, 1)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// freePort finds a port of loopback that is free for UDP and TCP.
func freePort(t testing.TB) netip.AddrPort {
	t.Helper()
	for range 100 {
		k := openSockets(t, netip.MustParseAddrPort("127.0.0.1:0"))
		a := netip.MustParseAddrPort(k.udp[0].LocalAddr().String())
		k.close()
		from := listen.New(listen.Config{})
		err := Hold(t.Context(), from, []netip.AddrPort{a})
		from.Close()
		if err == nil {
			return a
		}
	}
	t.Fatal("no free port")
	return netip.AddrPort{}
}

// exchange sends one query and returns the answer.
func exchange(t testing.TB, at netip.AddrPort, network, name string, qtype uint16, edit ...func(*mdns.Msg)) *mdns.Msg {
	t.Helper()
	m := new(mdns.Msg)
	m.SetQuestion(mdns.Fqdn(name), qtype)
	for _, e := range edit {
		e(m)
	}
	c := &mdns.Client{Net: network, UDPSize: 4096}
	r, _, err := c.Exchange(m, at.String())
	if err != nil {
		t.Fatalf("%s %s over %s: %v", name, mdns.TypeToString[qtype], network, err)
	}
	return r
}
