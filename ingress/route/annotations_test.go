package route

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/internal/testutil"
)

type fields map[string]string

func (f fields) Get(name string) string { return f[name] }
func (f fields) Values(name string) []string {
	if v, ok := f[name]; ok {
		return []string{v}
	}
	return nil
}

// annotated makes an Ingress with annotations, "name: value"; the prefix is warren.dev/ unless the name has one.
func annotated(in string, annotations ...string) string {
	var list []string
	for _, a := range annotations {
		name, value, _ := strings.Cut(a, ": ")
		if !strings.Contains(name, "/") {
			name = Prefix + name
		}
		list = append(list, fmt.Sprintf("%s: %q", name, value))
	}
	return strings.Replace(in, "metadata: {", "metadata: {annotations: {"+strings.Join(list, ", ")+"}, ", 1)
}

// nginx is annotated with the prefix of ingress-nginx.
func nginx(in string, annotations ...string) string {
	for i := range annotations {
		annotations[i] = NginxPrefix + annotations[i]
	}
	return annotated(in, annotations...)
}

// outcome is what a decision does, as one line.
func outcome(d engine.Decision) string {
	var out []string
	if d.Status != 0 {
		out = append(out, fmt.Sprint(d.Status))
		for _, f := range d.Headers {
			out = append(out, f[0]+"="+f[1])
		}
		return strings.Join(out, " ")
	}
	out = append(out, d.Rule.Service)
	if w := d.Rewrite; w != nil {
		if w.Host != "" {
			out = append(out, "host="+w.Host)
		}
		if w.Path != "" {
			out = append(out, "path="+w.Path)
		}
		for _, f := range w.Request.Set {
			out = append(out, "request:"+f[0]+"="+f[1])
		}
		for _, f := range w.Response.Set {
			out = append(out, "response:"+f[0]+"="+f[1])
		}
	}
	if d.Upstream.TLS != nil {
		out = append(out, "tls")
	}
	if d.Upstream.H2C {
		out = append(out, "h2c")
	}
	if d.Timeouts != (engine.Timeouts{}) {
		out = append(out, fmt.Sprint(d.Timeouts.Connect, d.Timeouts.Read, d.Timeouts.Write))
	}
	if d.Retry.Attempts != 0 {
		out = append(out, fmt.Sprint("attempts=", d.Retry.Attempts))
	}
	if d.MaxBody != 0 {
		out = append(out, fmt.Sprint("body<=", d.MaxBody))
	}
	return strings.Join(out, " ")
}

// annotationCases have at least one case for each supported annotation. The host x.test has TLS.
var annotationCases = []struct {
	annotations string // separated by "; "
	rule        string
	request     string // method scheme host path
	header      fields
	client      string
	want        string
}{
	{"allowlist-source-range: 192.0.2.0/24,2001:db8::1", "x.test / Prefix a", "GET https x.test /", nil, "192.0.2.7", "a"},
	{"allowlist-source-range: 192.0.2.0/24,2001:db8::1", "x.test / Prefix a", "GET https x.test /", nil, "2001:db8::1", "a"},
	{"allowlist-source-range: 192.0.2.0/24", "x.test / Prefix a", "GET https x.test /", nil, "192.0.3.7", "403"},
	{"whitelist-source-range: 192.0.2.0/24", "x.test / Prefix a", "GET https x.test /", nil, "192.0.3.7", "403"},
	{"denylist-source-range: 192.0.2.0/24", "x.test / Prefix a", "GET https x.test /", nil, "192.0.2.7", "403"},
	{"denylist-source-range: 192.0.2.7", "x.test / Prefix a", "GET https x.test /", nil, "192.0.2.8", "a"},
	{"ssl-redirect: true", "x.test / Prefix a", "GET http x.test /p?q=1", nil, "", "308 Location=https://x.test/p?q=1"},
	{"ssl-redirect: true", "plain.test / Prefix a", "GET http plain.test /", nil, "", "a"},
	{"ssl-redirect: true", "x.test / Prefix a", "GET http x.test /.well-known/acme-challenge/t", nil, "", "a"},
	{"force-ssl-redirect: true", "plain.test / Prefix a", "GET http plain.test /", nil, "", "308 Location=https://plain.test/"},
	{"hsts: max-age=63072000", "x.test / Prefix a", "GET https x.test /", nil, "",
		"a response:Strict-Transport-Security=max-age=63072000"},
	{"hsts: max-age=63072000", "x.test / Prefix a", "GET http x.test /", nil, "", "a"},
	{"permanent-redirect: https://y.test/z", "x.test / Prefix a", "GET http x.test /p", nil, "", "301 Location=https://y.test/z"},
	{"permanent-redirect: https://y.test/z; permanent-redirect-code: 308", "x.test / Prefix a", "GET http x.test /", nil, "",
		"308 Location=https://y.test/z"},
	{"temporal-redirect: https://y.test/z", "x.test / Prefix a", "GET http x.test /p", nil, "", "302 Location=https://y.test/z"},
	{"temporal-redirect: https://y.test/z; temporal-redirect-code: 307", "x.test / Prefix a", "GET http x.test /", nil, "",
		"307 Location=https://y.test/z"},
	{"app-root: /app", "x.test / Prefix a", "GET http x.test /", nil, "", "302 Location=http://x.test/app"},
	{"app-root: /app", "x.test / Prefix a", "GET http x.test /other", nil, "", "a"},
	{"backend-protocol: HTTPS", "x.test / Prefix a", "GET http x.test /", nil, "", "a tls"},
	{"backend-protocol: grpcs", "x.test / Prefix a", "GET http x.test /", nil, "", "a tls"},
	{"backend-protocol: GRPC", "x.test / Prefix a", "GET http x.test /", nil, "", "a h2c"},
	{"backend-protocol: HTTP", "x.test / Prefix a", "GET http x.test /", nil, "", "a"},
	{"upstream-vhost: inner.test", "x.test / Prefix a", "GET http x.test /", nil, "", "a host=inner.test"},
	{"x-forwarded-prefix: /pre", "x.test / Prefix a", "GET http x.test /", nil, "", "a request:X-Forwarded-Prefix=/pre"},
	{"proxy-connect-timeout: 3; proxy-read-timeout: 1m; proxy-send-timeout: 5", "x.test / Prefix a", "GET http x.test /", nil, "",
		"a 3s 1m0s 5s"},
	{"proxy-body-size: 8m", "x.test / Prefix a", "GET http x.test /", nil, "", "a body<=8388608"},
	{"proxy-next-upstream-tries: 5", "x.test / Prefix a", "GET http x.test /", nil, "", "a attempts=5"},
	{"rewrite-target: /new", "x.test /old Prefix a", "GET http x.test /old/x", nil, "", "a path=/new"},
	{"rewrite-target: /$2; use-regex: true", "x.test /old(/|$)(.*) ImplementationSpecific a", "GET http x.test /old/x/y", nil, "",
		"a path=/x/y"},
	{"rewrite-target: /$2; use-regex: true", "x.test /old(/|$)(.*) ImplementationSpecific a", "GET http x.test /old", nil, "",
		"a path=/"},
	{"rewrite-target: /$1; use-regex: true", "x.test /old/(.*) ImplementationSpecific a", "GET http x.test /old/a%20b%2Fc", nil, "",
		"a path=/a%20b%2Fc"},
	{"use-regex: true", "x.test /[a-z]+/(x|y) ImplementationSpecific a", "GET http x.test /abc/y", nil, "", "a"},
	{"use-regex: true", "x.test /[a-z]+/(x|y) ImplementationSpecific a", "GET http x.test /ABC/y", nil, "", "404"},
	{"use-regex: true", "x.test /a.c Prefix a", "GET http x.test /abc", nil, "", "404"},
	{"strip-prefix: true", "x.test /api Prefix a", "GET http x.test /api/v1/x", nil, "", "a path=/v1/x"},
	{"strip-prefix: true", "x.test /api Prefix a", "GET http x.test /api", nil, "", "a path=/"},
	{"strip-prefix: true", "x.test / Prefix a", "GET http x.test /p", nil, "", "a path=/p"},
	{"service-upstream: true", "x.test / Prefix a", "GET http x.test /", nil, "", "a"},
	{"default-backend: b", "x.test / Prefix down", "GET http x.test /", nil, "", "b"},
	{"default-backend: nosuch", "x.test / Prefix down", "GET http x.test /", nil, "", "503"},
	{"enable-cors: true", "x.test / Prefix a", "GET http x.test /", fields{"Origin": "https://o.test"}, "",
		"a response:Access-Control-Allow-Origin=* response:Access-Control-Allow-Credentials=true"},
	{"enable-cors: true", "x.test / Prefix a", "GET http x.test /", nil, "", "a"},
	{"enable-cors: true; cors-allow-credentials: false; cors-allow-methods: GET; cors-allow-headers: X-A; cors-max-age: 60",
		"x.test / Prefix a",
		"OPTIONS http x.test /", fields{"Origin": "https://o.test", "Access-Control-Request-Method": "GET"}, "",
		"204 Access-Control-Allow-Origin=* Access-Control-Allow-Methods=GET Access-Control-Allow-Headers=X-A Access-Control-Max-Age=60"},
	{"enable-cors: true; cors-allow-credentials: false; cors-allow-origin: https://*.o.test; cors-expose-headers: X-E",
		"x.test / Prefix a",
		"GET http x.test /", fields{"Origin": "https://a.o.test"}, "", "a response:Access-Control-Allow-Origin=https://a.o.test " +
			"response:Access-Control-Expose-Headers=X-E response:Vary=Origin"},
	{"enable-cors: true; cors-allow-origin: https://*.o.test", "x.test / Prefix a", "GET http x.test /",
		fields{"Origin": "https://evil.test/.o.test"}, "", "a"},
}

// Each supported annotation has the effect that the document describes.
func TestAnnotations_EachSupported_HasItsEffect(t *testing.T) {
	tested := map[string]bool{"canary": true, "canary-by-cookie": true, "canary-by-header": true, "canary-by-header-pattern": true,
		"canary-by-header-value": true, "canary-weight": true, "canary-weight-total": true, "load-balance": true,
		"upstream-hash-by": true,
		"server-alias":     true, "from-to-www-redirect": true} // in tests of their own
	for a := range strings.SplitSeq(allAnnotationsOfSessions, "; ") {
		name, _, _ := strings.Cut(a, ": ")
		tested[name] = true
	}
	for _, c := range annotationCases {
		list := strings.Split(c.annotations, "; ")
		for _, a := range list {
			name, _, _ := strings.Cut(a, ": ")
			tested[name] = true
		}
		t.Run(c.annotations+" "+c.request, func(t *testing.T) {
			table := New(Config{}).Compile(parse(t, class, service("default/a", "10.0.0.1"), service("default/b", "10.0.0.2"),
				service("default/down"), annotated(ingress("default/in", "tls: [{hosts: [x.test]}]", c.rule), list...)))
			for _, p := range table.Problems {
				if p.Reason == AnnotationInvalid || p.Reason == AnnotationUnsupported {
					t.Errorf("problem: %s", p)
				}
			}
			f := strings.Fields(c.request)
			path, query, _ := strings.Cut(f[3], "?")
			client := netip.MustParseAddr("198.51.100.1")
			if c.client != "" {
				client = netip.MustParseAddr(c.client)
			}
			header := c.header
			if header == nil {
				header = fields{}
			}
			d := table.Route(&engine.Request{Method: f[0], Scheme: f[1], Host: f[2], Path: path, Query: query, Header: header,
				Client: netip.AddrPortFrom(client, 1)})
			if got := outcome(d); got != c.want {
				t.Errorf("%q, expected %q", got, c.want)
			}
		})
	}
	for _, a := range Annotations() {
		if a.parse != nil && !tested[a.Name] {
			t.Errorf("annotation %s has no test", a.Name)
		}
	}
}

// An invalid value is a problem with the value and what was expected, and has no effect.
func TestAnnotations_InvalidValue_IsReportedAndHasNoEffect(t *testing.T) {
	for _, a := range Annotations() {
		if a.parse == nil || a.Name == "canary-by-header-value" { // any value is valid
			continue
		}
		bad := map[string]string{"cors-allow-headers": "a\nb", "cors-allow-methods": "a\nb", "cors-expose-headers": "a\nb",
			"hsts":               "a\nb",
			"x-forwarded-prefix": "a\nb", "canary-by-header-pattern": "(", "cors-allow-origin": "o.test"}[a.Name]
		if bad == "" {
			bad = "bad value $"
		}
		t.Run(a.Name, func(t *testing.T) {
			table := New(Config{}).Compile(parse(t, class, service("default/a", "10.0.0.1"), annotated(ingress("default/in", "",
				"x.test / Prefix a"), a.Name+": "+bad)))
			if len(table.Problems) != 1 || table.Problems[0].Reason != AnnotationInvalid || !strings.Contains(table.Problems[0].Field,
				a.Name) {
				t.Errorf("problems %v", table.Problems)
			}
			if got := outcome(table.Route(&engine.Request{Scheme: "http", Host: "x.test", Path: "/", Header: fields{}})); got != "a" {
				t.Errorf("the request: %s", got)
			}
		})
	}
}

func TestParseRegexp_LongOrBackReference_IsRefused(t *testing.T) {
	for _, text := range []string{strings.Repeat("a", maxRegexp+1), `(a)\1`, `(?=a)`, `a{2000}`} {
		if _, err := parseRegexp(text); err == nil {
			t.Errorf("%.20s was accepted", text)
		}
	}
	long := annotated(ingress("default/in", "", "x.test /"+strings.Repeat("a", maxRegexp)+" ImplementationSpecific a"), "use-regex: true")
	table := New(Config{}).Compile(parse(t, class, service("default/a", "10.0.0.1"), long))
	if len(table.Problems) != 1 || table.Problems[0].Reason != PathInvalid {
		t.Errorf("problems %v", table.Problems)
	}
}

func TestAnnotations_UnsupportedAndUnknown_AreReported(t *testing.T) {
	in := annotated(ingress("default/in", "", "x.test / Prefix a"), "auth-url: http://x", "nosuch: 1", NginxPrefix+"auth-url: http://x",
		"example.com/other: 1")
	for n, cfg := range map[int]Config{2: {}, 3: {Nginx: true}} {
		table := New(cfg).Compile(parse(t, class, service("default/a", "10.0.0.1"), in))
		if len(table.Problems) != n {
			t.Errorf("with %+v: problems %v", cfg, table.Problems)
		}
	}
}

func TestAnnotations_LoadBalance_OfOneIngressOnly(t *testing.T) {
	table := New(Config{}).Compile(parse(t, class, service("default/a", "10.0.0.1", "10.0.0.2"),
		annotated(ingress("default/one", "", "one.test / Prefix a"), "load-balance: round_robin"), ingress("default/two", "",
			"two.test / Prefix a")))
	if a, b := table.Lookup("one.test", "/").Backend.balancing, table.Lookup("two.test", "/").Backend.balancing; a != RoundRobin ||
		b != LeastRequests {
		t.Errorf("methods %s and %s", a, b)
	}
}

func TestCanary_HeaderCookieAndWeight_SelectTheBackend(t *testing.T) {
	for _, c := range []struct {
		annotations string
		header      fields
		want        string // "": both
	}{
		{"canary-by-header: X-C", fields{"X-C": "always"}, "b"},
		{"canary-by-header: X-C; canary-weight: 100", fields{"X-C": "never"}, "a"},
		{"canary-by-header: X-C", fields{"X-C": "other"}, "a"},
		{"canary-by-header: X-C; canary-by-header-value: v", fields{"X-C": "v"}, "b"},
		{"canary-by-header: X-C; canary-by-header-value: v", fields{"X-C": "always"}, "a"},
		{"canary-by-header: X-C; canary-by-header-pattern: ^v[0-9]$", fields{"X-C": "v1"}, "b"},
		{"canary-by-header: X-C; canary-by-header-pattern: ^v[0-9]$", fields{"X-C": "w1"}, "a"},
		{"canary-by-cookie: c", fields{"Cookie": "x=1; c=always"}, "b"},
		{"canary-by-cookie: c; canary-weight: 100", fields{"Cookie": "c=never"}, "a"},
		{"canary-weight: 0", fields{}, "a"},
		{"canary-weight: 100", fields{}, "b"},
		{"canary-weight: 1000; canary-weight-total: 1000", fields{}, "b"},
		{"canary-weight: 50", fields{}, ""},
	} {
		t.Run(c.annotations, func(t *testing.T) {
			in := parse(t, class, service("default/a", "10.0.0.1"), service("default/b", "10.0.0.2"), ingress("default/main", "",
				"x.test /p Prefix a"), annotated(ingress("default/canary", "", "x.test /p Prefix b"),
				append(strings.Split(c.annotations, "; "), "canary: true")...))
			in.Ingresses[0], in.Ingresses[1] = in.Ingresses[1], in.Ingresses[0]
			table := New(Config{}).Compile(in)
			if len(table.Problems) != 0 {
				t.Errorf("problems %v", table.Problems)
			}
			seen := map[string]int{}
			for range 200 {
				seen[outcome(table.Route(&engine.Request{Scheme: "http", Host: "x.test", Path: "/p", Header: c.header}))]++
			}
			if c.want != "" && seen[c.want] != 200 || c.want == "" && (seen["a"] < 50 || seen["b"] < 50) {
				t.Errorf("200 requests: %v", seen)
			}
		})
	}
	table := New(Config{}).Compile(parse(t, class, service("default/b", "10.0.0.2"),
		annotated(ingress("default/canary", "", "x.test /p Prefix b"), "canary: true", "canary-weight: 100")))
	if len(table.Problems) != 1 || table.Problems[0].Reason != PathConflict || table.Lookup("x.test", "/p") != nil {
		t.Errorf("a canary without a main rule: %v", table.Problems)
	}
}

// The five behaviours of ingress-nginx that break migrations, with the switch and without.
func TestNginx_FiveBehaviours_AreReproducedUnderTheSwitch(t *testing.T) {
	for _, c := range []struct {
		name    string
		more    string // an Ingress of the same host
		in      string
		request string
		nginx   string
		warren  string
	}{
		{"regular expressions are prefixes and have no case", "", nginx(ingress("default/in", "",
			"x.test /[A-Z]{3} ImplementationSpecific a"), "use-regex: true"), "/abcdef", "a", "404"},
		{"use-regex holds for all paths of the host", ingress("default/more", "", "x.test /Other Exact b"), nginx(ingress("default/in",
			"",
			"x.test /in ImplementationSpecific a"), "use-regex: true"), "/otherwise", "b", "404"},
		{"rewrite-target implies use-regex", "", nginx(ingress("default/in", "", "x.test /old/(.*) ImplementationSpecific a"),
			"rewrite-target: /$1"), "/OLD/x", "a path=/x", "404"},
		{"a request without the final slash is redirected", "", ingress("default/in", "", "x.test /dir/ Exact a"), "/dir",
			"301 Location=http://x.test/dir/", "404"},
		{"paths are normalised", "", ingress("default/in", "", "x.test /a/b Exact a"), "/a//c/../%62", "a", "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, on := range []bool{true, false} {
				want := c.warren
				if on {
					want = c.nginx
				}
				manifests := []string{class, service("default/a", "10.0.0.1"), service("default/b", "10.0.0.2"), c.in}
				if c.more != "" {
					manifests = append(manifests, c.more)
				}
				table := New(Config{Nginx: on}).Compile(parse(t, manifests...))
				d := table.Route(&engine.Request{Scheme: "http", Host: "x.test", Path: c.request, Header: fields{}})
				if got := outcome(d); got != want {
					t.Errorf("switch %v: %q, expected %q; problems %v", on, got, want, table.Problems)
				}
			}
		})
	}
}

func TestNginx_SSLRedirect_IsTheDefaultForHostsWithTLS(t *testing.T) {
	in := parse(t, class, service("default/a", "10.0.0.1"), testutil.TLSSecret(t, "default/c", "x.test"),
		ingress("default/in", "tls: [{hosts: [x.test], secretName: c}]", "x.test / Prefix a"))
	for want, cfg := range map[string]Config{"308 Location=https://x.test/": {Nginx: true}, "a": {}} {
		d := New(cfg).Compile(in).Route(&engine.Request{Scheme: "http", Host: "x.test", Path: "/", Header: fields{}})
		if got := outcome(d); got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
}

// docs/ingress-annotations.md lists every annotation with the same statement.
func TestDocuments_Annotations_AreThoseOfTheCatalogue(t *testing.T) {
	raw, err := os.ReadFile("../../docs/ingress-annotations.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, a := range Annotations() {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s |", a.Name, a.Support, a.Note))
	}
	var got []string
	_, table, _ := strings.Cut(string(raw), "\n## Table\n")
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "| `") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the table (-want +got):\n%s", d)
	}
}
