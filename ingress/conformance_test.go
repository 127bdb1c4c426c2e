package ingress

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

// The 25 scenarios of kubernetes-sigs/ingress-controller-conformance (6 host rules, 16 path rules, 1 default backend with 6 examples, 1
// class, 1 load balancing), implemented again. The suite itself has not been maintained since 2021.
func TestConformance_HostRules(t *testing.T) {
	in := ingressOf("host-rules", rule("*.foo.com", "/", model.PathPrefix, "wildcard-foo-com"), model.IngressRule{Host: "foo.bar.com",
		Paths: []model.IngressPath{{Path: "/", Backend: model.IngressBackend{Service: "foo-bar-com", PortName: "http"}}}})
	in.TLS = []model.IngressTLS{{Hosts: []string{"foo.bar.com"}, Secret: "conformance-tls"}}
	o := objectsOf(map[string][]netip.AddrPort{"wildcard-foo-com": {backend(t, "wildcard-foo-com")}, "foo-bar-com": {backend(t,
		"foo-bar-com")}}, in)
	pool := x509.NewCertPool()
	o.Secrets = []*model.TLSSecret{secretOf(t, pool, "conformance-tls", "foo.bar.com")}
	p := start(t, nil, o)
	p.pool = pool
	for _, c := range []struct {
		scenario, url string
		status        int
		service, host string
	}{
		{"TLS traffic to the matching backend", "https://foo.bar.com", 200, "foo-bar-com", "foo.bar.com"},
		{"traffic to the matching backend", "http://foo.bar.com", 200, "foo-bar-com", "foo.bar.com"},
		{"host does not match", "http://subdomain.bar.com", 404, "", ""},
		{"wildcard matches by suffix", "http://bar.foo.com", 200, "wildcard-foo-com", "bar.foo.com"},
		{"wildcard is one label only", "http://baz.bar.foo.com", 404, "", ""},
		{"wildcard is at least one label", "http://foo.com", 404, "", ""},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			if status, r, _ := p.do("GET", c.url, ""); status != c.status || r.Name != c.service || r.Host != c.host {
				t.Errorf("status %d, backend %q, host %q", status, r.Name, r.Host)
			}
		})
	}
}

func TestConformance_PathRules(t *testing.T) {
	services := map[string][]netip.AddrPort{}
	for _, s := range []string{"foo-exact", "foo-prefix", "aaa-slash-bbb-prefix", "aaa-prefix", "aaa-slash-bbb-slash-prefix",
		"foo-slash-exact"} {
		services[s] = []netip.AddrPort{backend(t, s)}
	}
	p := start(t, nil, objectsOf(services, ingressOf("path-rules",
		rule("exact-path-rules", "/foo", model.PathExact, "foo-exact"),
		rule("prefix-path-rules", "/foo", model.PathPrefix, "foo-prefix"),
		rule("prefix-path-rules", "/aaa/bbb", model.PathPrefix, "aaa-slash-bbb-prefix"),
		rule("prefix-path-rules", "/aaa", model.PathPrefix, "aaa-prefix"),
		rule("mixed-path-rules", "/foo", model.PathPrefix, "foo-prefix"),
		rule("mixed-path-rules", "/foo", model.PathExact, "foo-exact"),
		rule("trailing-slash-path-rules", "/aaa/bbb/", model.PathPrefix, "aaa-slash-bbb-slash-prefix"),
		rule("trailing-slash-path-rules", "/foo/", model.PathExact, "foo-slash-exact"))))
	for _, c := range []struct{ scenario, host, path, service string }{
		{"exact", "exact-path-rules", "/foo", "foo-exact"},
		{"exact, trailing slash", "exact-path-rules", "/foo/", ""},
		{"exact, case", "exact-path-rules", "/FOO", ""},
		{"exact, another label", "exact-path-rules", "/bar", ""},
		{"prefix", "prefix-path-rules", "/foo", "foo-prefix"},
		{"prefix, trailing slash of the request", "prefix-path-rules", "/foo/", "foo-prefix"},
		{"prefix, case", "prefix-path-rules", "/FOO", ""},
		{"prefix, longest path", "prefix-path-rules", "/aaa/bbb", "aaa-slash-bbb-prefix"},
		{"prefix, longest path and subpath", "prefix-path-rules", "/aaa/bbb/ccc", "aaa-slash-bbb-prefix"},
		{"prefix, shorter path", "prefix-path-rules", "/aaa/ccc", "aaa-prefix"},
		{"prefix, whole labels", "prefix-path-rules", "/aaaccc", ""},
		{"prefix, trailing slash again", "prefix-path-rules", "/foo/", "foo-prefix"},
		{"mixed, exact is preferred", "mixed-path-rules", "/foo", "foo-exact"},
		{"trailing slash of a prefix rule", "trailing-slash-path-rules", "/aaa/bbb", "aaa-slash-bbb-slash-prefix"},
		{"trailing slash of both", "trailing-slash-path-rules", "/aaa/bbb/", "aaa-slash-bbb-slash-prefix"},
		{"trailing slash of an exact rule", "trailing-slash-path-rules", "/foo", ""},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			status, r, _ := p.do("GET", "http://"+c.host+c.path, "")
			if c.service == "" && status != 404 || c.service != "" && (status != 200 || r.Name != c.service || r.Path != c.path) {
				t.Errorf("status %d, backend %q, path %q", status, r.Name, r.Path)
			}
		})
	}
}

func TestConformance_DefaultBackend(t *testing.T) {
	b := to("echo-service")
	in := ingressOf("default-backend")
	in.Default = &b
	p := start(t, nil, objectsOf(map[string][]netip.AddrPort{"echo-service": {backend(t, "echo-service")}}, in))
	for _, c := range []struct{ method, host, path string }{{"GET", "my-host", ""}, {"GET", "my-host", "sub-path"}, {"POST", "some-host",
		""},
		{"PUT", "", "resource"}, {"DELETE", "some-host", "resource"}, {"PATCH", "my-host", "resource"}} {
		t.Run(c.method+" "+c.host+"/"+c.path, func(t *testing.T) {
			host := c.host
			if host == "" {
				host = p.cfg.HTTP // no host of its own
			}
			status, r, h := p.do(c.method, "http://"+host+"/"+c.path, "")
			if status != 200 || r.Name != "echo-service" || r.Method != c.method || r.Path != "/"+c.path || r.Proto != "HTTP/1.1" ||
				r.Header.Get("User-Agent") != "Go-http-client/1.1" {
				t.Errorf("status %d %+v", status, r)
			}
			for _, f := range []string{"Content-Length", "Content-Type", "Date", "Server"} {
				if h.Get(f) == "" {
					t.Errorf("the response has no %s", f)
				}
			}
		})
	}
}

func TestConformance_IngressClass_Invalid_IsNotServed(t *testing.T) {
	in := ingressOf("test-ingress-class", rule("ingress-class", "/", model.PathPrefix, "ingress-class-prefix"))
	in.Class = "some-invalid-class-name"
	p := start(t, nil, objectsOf(map[string][]netip.AddrPort{"ingress-class-prefix": {backend(t, "x")}}, in))
	if status, _, _ := p.do("GET", "http://ingress-class/", ""); status != 404 || len(p.table.Load().Served) != 0 {
		t.Errorf("status %d, served %v", status, p.table.Load().Served)
	}
}

func TestConformance_LoadBalancing_AllPodsAreUsed(t *testing.T) {
	var pods []netip.AddrPort
	for i := range 10 {
		pods = append(pods, backend(t, fmt.Sprint("pod-", i)))
	}
	b := to("echo-service")
	in := ingressOf("load-balancing")
	in.Default = &b
	p := start(t, nil, objectsOf(map[string][]netip.AddrPort{"echo-service": pods}, in))
	seen := map[string]bool{}
	for range 100 {
		status, r, _ := p.do("GET", "http://load-balancing", "")
		if status != 200 {
			t.Fatalf("status %d", status)
		}
		seen[r.Name] = true
	}
	if len(seen) != 10 {
		t.Errorf("100 requests reached %d of 10 Pods", len(seen))
	}
}
