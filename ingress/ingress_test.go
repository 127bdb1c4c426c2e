package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/ingress/route"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/testutil"
	"go.uber.org/goleak"
)

// backend is an HTTP server that answers with its name and what it received.
func backend(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Server", "test")
		body, _ := io.ReadAll(r.Body)
		_ = json.NewEncoder(w).Encode(reply1{Name: name, Method: r.Method, Path: r.URL.RequestURI(), Host: r.Host, Header: r.Header,
			Proto: r.Proto, Body: string(body)})
	}))
	t.Cleanup(srv.Close)
	return netip.MustParseAddrPort(srv.Listener.Addr().String())
}

type reply1 struct {
	Name, Method, Path, Host, Proto, Body string
	Header                                http.Header
}

// objectsOf has the class and one Service with port 8080 (http) for each name, with these endpoints.
func objectsOf(services map[string][]netip.AddrPort, ingresses ...*model.Ingress) *model.IngressObjects {
	o := &model.IngressObjects{Classes: []*model.IngressClass{{Name: "warren", Controller: route.Controller, Default: true}},
		Ingresses: ingresses}
	for name, endpoints := range services {
		n := model.ObjectName{Namespace: "default", Name: name}
		o.Services = append(o.Services, &model.Service{ObjectName: n, Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP,
			Port: 8080}}})
		for i, e := range endpoints {
			o.Slices = append(o.Slices, &model.EndpointSlice{ObjectName: model.ObjectName{Namespace: "default",
				Name: fmt.Sprintf("%s-%d", name, i)}, Service: name, Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP,
				Port: e.Port()}}, Endpoints: []model.Endpoint{{Addr: e.Addr(), Ready: true}}})
		}
	}
	return o
}

func to(service string) model.IngressBackend {
	return model.IngressBackend{Service: service, Port: 8080}
}

func ingressOf(name string, rules ...model.IngressRule) *model.Ingress {
	return &model.Ingress{ObjectName: model.ObjectName{Namespace: "default", Name: name}, Rules: rules}
}

func rule(host, path string, kind model.PathType, service string) model.IngressRule {
	return model.IngressRule{Host: host, Paths: []model.IngressPath{{Path: path, Type: kind, Backend: to(service)}}}
}

// proc is a running process.
type proc struct {
	*Process
	t      *testing.T
	states chan *model.IngressObjects
	state  chan error
	cancel context.CancelFunc
	done   chan error
	cfg    Config
	pool   *x509.CertPool
}

// freePort is an address on loopback that was free a moment before.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func start(t *testing.T, change func(*Config), first *model.IngressObjects) *proc {
	t.Helper()
	p := &proc{t: t, states: make(chan *model.IngressObjects), state: make(chan error), done: make(chan error, 1),
		pool: x509.NewCertPool()}
	p.cfg = Config{HTTP: freePort(t), HTTPS: freePort(t), Status: freePort(t), Socket: filepath.Join(t.TempDir(), "s"),
		AccessLog: filepath.Join(t.TempDir(), "access.log"), Sample: 1, Drain: 5 * time.Second,
		Routes: route.Config{Balancing: route.LeastRequests}}
	if change != nil {
		change(&p.cfg)
	}
	source := func(ctx context.Context, on func(*model.IngressObjects), state func(error)) {
		for {
			select {
			case <-ctx.Done():
				return
			case o := <-p.states:
				state(nil)
				on(o)
			case err := <-p.state:
				state(err)
			}
		}
	}
	var err error
	if p.Process, err = New(p.cfg, source, slog.New(slog.NewTextHandler(testLog{t},
		&slog.HandlerOptions{Level: slog.LevelDebug}))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() { p.done <- p.Run(ctx) }()
	t.Cleanup(p.stop)
	if first != nil {
		p.set(first)
		testutil.Eventually(t, "readiness", p.Ready)
	}
	return p
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (p *proc) stop() {
	p.cancel()
	err := <-p.done
	p.done <- err
	if err != nil {
		p.t.Errorf("the process ended: %v", err)
	}
}

// set delivers a state and waits until it is compiled.
func (p *proc) set(o *model.IngressObjects) {
	o.Revision = time.Now().UnixNano()
	p.states <- o
	testutil.Eventually(p.t, "compiled routes", func() error {
		if t := p.table.Load(); t == nil || t.Revision != o.Revision {
			return errors.New("older routes")
		}
		return nil
	})
}

// client connects to the process for any host name.
func (p *proc) client() *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.pool}, DialContext: func(ctx context.Context, network,
		addr string) (net.Conn, error) {
		at := p.cfg.HTTP
		if strings.HasSuffix(addr, ":443") {
			at = p.cfg.HTTPS
		}
		return (&net.Dialer{}).DialContext(ctx, network, at)
	}}
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// do sends a request and decodes the answer of a backend.
func (p *proc) do(method, url, body string, fields ...string) (int, reply1, http.Header) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err := p.client().Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out reply1
	if raw, err := io.ReadAll(resp.Body); err != nil {
		p.t.Fatal(err)
	} else if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(raw, &out); err != nil {
			p.t.Fatalf("%s: %v", raw, err)
		}
	}
	return resp.StatusCode, out, resp.Header
}

func (p *proc) get(path string) string {
	p.t.Helper()
	resp, err := http.Get("http://" + p.cfg.Status + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode, " ", string(raw))
}

func TestProcess_BeforeTheFirstState_IsNotReadyAndDoesNotListen(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	p := start(t, nil, nil)
	testutil.Eventually(t, "livez", func() error {
		c, err := net.Dial("tcp", p.cfg.Status)
		if err == nil {
			c.Close()
		}
		return err
	})
	if s := p.get("/readyz"); !strings.HasPrefix(s, "503 no routes yet") {
		t.Errorf("readyz: %s", s)
	}
	if s := p.get("/livez"); !strings.HasPrefix(s, "200") {
		t.Errorf("livez: %s", s)
	}
	if c, err := net.Dial("tcp", p.cfg.HTTP); err == nil {
		c.Close()
		t.Error("it listens without routes")
	}
	p.set(objectsOf(nil))
	testutil.Eventually(t, "readiness", p.Ready)
	if s := p.get("/readyz"); !strings.HasPrefix(s, "200") {
		t.Errorf("readyz: %s", s)
	}
	p.state <- errors.New("unreachable")
	if s := p.get("/readyz"); !strings.HasPrefix(s, "200") {
		t.Errorf("readyz without the store: %s", s)
	}
	if s := p.get("/metrics"); !strings.Contains(s, "warren_ingress_store_connected 0") {
		t.Errorf("metrics without the store:\n%s", s)
	}
	p.stop()
}

func TestProcess_Request_ReachesTheBackendWithForwardedFields(t *testing.T) {
	p := start(t, nil, objectsOf(map[string][]netip.AddrPort{"a": {backend(t, "a")}}, ingressOf("in",
		rule("x.test", "/p", model.PathPrefix, "a"))))
	status, r, h := p.do("POST", "http://x.test/p/q?r=%20s", "hello", "X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "https",
		"X-Own", "v", "Te", "trailers")
	if status != 200 || r.Name != "a" || r.Method != "POST" || r.Path != "/p/q?r=%20s" || r.Host != "x.test" || r.Body != "hello" {
		t.Errorf("status %d, backend received %+v", status, r)
	}
	for k, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "x.test",
		"X-Real-Ip": "127.0.0.1", "X-Own": "v"} {
		if got := r.Header.Get(k); got != want {
			t.Errorf("%s: %q, expected %q", k, got, want)
		}
	}
	if h.Get("Server") != "test" {
		t.Errorf("header of the response: %v", h)
	}
	p.stop()
	raw, err := os.ReadFile(p.cfg.AccessLog)
	if err != nil {
		t.Fatal(err)
	}
	var line accessLine
	if err := json.Unmarshal(raw, &line); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	if line.Status != 200 || line.Host != "x.test" || line.Path != "/p/q" || line.Ingress != "default/in" || line.Service != "a" ||
		line.Received != 5 || line.Sent == 0 || line.Client != "127.0.0.1" || line.Endpoint == "" || line.Attempts != 1 {
		t.Errorf("access log: %s", raw)
	}
}

func TestProcess_TrustedProxy_FieldsAreKept(t *testing.T) {
	p := start(t, func(c *Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} },
		objectsOf(map[string][]netip.AddrPort{"a": {backend(t, "a")}}, ingressOf("in", rule("", "/", model.PathPrefix, "a"))))
	_, r, _ := p.do("GET", "http://x.test/", "", "X-Forwarded-For", "203.0.113.9, 192.0.2.1", "X-Forwarded-Proto", "https")
	if got := r.Header.Get("X-Forwarded-For"); got != "203.0.113.9, 192.0.2.1, 127.0.0.1" {
		t.Errorf("X-Forwarded-For: %s", got)
	}
	if r.Header.Get("X-Real-Ip") != "192.0.2.1" || r.Header.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("header %v", r.Header)
	}
}

// An endpoint that is the ingress itself makes no loop.
func TestProcess_EndpointIsTheIngress_LoopEnds(t *testing.T) {
	p := start(t, nil, objectsOf(nil))
	p.set(objectsOf(map[string][]netip.AddrPort{"loop": {netip.MustParseAddrPort(p.cfg.HTTP)}}, ingressOf("in",
		rule("x.test", "/", model.PathPrefix, "loop"))))
	if status, _, _ := p.do("GET", "http://x.test/", ""); status != http.StatusLoopDetected {
		t.Errorf("status %d", status)
	}
	p.stop()
	raw, err := os.ReadFile(p.cfg.AccessLog)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(raw), "\n"); n > 5 {
		t.Errorf("%d requests", n)
	}
}

// The largest body is limited with and without a length in the head.
func TestProcess_BodyTooLarge_GetsStatus413(t *testing.T) {
	in := ingressOf("in", rule("x.test", "/", model.PathPrefix, "a"))
	in.Annotations = map[string]string{"warren.dev/proxy-body-size": "1k"}
	p := start(t, nil, objectsOf(map[string][]netip.AddrPort{"a": {backend(t, "a")}}, in))
	for size, want := range map[int]int{1024: 200, 1025: 413} {
		if status, _, _ := p.do("POST", "http://x.test/", strings.Repeat("x", size)); status != want {
			t.Errorf("%d bytes: status %d, expected %d", size, status, want)
		}
		r, err := http.NewRequest("POST", "http://x.test/", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", size))})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := p.client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d bytes without a length: status %d, expected %d", size, resp.StatusCode, want)
		}
	}
}

func secretOf(t *testing.T, p *x509.CertPool, name string, hosts ...string) *model.TLSSecret {
	certificate, key := testutil.Certificate(t, hosts...)
	if p != nil {
		p.AppendCertsFromPEM([]byte(certificate))
	}
	return &model.TLSSecret{ObjectName: model.ObjectName{Namespace: "default", Name: name}, Certificate: []byte(certificate),
		Key: []byte(key)}
}

func TestProcess_CertificateChanges_NextHandshakeUsesIt(t *testing.T) {
	in := ingressOf("in", rule("x.test", "/", model.PathPrefix, "a"))
	in.TLS = []model.IngressTLS{{Hosts: []string{"x.test"}, Secret: "c"}}
	o := objectsOf(map[string][]netip.AddrPort{"a": {backend(t, "a")}}, in)
	p := start(t, nil, o)
	if _, err := p.client().Get("https://x.test/"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the Secret: %v", err)
	}
	var former []byte
	for range 2 {
		o.Secrets = []*model.TLSSecret{secretOf(t, p.pool, "c", "x.test")}
		p.set(o)
		resp, err := p.client().Get("https://x.test/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		now := resp.TLS.PeerCertificates[0].Raw
		if string(now) == string(former) {
			t.Error("the former certificate is used")
		}
		former = now
		if resp.ProtoMajor != 1 && resp.ProtoMajor != 2 || resp.TLS.Version < tls.VersionTLS12 {
			t.Errorf("protocol %s, TLS version %x", resp.Proto, resp.TLS.Version)
		}
	}
	if status, r, _ := p.do("GET", "https://x.test/", ""); status != 200 || r.Header.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("status %d %v", status, r.Header)
	}
}

func TestProcess_EndpointRefuses_RequestIsRetriedAtAnother(t *testing.T) {
	closed := netip.MustParseAddrPort(freePort(t))
	p := start(t, nil, objectsOf(map[string][]netip.AddrPort{"a": {closed, backend(t, "a")}, "down": {closed}},
		ingressOf("in", rule("x.test", "/", model.PathPrefix, "a"), rule("down.test", "/", model.PathPrefix, "down"))))
	for _, method := range []string{"GET", "POST", "PUT"} {
		for range 10 {
			if status, r, _ := p.do(method, "http://x.test/", "body"); status != 200 || r.Body != "body" {
				t.Fatalf("%s: status %d, body %q", method, status, r.Body)
			}
		}
	}
	if status, _, _ := p.do("GET", "http://down.test/", ""); status != 502 {
		t.Errorf("without any endpoint that accepts: status %d", status)
	}
	if s := p.get("/metrics"); !strings.Contains(s, "warren_ingress_retries_total ") ||
		strings.Contains(s, "warren_ingress_retries_total 0\n") {
		t.Error("no retry is counted")
	}
}

func TestProcess_RoutesAndEndpointsChange_NoRequestFails(t *testing.T) {
	a, b, c := backend(t, "a"), backend(t, "b"), backend(t, "c")
	sets := [][]netip.AddrPort{{a}, {a, b}, {b, c}, {c}, {a, b, c}}
	state := func(i int) *model.IngressObjects {
		return objectsOf(map[string][]netip.AddrPort{"a": sets[i%len(sets)]}, ingressOf(fmt.Sprintf("in%d", i%2),
			rule("x.test", "/", model.PathPrefix, "a"), rule(fmt.Sprintf("h%d.test", i), "/", model.PathPrefix, "a")))
	}
	p := start(t, nil, state(0))
	const workers, changes = 4, 200
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	requests := 0
	var failed []string
	for range workers {
		wg.Go(func() {
			client := p.client()
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := client.Get("http://x.test/")
				text := fmt.Sprint(err)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					text = fmt.Sprint(resp.Status, err)
				}
				mu.Lock()
				if requests++; err != nil || resp.StatusCode != 200 {
					failed = append(failed, text)
				}
				mu.Unlock()
			}
		})
	}
	for i := range changes {
		p.set(state(i))
	}
	close(stop)
	wg.Wait()
	if len(failed) > 0 || requests < changes {
		t.Errorf("%d of %d requests failed: %.3v", len(failed), requests, failed)
	}
}

func TestProcess_Ended_FinishesRequestsInProgress(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		fmt.Fprint(w, "done")
	}))
	defer slow.Close()
	p := start(t, nil, objectsOf(map[string][]netip.AddrPort{"a": {netip.MustParseAddrPort(slow.Listener.Addr().String())}},
		ingressOf("in", rule("x.test", "/", model.PathPrefix, "a"))))
	got := make(chan string, 1)
	go func() {
		resp, err := p.client().Get("http://x.test/")
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		got <- fmt.Sprint(string(raw), err)
	}()
	<-entered
	p.cancel()
	testutil.Eventually(t, "the end of readiness", func() error {
		if p.Ready() == nil {
			return errors.New("still ready")
		}
		return nil
	})
	close(release)
	if s := <-got; s != "done<nil>" {
		t.Errorf("the request in progress: %s", s)
	}
}

// upgraded opens a connection through the process to a backend that switches to an echo protocol.
func upgraded(t *testing.T, change func(*Config)) (p *proc, echo func(word string) error) {
	t.Helper()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	}))
	t.Cleanup(up.Close)
	p = start(t, change, objectsOf(map[string][]netip.AddrPort{"a": {netip.MustParseAddrPort(up.Listener.Addr().String())}},
		ingressOf("in", rule("x.test", "/", model.PathPrefix, "a"))))
	c, err := net.Dial("tcp", p.cfg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", resp, err)
	}
	return p, func(word string) error {
		fmt.Fprintln(c, word)
		line, err := r.ReadString('\n')
		if err == nil && line != word+"\n" {
			err = fmt.Errorf("received %q, expected %q", line, word)
		}
		return err
	}
}

func TestProcess_WebSocketUpgrade_SurvivesChangesOfRoutes(t *testing.T) {
	p, echo := upgraded(t, nil)
	for i := range 100 {
		p.set(objectsOf(nil, ingressOf("other", rule(fmt.Sprintf("h%d.test", i), "/", model.PathPrefix, "a"))))
		if err := echo(fmt.Sprint("word ", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// An upgraded connection has the time of --drain, and is closed then.
func TestProcess_EndedWithWebSocket_IsDrainedThenClosed(t *testing.T) {
	p, echo := upgraded(t, func(c *Config) { c.Drain = time.Second })
	p.cancel()
	testutil.Eventually(t, "the end of readiness", func() error {
		if p.Ready() == nil {
			return errors.New("still ready")
		}
		return nil
	})
	if err := echo("while it drains"); err != nil {
		t.Error(err)
	}
	testutil.Eventually(t, "the end of the connection", func() error {
		if echo("x") == nil {
			return errors.New("it is open")
		}
		return nil
	})
	p.stop()
}

func TestLocalAPI_RoutesAndRoute_ExplainWhatIsServed(t *testing.T) {
	a := backend(t, "a")
	p := start(t, nil, objectsOf(map[string][]netip.AddrPort{"a": {a}}, ingressOf("in", rule("x.test", "/p", model.PathPrefix, "a"),
		rule("x.test", "/", model.PathPrefix, "nosuch"))))
	call := func(path string) string {
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _,
			_ string) (net.Conn,
			error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.cfg.Socket)
		}}}
		resp, err := c.Get("http://ingress" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	var routes Routes
	if err := json.Unmarshal([]byte(call(RoutesPath)), &routes); err != nil {
		t.Fatal(err)
	}
	if len(routes.Routes) != 2 || routes.Routes[0].Path != "/p" || routes.Routes[1].Fault == "" || len(routes.Problems) != 1 {
		t.Errorf("routes %+v", routes)
	}
	for url, want := range map[string]route.Explanation{
		"http://x.test/p/q": {Choice: a.String(), Why: []string{"host x.test has rules of its own"}},
		"http://y.test/":    {Status: 404, Why: []string{`no rule is for host "y.test", and no rule is without a host`}},
		"http://X.test:80/": {Status: 503, Why: []string{"host x.test has rules of its own"}},
	} {
		var x route.Explanation
		if err := json.Unmarshal([]byte(call(RoutePath+"?url="+url)), &x); err != nil {
			t.Fatal(err)
		}
		if x.Choice != want.Choice || x.Status != want.Status || len(x.Why) == 0 || x.Why[0] != want.Why[0] {
			t.Errorf("%s: %+v", url, x)
		}
	}
	if s := call(RoutePath + "?url=nonsense"); !strings.Contains(s, "expected http://HOST/PATH") {
		t.Errorf("an invalid URL: %s", s)
	}
}

func TestMetrics_ManyServices_SeriesAreBounded(t *testing.T) {
	services := map[string][]netip.AddrPort{}
	var rules []model.IngressRule
	at := backend(t, "a")
	for i := range maxServices + 50 {
		name := fmt.Sprintf("s%d", i)
		services[name] = []netip.AddrPort{at}
		rules = append(rules, rule(name+".test", "/", model.PathPrefix, name))
	}
	p := start(t, nil, objectsOf(services, ingressOf("in", rules...)))
	client := p.client()
	for i := range maxServices + 50 {
		resp, err := client.Get(fmt.Sprintf("http://s%d.test/", i))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	testutil.Eventually(t, "counted requests", func() error {
		if s := p.get("/metrics"); !strings.Contains(s, `warren_ingress_requests_total{code="2xx",service="other"} 50`) {
			return errors.New("not yet")
		}
		return nil
	})
	n := 0
	for line := range strings.Lines(p.get("/metrics")) {
		if !strings.HasPrefix(line, "#") {
			n++
		}
	}
	if n >= 1000 {
		t.Errorf("%d series", n)
	}
}

// Counting a request does not allocate.
func TestMetrics_Request_AllocatesNothing(t *testing.T) {
	m := newMetrics(&Process{})
	e := &engine.Event{Rule: &engine.Rule{Namespace: "default", Service: "a"}, Status: 200, Received: 1, Sent: 2, Attempts: 2,
		Duration: time.Millisecond}
	if n := testing.AllocsPerRun(100, func() { m.observe(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := newMetrics(&Process{})
	e := &engine.Event{Rule: &engine.Rule{Namespace: "default", Service: "a"}, Status: 200, Sent: 2, Duration: time.Millisecond}
	b.ReportAllocs()
	for b.Loop() {
		m.observe(e)
	}
}

// Every metric of the ingress is in docs/ingress.md, and every one there exists.
func TestDocuments_Metrics_AreThoseOfTheIngress(t *testing.T) {
	raw, err := os.ReadFile("../docs/ingress.md")
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{HTTP: ":1", Sample: 1, Routes: route.Config{Balancing: route.RoundRobin}}, nil, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan *prometheus.Desc, 100)
	for _, c := range []prometheus.Collector{p.metrics.requests, p.metrics.seconds, p.metrics.bytes, p.metrics.retries,
		p.metrics.compiles,
		p.metrics.ready, &tableMetrics{p}} {
		c.Describe(ch)
	}
	close(ch)
	exists := map[string]bool{}
	for d := range ch {
		_, rest, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, _ := strings.Cut(rest, `"`)
		exists[name] = true
		if !strings.Contains(string(raw), "`"+name+"`") {
			t.Errorf("docs/ingress.md does not name the metric %s", name)
		}
	}
	for _, word := range strings.Split(string(raw), "`") {
		if strings.HasPrefix(word, "warren_ingress_") && !exists[word] {
			t.Errorf("docs/ingress.md names %s, which does not exist", word)
		}
	}
}

func TestConfig_InvalidValues_AllAreReported(t *testing.T) {
	c := Config{Status: "x:y:z", Drain: -1, Linger: 2 * time.Hour, Routes: route.Config{Balancing: "magic", SharedHosts: []string{"a*b"}}}
	err := c.Validate()
	for _, want := range []string{"--status", "--http and --https", "--access-log-sample", "--drain", "--linger", "--balancing",
		"--shared-hosts"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}
