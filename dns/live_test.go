package dns

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/testutil"
	"golang.org/x/sys/unix"
)

// certificate is a self-signed one for names, and the pool that trusts it.
func certificate(t *testing.T, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestServer_UpstreamOverTLS_VerifiesAndReusesConnections(t *testing.T) {
	cert, pool := certificate(t, "dns.example.net")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	up := newFake(t, silent) // its conn method serves DNS on any connection
	var connections atomic.Int64
	up.join.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			up.join.Go(func() { up.conn(c) })
		}
	})
	t.Cleanup(func() { l.Close() })
	_, at := start(t, Config{Upstreams: []string{"tls://" + l.Addr().String() + "#dns.example.net"}, RootCAs: pool})
	wantA(t, at, "one.example.com", "192.0.2.99")
	wantA(t, at, "two.example.com", "192.0.2.99")
	if n := connections.Load(); n > 2 { // the loop probe may use another one
		t.Errorf("%d connections for three questions", n)
	}
	_, wrong := start(t, Config{Upstreams: []string{"tls://" + l.Addr().String() + "#other.example.net"}, RootCAs: pool})
	if r := exchange(t, wrong, "udp", "one.example.com", mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("a certificate for another name: %v, want SERVFAIL", r)
	}
}

// Servers end and start on the same sockets while a client queries. The kernel queues what arrives between two of them.
func TestServer_SuccessorOnSameSockets_NoQueryLost(t *testing.T) {
	at := freePort(t)
	kept := listen.New(listen.Config{})
	defer kept.Close()
	begin := func() (stop func()) {
		s, err := New(Config{Listen: []netip.AddrPort{at}, Workers: 2, Sockets: kept})
		if err != nil {
			t.Fatal(err)
		}
		s.Set(sample())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		<-s.Ready()
		return func() { cancel(); <-done }
	}
	stop := begin()
	var answered, lost atomic.Int64
	end := make(chan struct{})
	done := make(chan struct{})
	go func() { defer close(done); queryUntil(t, at, &answered, &lost, end) }()
	for range 10 {
		stop()
		stop = begin()
		goal := answered.Load() + 200
		testutil.EventuallyTrue(t, "200 more answers", func() bool { return answered.Load() >= goal || t.Failed() })
	}
	close(end)
	<-done
	stop()
	t.Logf("%d queries, %d sent twice, over 10 handovers", answered.Load(), lost.Load())
	if lost.Load() > 10 {
		t.Errorf("%d queries were lost in 10 handovers", lost.Load())
	}
}

func queryUntil(t *testing.T, at netip.AddrPort, answered, lost *atomic.Int64, end chan struct{}) {
	for {
		select {
		case <-end:
			return
		default:
		}
		for try := 0; ; try++ {
			r, err := exchangeOnce(at)
			if err == nil && len(r.Answer) == 1 {
				break
			}
			lost.Add(1)
			if try == 5 {
				t.Errorf("no answer: %v %v", r, err)
				return
			}
		}
		answered.Add(1)
	}
}

func exchangeOnce(at netip.AddrPort) (*mdns.Msg, error) {
	c, err := net.Dial("udp", at.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	conn := &mdns.Conn{Conn: c}
	if err := conn.WriteMsg(new(mdns.Msg).SetQuestion("web.default.svc.cluster.local.", mdns.TypeA)); err != nil {
		return nil, err
	}
	return conn.ReadMsg()
}

func TestQuery_EachZone_ReportsSourceAndRecords(t *testing.T) {
	up := newFake(t, answers("192.0.2.40"))
	s, _ := start(t, Config{Upstreams: []string{up.addr.String()}})
	from := netip.MustParseAddr("127.0.0.1")
	for _, c := range []struct {
		name               string
		from, zone, answer string
	}{
		{"web.default.svc.cluster.local", "record", "cluster", "web.default.svc.cluster.local. 5 IN A 10.43.0.5"},
		{"n2.node.warren", "record", "node", "n2.node.warren. 5 IN A 192.0.2.2"},
		{"www.example.com", "upstream", "external", "www.example.com. 60 IN A 192.0.2.40"},
		{"www.example.com", "cache", "external", "www.example.com. 60 IN A 192.0.2.40"},
	} {
		t.Run(c.name+" from "+c.from, func(t *testing.T) {
			e := s.Query(t.Context(), c.name, mdns.TypeA, from)
			if e.From != c.from || e.Zone != c.zone || len(e.Answers) != 1 || e.Answers[0] != c.answer || !e.Allowed {
				t.Errorf("%s: %+v", c.name, e)
			}
		})
	}
	search := []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}
	e := s.Search(t.Context(), "www.example.com", mdns.TypeA, from, search, 5)
	if len(e.Steps) != 4 || e.Steps[0].Rcode != "NXDOMAIN" || e.From != "cache" {
		t.Errorf("search: %+v", e)
	}
	if e := s.Search(t.Context(), "web", mdns.TypeA, from, search, 5); len(e.Steps) != 1 || len(e.Answers) != 1 {
		t.Errorf("search: %+v", e)
	}
	if e := s.Query(t.Context(), "web.default.svc.cluster.local", mdns.TypeA, netip.MustParseAddr("192.0.2.1")); e.Allowed {
		t.Error("a client outside of Config.Allow is allowed")
	}
}

func TestCollectors_AfterQueries_CountByZoneAndType(t *testing.T) {
	up := newFake(t, answers("192.0.2.41"))
	s, at := start(t, Config{Upstreams: []string{up.addr.String()}})
	for range 3 {
		wantA(t, at, "www.example.com", "192.0.2.41")
		exchange(t, at, "udp", "nope.default.svc.cluster.local", mdns.TypeAAAA)
		exchange(t, at, "tcp", "web.default.svc.cluster.local", 4711)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.Collectors()...)
	got := map[string]float64{}
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for key, want := range map[string]float64{
		"warren_dns_queries_total NXDOMAIN AAAA cluster": 3, "warren_dns_queries_total NOERROR other cluster": 3,
		"warren_dns_queries_total NOERROR A external": 3,
		"warren_dns_external_total cache":             2, "warren_dns_external_total upstream": 1, "warren_dns_revision": 7,
		"warren_dns_upstream_up " + up.addr.String(): 1,
	} {
		// Order of labels is the registry's: rcode, type, zone.
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if n := got["warren_dns_answer_seconds"]; n < 9 {
		t.Errorf("%v answers timed", n)
	}
}

func TestNew_InvalidConfig_ReportsEveryProblem(t *testing.T) {
	_, err := New(Config{Domain: "a..b", TTL: 99999, CacheBytes: -1, Upstreams: []string{"x", "udp://1.1.1.1", "0.0.0.0"},
		StubDomains: map[string][]string{".": {"192.0.2.1"}}, Allow: []netip.Prefix{{}}})
	for _, want := range []string{"no address to listen on", `domain "a..b"`, "TTL 99999", "cache bytes -1",
		`upstream "x"`, `upstream "udp://1.1.1.1"`, `upstream "0.0.0.0"`, `stub domain "."`, "allowed source"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not contain %q", err, want)
		}
	}
}

// No other process can receive queries: its socket cannot be bound to the port, whatever options it has set.
func TestServer_OtherSocketOnSamePort_Refused(t *testing.T) {
	_, at := start(t, Config{})
	for name, options := range map[string][]int{
		"no option": nil, "SO_REUSEADDR": {unix.SO_REUSEADDR}, "SO_REUSEPORT": {unix.SO_REUSEPORT},
		"both options": {unix.SO_REUSEADDR, unix.SO_REUSEPORT},
	} {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				for _, o := range options {
					_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o, 1)
				}
			})
		}}
		for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::]"} {
			t.Run(name+" "+host, func(t *testing.T) {
				to := fmt.Sprintf("%s:%d", host, at.Port())
				if c, err := lc.ListenPacket(t.Context(), "udp", to); err == nil {
					c.Close()
					t.Error("bound a UDP socket, expected: address already in use")
				} else if !errors.Is(err, unix.EADDRINUSE) {
					t.Errorf("UDP: %v, expected: address already in use", err)
				}
				if l, err := lc.Listen(t.Context(), "tcp", to); err == nil {
					l.Close()
					t.Error("bound a TCP socket, expected: address already in use")
				} else if !errors.Is(err, unix.EADDRINUSE) {
					t.Errorf("TCP: %v, expected: address already in use", err)
				}
			})
		}
	}
}
