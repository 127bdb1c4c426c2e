package route

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrennet/warren/ingress/engine"
)

const allAnnotationsOfSessions = "affinity: cookie; affinity-mode: persistent; session-cookie-name: S; session-cookie-path: /p; " +
	"session-cookie-domain: x.test; session-cookie-max-age: 60; session-cookie-secure: true; session-cookie-samesite: Strict"

func TestAffinity_Cookie_KeepsTheEndpointUntilItIsGone(t *testing.T) {
	endpoints := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}
	compile := func(c *Compiler, endpoints ...string) *Table {
		in := parse(t, class, service("default/a", endpoints...), annotated(ingress("default/in", "", "x.test / Prefix a"),
			strings.Split(allAnnotationsOfSessions, "; ")...))
		in.Ingresses[0].UID = "u"
		table := c.Compile(in)
		if len(table.Problems) > 0 {
			t.Errorf("problems %v", table.Problems)
		}
		return table
	}
	one := New(Config{})
	table := compile(one, endpoints...)
	request := func(table *Table, cookie string) (netip.AddrPort, string) {
		t.Helper()
		d := table.Route(&engine.Request{Scheme: "http", Host: "x.test", Path: "/", Header: fields{"Cookie": cookie}})
		a, ok := d.Upstream.Pick(nil)
		if !ok {
			t.Fatal("no endpoint")
		}
		d.Upstream.Done(a, engine.Answered)
		if d.Rewrite == nil {
			return a, ""
		}
		return a, d.Rewrite.Response.Add[0][1]
	}
	first, line := request(table, "")
	c, err := http.ParseSetCookie(line)
	if err != nil || c.Name != "S" || c.Path != "/p" || c.Domain != "x.test" || c.MaxAge != 60 || !c.Secure || !c.HttpOnly ||
		c.SameSite != http.SameSiteStrictMode || strings.Contains(c.Value, "10") && strings.Contains(c.Value, ".") {
		t.Errorf("Set-Cookie %q: %v", line, err)
	}
	other := compile(New(Config{}), endpoints...) // another proxy
	for range 20 {
		for _, table := range []*Table{table, other} {
			if a, line := request(table, "x=y; S="+c.Value); a != first || line != "" {
				t.Fatalf("selected %s and cookie %q, expected %s", a, line, first)
			}
		}
	}
	seen := map[netip.AddrPort]bool{}
	for range 50 {
		a, _ := request(table, "S=unknown")
		seen[a] = true
	}
	if len(seen) != len(endpoints) {
		t.Errorf("requests without a known session went to %d endpoints", len(seen))
	}
	var left []string
	for _, e := range endpoints {
		if e != first.Addr().String() {
			left = append(left, e)
		}
	}
	if a, line := request(compile(one, left...), "S="+c.Value); a == first || line == "" {
		t.Errorf("after the endpoint is gone: selected %s, cookie %q", a, line)
	}
	// A failed endpoint of a session is replaced for this request.
	d := table.Route(&engine.Request{Scheme: "http", Host: "x.test", Path: "/", Header: fields{"Cookie": "S=" + c.Value}})
	if a, ok := d.Upstream.Pick([]netip.AddrPort{first}); !ok || a == first {
		t.Errorf("after a failure: selected %s %v", a, ok)
	}
}

func TestUpstreamHashBy_SameKey_SameEndpointAndLittleMoves(t *testing.T) {
	var endpoints []string
	for i := range 10 {
		endpoints = append(endpoints, fmt.Sprintf("10.0.0.%d", i+1))
	}
	for _, c := range []struct {
		key    string
		differ func(i int) engine.Request
		same   func(i int) engine.Request // the same key for each i
	}{
		{"$request_uri", func(i int) engine.Request { return engine.Request{Path: fmt.Sprint("/", i)} },
			func(i int) engine.Request {
				return engine.Request{Path: "/p", Query: "q", Client: netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i))}
			}},
		{"${host}$uri", func(i int) engine.Request { return engine.Request{Path: fmt.Sprint("/", i)} },
			func(i int) engine.Request { return engine.Request{Path: "/p", Query: fmt.Sprint(i)} }},
		{"$remote_addr", func(i int) engine.Request {
			return engine.Request{Path: "/", Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1)}
		}, func(i int) engine.Request {
			return engine.Request{Path: fmt.Sprint("/", i), Client: netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i))}
		}},
		{"$http_x_user", func(i int) engine.Request { return engine.Request{Path: "/", Header: fields{"x-user": fmt.Sprint(i)}} },
			func(i int) engine.Request {
				return engine.Request{Path: fmt.Sprint("/", i), Header: fields{"x-user": "u"}}
			}},
		{"$cookie_u", func(i int) engine.Request {
			return engine.Request{Path: "/", Header: fields{"Cookie": fmt.Sprint("u=", i)}}
		},
			func(i int) engine.Request {
				return engine.Request{Path: fmt.Sprint("/", i), Header: fields{"Cookie": "u=x"}}
			}},
		{"a-$arg_id", func(i int) engine.Request { return engine.Request{Path: "/", Query: fmt.Sprint("id=", i)} },
			func(i int) engine.Request { return engine.Request{Path: fmt.Sprint("/", i), Query: "id=1"} }},
	} {
		t.Run(c.key, func(t *testing.T) {
			at := func(endpoints ...string) func(engine.Request) netip.AddrPort {
				table := New(Config{}).Compile(parse(t, class, service("default/a", endpoints...), annotated(ingress("default/in", "",
					"x.test / Prefix a"), "upstream-hash-by: "+c.key)))
				if len(table.Problems) > 0 {
					t.Fatalf("problems %v", table.Problems)
				}
				return func(r engine.Request) netip.AddrPort {
					r.Scheme, r.Host = "http", "x.test"
					if r.Header == nil {
						r.Header = fields{}
					}
					a, _ := table.Route(&r).Upstream.Pick(nil)
					return a
				}
			}
			all, less := at(endpoints...), at(endpoints[1:]...)
			gone := netip.MustParseAddrPort(endpoints[0] + ":8080")
			seen := map[netip.AddrPort]int{}
			for i := range 200 {
				if a := all(c.same(i)); a != all(c.same(0)) {
					t.Fatalf("the same key was sent to %s and %s", a, all(c.same(0)))
				}
				a := all(c.differ(i))
				seen[a]++
				if b := less(c.differ(i)); a != gone && b != a {
					t.Fatalf("key %d moved from %s to %s, which were both there", i, a, b)
				}
			}
			if len(seen) != len(endpoints) {
				t.Errorf("200 keys went to %d of %d endpoints", len(seen), len(endpoints))
			}
		})
	}
	for _, bad := range []string{"$nosuch", "$", "$http_"} {
		if _, err := parseHashKey(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestHosts_AliasAndWWW_AreServedOrRedirected(t *testing.T) {
	table := New(Config{}).Compile(parse(t, class, service("default/a", "10.0.0.1"), service("default/b", "10.0.0.2"),
		annotated(ingress("default/in", "", "x.test /p Prefix a", "www.y.test / Prefix a", "both.test / Prefix a"),
			"server-alias: alias.test, *.alias.test", "from-to-www-redirect: true"),
		ingress("default/own", "", "www.both.test / Prefix b")))
	if len(table.Problems) > 0 {
		t.Errorf("problems %v", table.Problems)
	}
	for target, want := range map[string]string{
		"x.test/p": "a", "alias.test/p": "a", "sub.alias.test/p": "a", "www.x.test/p": "308 Location=http://x.test/p?q",
		"y.test/z": "308 Location=http://www.y.test/z?q", "www.y.test/": "a", "www.both.test/": "b", "both.test/": "a",
	} {
		host, path, _ := strings.Cut(target, "/")
		if got := outcome(table.Route(&engine.Request{Scheme: "http", Host: host, Path: "/" + path, Query: "q",
			Header: fields{}})); got != want {
			t.Errorf("%s: %s, expected %s", target, got, want)
		}
	}
	taken := New(Config{}).Compile(parse(t, class, service("one/a", "10.0.0.1"), service("two/b", "10.0.0.2"),
		ingress("one/in", "", "x.test / Prefix a"), annotated(ingress("two/in", "", "y.test / Prefix b"), "server-alias: x.test")))
	if len(taken.Problems) != 1 || taken.Problems[0].Reason != HostConflict || served(t, taken, "x.test", "/") != "a" {
		t.Errorf("an alias that is another namespace's host: %v", taken.Problems)
	}
}

func TestParseSize_Units_AreThoseOfNginx(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "512": 512, "8k": 8192, "1M": 1 << 20, "2g": 2 << 30, "x": -1, "-1": -1, "1t": -1,
		"":         -1,
		"9000000g": -1} {
		n, err := parseSize(text)
		if err != nil {
			n = -1
		}
		if n != want {
			t.Errorf("%q: %d, expected %d", text, n, want)
		}
	}
}
