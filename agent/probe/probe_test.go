package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
	"go.uber.org/goleak"
)

func running(t *testing.T) (*Prober, *atomic.Int32) {
	t.Helper()
	changes := new(atomic.Int32)
	p := New(func() { changes.Add(1) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { p.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done; goleak.VerifyNone(t, goleak.IgnoreCurrent()) })
	return p, changes
}

var id = api.Attachment{ContainerID: "c", IfName: "eth0"}

func target(at string, kind, path string) Target {
	a := netip.MustParseAddrPort(at)
	return Target{ID: id, Addr: a.Addr(), Probe: api.Probe{Kind: kind, Port: a.Port(), Path: path, IntervalMillis: 100, Failures: 2},
		Ready: true}
}

// A Pod is not ready after the configured number of consecutive failures, and ready again after one success.
func TestProber_TCPServerStopsAndStarts_ReadinessFollows(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	p, changes := running(t)
	is := func(ready bool) func() bool {
		return func() bool { r, ok := p.Result(id); return ok && r.Ready == ready && (r.Error == "") == ready }
	}
	p.Set([]Target{target(at, "tcp", "")})
	testutil.EventuallyTrue(t, "ready", is(true))
	l.Close()
	testutil.EventuallyTrue(t, "not ready", is(false))
	if n := changes.Load(); n != 1 {
		t.Errorf("%d changes", n)
	}
	again := target(at, "tcp", "")
	again.Probe.Failures = 3
	p.Set([]Target{again})
	if r, _ := p.Result(id); r.Ready {
		t.Error("a changed probe made the Pod ready without a result")
	}
	if l, err = net.Listen("tcp", at); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	testutil.EventuallyTrue(t, "ready again", is(true))
	p.Set(nil)
	if _, ok := p.Result(id); ok {
		t.Error("a Pod that is not probed has a result")
	}
}

func TestProber_HTTPStatus_DecidesReadiness(t *testing.T) {
	var status atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/healthz?full=1" {
			t.Errorf("request for %s", r.URL)
		}
		if status.Load() == 0 {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Location", "http://192.0.2.1/")
		w.WriteHeader(int(status.Load()))
	}))
	defer srv.Close()
	p, _ := running(t)
	status.Store(204)
	p.Set([]Target{target(strings.TrimPrefix(srv.URL, "http://"), "http", "/healthz?full=1")})
	for _, c := range []struct {
		status int32
		ready  bool
		why    string
	}{{302, true, ""}, {503, false, "503"}, {200, true, ""}, {0, false, "no response within 80ms"}, {399, true, ""}, {400, false, "400"}} {
		t.Run(fmt.Sprint(c.status), func(t *testing.T) {
			status.Store(c.status)
			testutil.EventuallyTrue(t, fmt.Sprint(c), func() bool {
				r, _ := p.Result(id)
				return r.Ready == c.ready && strings.Contains(r.Error, c.why) && (r.Error == "") == c.ready
			})
		})
	}
}

// Attempts without a response end at once when Set removes their target, and when Run ends.
func TestProber_PodsWithoutResponse_StopAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var open, ended atomic.Int32
	go func() { // accepts connections and never responds
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				_, _ = io.Copy(io.Discard, c) // until the prober closes the connection
				ended.Add(1)
				c.Close()
			}()
		}
	}()
	p, _ := running(t)
	var all []Target
	for i := range 200 {
		x := target(l.Addr().String(), "http", "/")
		x.ID.ContainerID, x.Probe.IntervalMillis = fmt.Sprint(i), 3600_000
		all = append(all, x)
	}
	p.Set(all)
	testutil.EventuallyTrue(t, "every attempt has a connection", func() bool { return open.Load() == 200 })
	p.Set(all[:10])
	testutil.EventuallyTrue(t, "the removed targets have none", func() bool { return ended.Load() == 190 })
}

func TestCheck_EachField_IsBounded(t *testing.T) {
	for _, c := range []struct {
		probe api.Probe
		want  string
	}{
		{api.Probe{Kind: "tcp", Port: 80, IntervalMillis: 1000, Failures: 3}, ""},
		{api.Probe{Kind: "http", Port: 80, Path: "/a?b=c", IntervalMillis: 100, Failures: 1}, ""},
		{api.Probe{Kind: "icmp", Port: 80, IntervalMillis: 1000, Failures: 3}, `kind "icmp"`},
		{api.Probe{Kind: "tcp", IntervalMillis: 1000, Failures: 3}, "port 0"},
		{api.Probe{Kind: "tcp", Port: 1, Path: "/x", IntervalMillis: 1000, Failures: 3}, "path: expected none for a tcp probe"},
		{api.Probe{Kind: "http", Port: 1, Path: "x", IntervalMillis: 1000, Failures: 3}, "path "},
		{api.Probe{Kind: "http", Port: 1, Path: "/\x00", IntervalMillis: 1000, Failures: 3}, "path "},
		{api.Probe{Kind: "tcp", Port: 1, IntervalMillis: 10, Failures: 3}, "interval 10ms"},
		{api.Probe{Kind: "tcp", Port: 1, IntervalMillis: 1 << 62, Failures: 3}, "interval "},
		{api.Probe{Kind: "tcp", Port: 1, IntervalMillis: 1000, Failures: 0}, "failures 0"},
	} {
		t.Run(fmt.Sprintf("%+v", c.probe), func(t *testing.T) {
			err := Check(c.probe)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, expected %q", err, c.want)
			}
		})
	}
}
