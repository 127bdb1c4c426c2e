package route

import (
	"crypto/tls"
	"fmt"
	mrand "math/rand/v2"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	"github.com/warrennet/warren/internal/testutil"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// class is the IngressClass of the tests; it is the default.
const class = `
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: warren, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}
spec: {controller: warren.dev/ingress}
`

// parse reads manifests. Objects are created one second after the other, in their order.
func parse(t testing.TB, manifests ...string) *model.IngressObjects {
	t.Helper()
	list, err := objects.Parse(strings.NewReader(strings.Join(manifests, "\n---\n")), "default")
	if err != nil {
		t.Fatal(err)
	}
	o := &model.IngressObjects{}
	for i, x := range list {
		if err := objects.Validate(x); err != nil {
			t.Fatal(err)
		}
		objects.Default(x, time.Unix(1700000000+int64(i), 0))
		switch x := x.(type) {
		case *networkingv1.Ingress:
			o.Ingresses = append(o.Ingresses, objects.Ingress(x))
		case *networkingv1.IngressClass:
			o.Classes = append(o.Classes, objects.IngressClass(x))
		case *corev1.Service:
			s := objects.Service(x)
			o.Services = append(o.Services, &s)
		case *discoveryv1.EndpointSlice:
			if s, ok := objects.Slice(x); ok {
				o.Slices = append(o.Slices, &s)
			}
		case *corev1.Secret:
			if s, ok := objects.TLSSecret(x); ok {
				o.Secrets = append(o.Secrets, s)
			}
		}
	}
	return o
}

// service is a Service with port 80 (http) and endpoints on port 8080, each "address" or "address notready|terminating".
func service(name string, endpoints ...string) string {
	ns, name, _ := strings.Cut(name, "/")
	var list []string
	for _, e := range endpoints {
		a, state, _ := strings.Cut(e, " ")
		list = append(list, fmt.Sprintf("{addresses: [%s], conditions: {%s}}", a, map[string]string{"": "ready: true",
			"notready": "ready: false", "terminating": "ready: false, serving: true, terminating: true"}[state]))
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec: {ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[2]s-1, namespace: %[1]s, labels: {kubernetes.io/service-name: %[2]s}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [%[3]s]`, ns, name, strings.Join(list, ", "))
}

// ingress makes an Ingress; rules are "host path type service".
func ingress(name, more string, rules ...string) string {
	ns, name, _ := strings.Cut(name, "/")
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: %s, namespace: %s}\nspec:\n  %s\n", name, ns, more)
	if len(rules) > 0 {
		b.WriteString("  rules:\n")
	}
	for _, r := range rules {
		f := strings.Fields(r)
		if f[0] == "-" {
			f[0] = ""
		}
		fmt.Fprintf(&b, "  - {host: %q, http: {paths: [{path: %q, pathType: %s, backend: {service: {name: %s, port: {number: 80}}}}]}}\n",
			f[0], f[1], f[2], f[3])
	}
	return b.String()
}

func served(t *testing.T, table *Table, name, path string) string {
	t.Helper()
	e := table.Lookup(name, path)
	if e == nil {
		return "404"
	}
	return e.Backend.Service.Name
}

func TestLookup_HostsAndPaths_FollowPrecedence(t *testing.T) {
	in := parse(t, class, service("default/a", "10.0.0.1"), service("default/b", "10.0.0.2"), service("default/c", "10.0.0.3"),
		service("default/d", "10.0.0.4"), service("default/e", "10.0.0.5"), service("default/f", "10.0.0.6"),
		ingress("default/first", "defaultBackend: {service: {name: f, port: {name: http}}}", "x.test /a Prefix a", "x.test /a/b Prefix b",
			"x.test /a Exact c", "x.test /slash/ Exact c", "x.test /dir/ Prefix d", "x.test /impl ImplementationSpecific d"),
		ingress("default/wild", "", "*.x.test / Prefix d", "sub.x.test /only Exact e"),
		ingress("default/none", "", "- /every Prefix e"),
		ingress("default/fallback", "defaultBackend: {service: {name: a, port: {number: 80}}}"),
	)
	table := New(Config{}).Compile(in)
	if len(table.Problems) != 0 {
		t.Errorf("problems: %v", table.Problems)
	}
	for _, c := range []struct{ host, path, want string }{
		{"x.test", "/a", "c"}, {"x.test", "/a/", "a"}, {"x.test", "/a/x", "a"}, {"x.test", "/a/b", "b"}, {"x.test", "/a/b/", "b"},
		{"x.test", "/a/b/c/d/e", "b"}, {"x.test", "/a/bc", "a"}, {"x.test", "/ab", "f"}, {"x.test", "/", "f"}, {"x.test", "/A", "f"},
		{"x.test", "/slash/", "c"}, {"x.test", "/slash", "f"}, {"x.test", "/dir", "d"}, {"x.test", "/dir/", "d"}, {"x.test", "/dir/x",
			"d"},
		{"x.test", "/impl/x", "d"}, {"x.test", "/implx", "f"},
		{"x.test", "//a//b/", "b"}, {"x.test", "/a/./b", "b"}, {"x.test", "/a/x/../b", "b"}, {"x.test", "/%61/b", "b"},
		{"x.test", "/a%2Fb", "f"}, {"x.test", "/../../a/b", "b"}, {"x.test", "/%2e%2e/a/b", "b"}, {"x.test", "/a/b/..", "a"},
		{"other.x.test", "/a", "d"}, {"sub.x.test", "/only", "e"}, {"sub.x.test", "/other", "a"}, {"two.sub.x.test", "/", "a"},
		{"y.test", "/every/thing", "e"}, {"y.test", "/", "a"}, {"", "/every", "e"},
	} {
		t.Run(c.host+c.path, func(t *testing.T) {
			if got := served(t, table, c.host, c.path); got != c.want {
				t.Errorf("served by %s, expected %s", got, c.want)
			}
		})
	}
}

func TestCompile_SeveralIngressesOfAHost_OldestWinsAndConflictIsReported(t *testing.T) {
	in := parse(t, class, service("default/a", "10.0.0.1"), service("default/b", "10.0.0.2"), service("default/c", "10.0.0.3"),
		ingress("default/z-older", "", "x.test /p Prefix a"),
		ingress("default/a-younger", "", "x.test /p Prefix b", "x.test /q Exact b"),
		ingress("default/same-age", "", "x.test /q Exact c"))
	in.Ingresses[2].Created = in.Ingresses[1].Created // then the name decides
	var first *Table
	for i := range 6 {
		shuffled := *in
		shuffled.Ingresses = slices.Clone(in.Ingresses)
		for j := range i {
			shuffled.Ingresses[j%3], shuffled.Ingresses[(j+1)%3] = shuffled.Ingresses[(j+1)%3], shuffled.Ingresses[j%3]
		}
		table := New(Config{}).Compile(&shuffled)
		if a, b := served(t, table, "x.test", "/p"), served(t, table, "x.test", "/q"); a != "a" || b != "b" {
			t.Errorf("served by %s and %s", a, b)
		}
		if first == nil {
			first = table
		}
		if fmt.Sprint(table.Problems) != fmt.Sprint(first.Problems) || len(table.Problems) != 2 {
			t.Errorf("problems: %v", table.Problems)
		}
	}
	for i, want := range []string{"Ingress default/a-younger spec.rules[0].http.paths: PathConflict", "Ingress default/same-age"} {
		if got := first.Problems[i].String(); !strings.HasPrefix(got, want) {
			t.Errorf("problem %q, expected %q", got, want)
		}
	}
}

func TestCompile_HostOfAnotherNamespace_IsRefusedUnlessShared(t *testing.T) {
	in := parse(t, class, service("one/a", "10.0.0.1"), service("two/b", "10.0.0.2"),
		testutil.TLSSecret(t, "two/cert", "x.test", "new.test"),
		ingress("one/in", "", "x.test / Prefix a", "*.w.test / Prefix a", "- / Prefix a"),
		ingress("two/in", "tls: [{hosts: [x.test, new.test], secretName: cert}]", "x.test /b Prefix b", "sub.w.test / Prefix b",
			"- /b Prefix b",
			"new.test / Prefix b"))
	table := New(Config{}).Compile(in)
	for host, want := range map[string]string{"x.test": "a", "sub.w.test": "a", "any.test": "a", "new.test": "b"} {
		if got := served(t, table, host, "/b"); got != want {
			t.Errorf("%s is served by %s, expected %s", host, got, want)
		}
	}
	if table.certificateFor("x.test") != nil || table.certificateFor("new.test") == nil {
		t.Error("the certificate of another namespace is used, or that of its own host is not")
	}
	n := 0
	for _, p := range table.Problems {
		if p.Reason != HostConflict || p.Object.Namespace != "two" || !strings.Contains(p.Message, "namespace one") {
			t.Errorf("problem %v", p)
		}
		n++
	}
	if n != 4 {
		t.Errorf("%d problems, expected 4", n)
	}
	for _, shared := range [][]string{{"*"}, {"x.test", "*.w.test"}} {
		table = New(Config{SharedHosts: shared}).Compile(in)
		if a, b := served(t, table, "x.test", "/b"), served(t, table, "sub.w.test", "/b"); a != "b" || b != "b" {
			t.Errorf("with %v: served by %s and %s", shared, a, b)
		}
	}
}

func TestLookup_DefaultBackendOfAnotherNamespace_GetsNoRequestOfTheHost(t *testing.T) {
	in := parse(t, class, service("one/a", "10.0.0.1"), service("two/b", "10.0.0.2"),
		ingress("one/in", "", "x.test /a Prefix a"), ingress("two/in", "defaultBackend: {service: {name: b, port: {number: 80}}}"))
	for want, cfg := range map[string]Config{"404": {}, "b": {SharedHosts: []string{"*"}}} {
		table := New(cfg).Compile(in)
		if got := served(t, table, "x.test", "/other"); got != want {
			t.Errorf("served by %s, expected %s", got, want)
		}
		if got := served(t, table, "y.test", "/"); got != "b" {
			t.Errorf("an unclaimed host is served by %s", got)
		}
	}
}

func TestCompile_Classes_SelectTheIngresses(t *testing.T) {
	other := strings.NewReplacer("name: warren", "name: other", "warren.dev/ingress", "example.com/c").Replace(class)
	plain := strings.Replace(class, `"true"`, `"false"`, 1)
	in := func(classes string) *model.IngressObjects {
		annotated := strings.Replace(ingress("default/annotated", "", "a.test / Prefix a"), "namespace: default",
			"namespace: default, annotations: {kubernetes.io/ingress.class: warren}", 1)
		return parse(t, classes, service("default/a", "10.0.0.1"), ingress("default/named", "ingressClassName: warren",
			"n.test / Prefix a"),
			ingress("default/none", "", "c.test / Prefix a"), ingress("default/other", "ingressClassName: other", "o.test / Prefix a"),
			annotated)
	}
	for _, c := range []struct {
		name, classes, served string
		cfg                   Config
	}{
		{"default", class, "a c n", Config{}},
		{"not the default", plain, "a n", Config{}},
		{"another is the default", plain + "\n---\n" + other, "a n", Config{}},
		{"classless", plain + "\n---\n" + other, "a c n", Config{Classless: true}},
		{"no class of warren", other, "", Config{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := New(c.cfg).Compile(in(c.classes))
			var got []string
			for _, h := range []string{"a", "c", "n", "o"} {
				if served(t, table, h+".test", "/") == "a" {
					got = append(got, h)
				}
			}
			if strings.Join(got, " ") != c.served {
				t.Errorf("served %v, expected %s", got, c.served)
			}
		})
	}
}

func TestCompile_BackendFault_GivesStatus503AndAProblem(t *testing.T) {
	external := "apiVersion: v1\nkind: Service\nmetadata: {name: ext}\nspec: {type: ExternalName, externalName: example.com}"
	backend := func(b string) string {
		return ingress("default/in", "defaultBackend: {"+b+"}")
	}
	for _, c := range []struct {
		name, backend string
		want          Reason
	}{
		{"no Service", "service: {name: nosuch, port: {number: 80}}", ServiceNotFound},
		{"no port number", "service: {name: a, port: {number: 81}}", ServicePortNotFound},
		{"no port name", "service: {name: a, port: {name: nosuch}}", ServicePortNotFound},
		{"UDP port", "service: {name: a, port: {name: dns}}", ServicePortNotFound},
		{"ExternalName", "service: {name: ext, port: {number: 80}}", ServiceUnsupported},
		{"no ready endpoint", "service: {name: down, port: {number: 80}}", EndpointsMissing},
		{"resource", "resource: {kind: Bucket, name: b}", BackendResource},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := New(Config{}).Compile(parse(t, class, service("default/a", "10.0.0.1"), service("default/down", "10.0.0.2 notready"),
				external, backend(c.backend)))
			if d := table.Route(&engine.Request{Host: "x", Path: "/"}); d.Status != http.StatusServiceUnavailable ||
				d.Upstream.Pick != nil {
				t.Errorf("decision %+v", d)
			}
			if len(table.Problems) != 1 || table.Problems[0].Reason != c.want || !strings.HasPrefix(table.Problems[0].Field,
				"spec.defaultBackend") {
				t.Errorf("problems %v", table.Problems)
			}
		})
	}
	if d := New(Config{}).Compile(parse(t, class)).Route(&engine.Request{Host: "x", Path: "/"}); d.Status != http.StatusNotFound {
		t.Errorf("without any Ingress: %+v", d)
	}
}

func addrs(b *Backend) (out []string) {
	for _, e := range b.Endpoints {
		out = append(out, e.Addr.String())
	}
	return out
}

func TestBackend_TerminatingEndpoints_AreUsedOnlyWithoutReadyOnes(t *testing.T) {
	for want, endpoints := range map[string][]string{
		"[10.0.0.1:8080]":               {"10.0.0.1", "10.0.0.2 terminating", "10.0.0.3 notready"},
		"[10.0.0.2:8080 10.0.0.4:8080]": {"10.0.0.2 terminating", "10.0.0.3 notready", "10.0.0.4 terminating"},
	} {
		table := New(Config{}).Compile(parse(t, class, service("default/a", endpoints...), ingress("default/in", "", "x / Prefix a")))
		if got := fmt.Sprint(addrs(table.Lookup("x", "/").Backend)); got != want {
			t.Errorf("%v: endpoints %s, expected %s", endpoints, got, want)
		}
	}
}

func TestBackend_LeastRequests_SelectsTheIdleEndpoint(t *testing.T) {
	const n = 20 // more than are all compared
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("10.0.0.%d", i+1))
	}
	for _, count := range []int{2, scanAll, n} {
		table := New(Config{}).Compile(parse(t, class, service("default/a", list[:count]...), ingress("default/in", "", "x / Prefix a")))
		b := table.Lookup("x", "/").Backend
		seen := map[netip.AddrPort]int{}
		for range 10 * count {
			a, ok := b.pick(nil)
			if !ok {
				t.Fatal("no endpoint")
			}
			seen[a]++
		}
		for a, got := range seen {
			if count <= scanAll && got != 10 || got > 20 {
				t.Errorf("%d endpoints: %s has %d requests in progress", count, a, got)
			}
		}
		idle := b.Endpoints[0].Addr
		for range 10 {
			b.done(idle, engine.Answered)
		}
		hits := 0
		for range 5 {
			if a, _ := b.pick(nil); a == idle {
				hits++
			}
		}
		if count <= scanAll && hits != 5 {
			t.Errorf("%d endpoints: the idle one got %d of 5 requests", count, hits)
		}
	}
}

func TestBackend_RoundRobin_TakesEachInTurn(t *testing.T) {
	table := New(Config{Balancing: RoundRobin}).Compile(parse(t, class, service("default/a", "10.0.0.1", "10.0.0.2", "10.0.0.3"),
		ingress("default/in", "", "x / Prefix a")))
	b := table.Lookup("x", "/").Backend
	seen := map[netip.AddrPort]int{}
	for range 300 {
		a, _ := b.pick(nil)
		seen[a]++
	}
	if len(seen) != 3 || seen[b.Endpoints[0].Addr] != 100 {
		t.Errorf("requests by endpoint: %v", seen)
	}
}

func TestBackend_FailedEndpoint_IsAvoidedUnlessNoOtherIsLeft(t *testing.T) {
	table := New(Config{}).Compile(parse(t, class, service("default/a", "10.0.0.1", "10.0.0.2"), ingress("default/in", "",
		"x / Prefix a")))
	b := table.Lookup("x", "/").Backend
	bad, good := b.Endpoints[0], b.Endpoints[1]
	bad.active.Add(1)
	b.done(bad.Addr, engine.ConnectFailed)
	bad.until.Store(time.Now().Add(time.Hour).UnixNano())
	for range 10 {
		if a, _ := b.pick(nil); a != good.Addr {
			t.Fatalf("selected %s", a)
		}
	}
	if a, ok := b.pick([]netip.AddrPort{good.Addr}); !ok || a != bad.Addr {
		t.Errorf("selected %s %v after the other was tried", a, ok)
	}
	if _, ok := b.pick([]netip.AddrPort{good.Addr, bad.Addr}); ok {
		t.Error("an endpoint was tried twice")
	}
	bad.until.Store(1)
	if bad.avoided() {
		t.Error("the endpoint is avoided for ever")
	}
}

func TestCompile_EndpointsChange_KeepTheStateOfThoseThatStay(t *testing.T) {
	c := New(Config{})
	manifests := []string{class, service("default/a", "10.0.0.1", "10.0.0.2"), ingress("default/in", "", "x / Prefix a")}
	first := c.Compile(parse(t, manifests...)).Lookup("x", "/").Backend
	first.Endpoints[0].active.Store(7)
	manifests[1] = service("default/a", "10.0.0.1", "10.0.0.3")
	second := c.Compile(parse(t, manifests...)).Lookup("x", "/").Backend
	if got := fmt.Sprint(addrs(second)); got != "[10.0.0.1:8080 10.0.0.3:8080]" {
		t.Errorf("endpoints %s", got)
	}
	first.done(first.Endpoints[0].Addr, engine.Answered) // a request that began with the former table
	if n := second.Endpoints[0].Active(); n != 6 {
		t.Errorf("%d requests in progress, expected 6", n)
	}
}

// A Compiler that has compiled other states before makes the same table as a new one.
func TestCompile_AfterRandomChanges_EqualsANewCompiler(t *testing.T) {
	r := mrand.New(mrand.NewPCG(1, 2))
	name := func(kind string, i int) model.ObjectName {
		return model.ObjectName{Namespace: fmt.Sprintf("ns%d", i%2), Name: fmt.Sprintf("%s%d", kind, i)}
	}
	ingressAt := func(i int) *model.Ingress {
		in := &model.Ingress{ObjectName: name("in", i), Class: "warren", Created: time.Unix(int64(r.IntN(5)), 0)}
		for range r.IntN(3) {
			rule := model.IngressRule{Host: []string{"", "a.test", "b.test", "*.test", "c.a.test"}[r.IntN(5)]}
			for range 1 + r.IntN(2) {
				rule.Paths = append(rule.Paths, model.IngressPath{Path: []string{"/", "/x", "/x/y", "/x/"}[r.IntN(4)],
					Type: model.PathType(r.IntN(3)), Backend: model.IngressBackend{Service: name("svc", r.IntN(4)).Name, Port: 80}})
			}
			in.Rules = append(in.Rules, rule)
		}
		if len(in.Rules) == 0 || r.IntN(4) == 0 {
			in.Default = &model.IngressBackend{Service: name("svc", r.IntN(4)).Name, Port: 80}
		}
		return in
	}
	serviceAt := func(i int) *model.Service {
		return &model.Service{ObjectName: name("svc", i), Ports: []model.ServicePort{{Protocol: model.TCP,
			Port: uint16(79 + min(r.IntN(5), 1))}}}
	}
	sliceAt := func(i int) *model.EndpointSlice {
		s := &model.EndpointSlice{ObjectName: name("svc", i), Service: name("svc", i).Name,
			Ports: []model.EndpointPort{{Protocol: model.TCP,
				Port: 8080}}}
		for j := range 3 {
			s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i), byte(j)}),
				Ready: r.IntN(2) == 0})
		}
		return s
	}
	in := &model.IngressObjects{Classes: []*model.IngressClass{{Name: "warren", Controller: Controller}}}
	for i := range 8 {
		in.Ingresses = append(in.Ingresses, ingressAt(i))
	}
	for i := range 4 {
		in.Services, in.Slices = append(in.Services, serviceAt(i)), append(in.Slices, sliceAt(i))
	}
	dump := func(table *Table) string {
		var b strings.Builder
		for _, h := range []string{"", "a.test", "b.test", "c.a.test", "x.a.test", "q.test"} {
			for _, p := range []string{"/", "/x", "/x/", "/x/y", "/x/y/z", "/q"} {
				if e := table.Lookup(h, p); e != nil {
					fmt.Fprintln(&b, h, p, e.Ingress.ObjectName, e.Host, e.Path, e.Type, e.Backend.Service, addrs(e.Backend))
				}
			}
		}
		return b.String() + fmt.Sprint(table.Problems)
	}
	c := New(Config{})
	for round := range 500 {
		switch i := r.IntN(3); i {
		case 0:
			k := r.IntN(len(in.Ingresses))
			var n int
			if _, err := fmt.Sscanf(in.Ingresses[k].Name, "in%d", &n); err != nil {
				t.Fatal(err)
			}
			in.Ingresses[k] = ingressAt(n)
		case 1:
			k := r.IntN(len(in.Services))
			in.Services[k] = serviceAt(k)
		case 2:
			k := r.IntN(len(in.Slices))
			in.Slices[k] = sliceAt(k)
		}
		r.Shuffle(len(in.Ingresses), func(i, j int) { in.Ingresses[i], in.Ingresses[j] = in.Ingresses[j], in.Ingresses[i] })
		if d := cmp.Diff(dump(New(Config{}).Compile(in)), dump(c.Compile(in))); d != "" {
			t.Fatalf("round %d (-new +incremental):\n%s", round, d)
		}
	}
}

func TestCertificate_ServerNames_SelectTheSecret(t *testing.T) {
	fallback := &tls.Certificate{}
	in := parse(t, class, service("default/a", "10.0.0.1"), testutil.TLSSecret(t, "default/exact", "x.test"),
		testutil.TLSSecret(t, "default/wild", "*.x.test"), testutil.TLSSecret(t, "default/rules", "r.test"), testutil.TLSSecret(t,
			"default/wrong", "z.test"),
		ingress("default/in", "tls: [{hosts: [x.test], secretName: exact}, {hosts: ['*.x.test'], secretName: wild}]",
			"x.test / Prefix a"),
		ingress("default/rules", "tls: [{secretName: rules}]", "r.test / Prefix a"),
		ingress("default/wrong", "tls: [{hosts: [w.test], secretName: wrong}, {hosts: [m.test], secretName: missing}]",
			"w.test / Prefix a"))
	table := New(Config{Fallback: fallback}).Compile(in)
	for name, want := range map[string]string{"x.test": "x.test", "X.Test": "x.test", "sub.x.test": "*.x.test", "r.test": "r.test",
		"w.test": "z.test", "a.sub.x.test": "", "m.test": "", "": ""} {
		c, err := table.Certificate(1, &tls.ClientHelloInfo{ServerName: name})
		switch {
		case err != nil:
			t.Errorf("%q: %v", name, err)
		case want == "" && c != fallback:
			t.Errorf("%q: expected the fallback", name)
		case want != "" && (c.Leaf == nil || c.Leaf.DNSNames[0] != want):
			t.Errorf("%q: not the certificate for %s", name, want)
		}
	}
	var reasons []Reason
	for _, p := range table.Problems {
		reasons = append(reasons, p.Reason)
	}
	if fmt.Sprint(reasons) != "[CertificateMismatch SecretNotFound]" {
		t.Errorf("problems %v", table.Problems)
	}
	if _, err := New(Config{}).Compile(in).Certificate(1, &tls.ClientHelloInfo{ServerName: "m.test"}); err == nil {
		t.Error("a handshake without any certificate succeeds")
	}
	table = New(Config{Fallback: fallback, DefaultCertificate: model.ObjectName{Namespace: "default", Name: "wild"}}).Compile(in)
	if c, err := table.Certificate(1, &tls.ClientHelloInfo{}); err != nil || c.Leaf == nil || c.Leaf.DNSNames[0] != "*.x.test" {
		t.Errorf("the default certificate is not used: %v", err)
	}
}

func TestRoute_SSLRedirect_OnlyForHostsWithTLSAndNotForACME(t *testing.T) {
	annotated := strings.Replace(ingress("default/in", "tls: [{hosts: [x.test], secretName: c}]", "x.test / Prefix a",
		"plain.test / Prefix a"),
		"namespace: default", `namespace: default, annotations: {warren.dev/ssl-redirect: "true", warren.dev/nosuch: x}`, 1)
	table := New(Config{}).Compile(parse(t, class, service("default/a", "10.0.0.1"), testutil.TLSSecret(t, "default/c", "x.test"),
		annotated))
	if len(table.Problems) != 1 || table.Problems[0].Reason != AnnotationUnsupported {
		t.Errorf("problems %v", table.Problems)
	}
	d := table.Route(&engine.Request{Scheme: "http", Host: "x.test", Path: "/p", Query: "q=1"})
	if d.Status != http.StatusPermanentRedirect || fmt.Sprint(d.Headers) != "[[Location https://x.test/p?q=1]]" {
		t.Errorf("decision %+v", d)
	}
	for _, r := range []engine.Request{{Scheme: "https", Host: "x.test", Path: "/p"}, {Scheme: "http", Host: "plain.test", Path: "/"},
		{Scheme: "http", Host: "x.test", Path: "/.well-known/acme-challenge/t"}} {
		if d := table.Route(&r); d.Status != 0 {
			t.Errorf("%+v: status %d", r, d.Status)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e/", "//", "/a/./", "x", "/%2F%00%41", "/..."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := canonical(path)
		if !strings.HasPrefix(got, "/") || strings.Contains(got, "//") || strings.Contains(got+"/", "/../") || strings.Contains(got+"/",
			"/./") {
			t.Errorf("%q becomes %q", path, got)
		}
	})
}

// many are n Ingresses with a host, a Service and an endpoint each.
func many(n int) *model.IngressObjects {
	o := &model.IngressObjects{Classes: []*model.IngressClass{{Name: "warren", Controller: Controller}}}
	for i := range n {
		name := model.ObjectName{Namespace: "default", Name: fmt.Sprintf("app-%d", i)}
		o.Services = append(o.Services, &model.Service{ObjectName: name, Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP,
			Port: 80}}})
		o.Slices = append(o.Slices, &model.EndpointSlice{ObjectName: name, Service: name.Name, Ports: []model.EndpointPort{{Name: "http",
			Protocol: model.TCP, Port: 8080}}, Endpoints: []model.Endpoint{{Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}),
			Ready: true}}})
		o.Ingresses = append(o.Ingresses, manyIngress(name, i, "/api/v1"))
	}
	return o
}

func manyIngress(name model.ObjectName, i int, path string) *model.Ingress {
	return &model.Ingress{ObjectName: name, Created: time.Unix(int64(i), 0), Class: "warren", Rules: []model.IngressRule{{
		Host: fmt.Sprintf("app-%d.example.com", i), Paths: []model.IngressPath{{Path: path,
			Backend: model.IngressBackend{Service: name.Name,
				Port: 80}}}}}}
}

func TestRoute_AnyRequest_AllocatesNothing(t *testing.T) {
	table := New(Config{}).Compile(many(100))
	r := &engine.Request{Scheme: "http", Host: "app-50.example.com", Path: "/api/v1/users/17"}
	if n := testing.AllocsPerRun(1000, func() {
		d := table.Route(r)
		a, ok := d.Upstream.Pick(nil)
		if !ok {
			t.Fatal("no endpoint")
		}
		d.Upstream.Done(a, engine.Answered)
	}); n != 0 {
		t.Errorf("%v allocations for each request", n)
	}
}

// The table of 5,000 routes fits in 40 MB, with the objects that it was compiled from and what the compiler keeps.
func TestCompile_5000Routes_FitIn40MB(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	in := many(5000)
	c := New(Config{})
	table := c.Compile(in)
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20
	if used > 40 || table.Hosts() != 5000 {
		t.Errorf("%d MB for %d hosts", used, table.Hosts())
	}
	t.Logf("%d MB", used)
	runtime.KeepAlive(c)
	runtime.KeepAlive(in)
}

// BenchmarkRoute compares tables of 5 and of 5,000 routes: the same five hosts are requested, and then all.
func BenchmarkRoute(b *testing.B) {
	for _, c := range []struct{ routes, requested int }{{5, 5}, {5000, 5}, {5000, 5000}} {
		b.Run(fmt.Sprintf("routes=%d/requested=%d", c.routes, c.requested), func(b *testing.B) {
			table := New(Config{}).Compile(many(c.routes))
			hosts := make([]string, c.requested)
			for i := range hosts {
				hosts[i] = fmt.Sprintf("app-%d.example.com", i*c.routes/c.requested)
			}
			r := &engine.Request{Scheme: "http", Path: "/api/v1/users/17"}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				r.Host = hosts[i%c.requested]
				i++
				d := table.Route(r)
				a, _ := d.Upstream.Pick(nil)
				d.Upstream.Done(a, engine.Answered)
			}
		})
	}
}

// One of 5,000 Ingresses changes.
func BenchmarkCompile_OneOf5000Changes(b *testing.B) {
	const n = 5000
	o := many(n)
	mrand.Shuffle(n, func(i, j int) { o.Ingresses[i], o.Ingresses[j] = o.Ingresses[j], o.Ingresses[i] }) // as sources deliver them
	c := New(Config{})
	c.Compile(o)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		k := i * 7919 % n
		i++
		former := o.Ingresses[k]
		o.Ingresses[k] = manyIngress(former.ObjectName, int(former.Created.Unix()), fmt.Sprintf("/v%d", i))
		c.Compile(o)
	}
}

func BenchmarkCompile_5000FromNothing(b *testing.B) {
	o := many(5000)
	b.ReportAllocs()
	for b.Loop() {
		New(Config{}).Compile(o)
	}
}

// cert-manager's HTTP-01 solver makes another Ingress of the same namespace and host, with an Exact path. It is served without a redirect
// as soon as it exists, and does not disturb the other paths.
func TestCompile_ACMESolverIngress_IsServedWithTheHostsOwn(t *testing.T) {
	main := annotated(ingress("default/main", "tls: [{hosts: [x.test], secretName: c}]", "x.test / Prefix a"), "ssl-redirect: true")
	solver := ingress("default/cm-acme-http-solver-abcde", "", "x.test /.well-known/acme-challenge/token Exact b")
	c := New(Config{})
	services := []string{class, service("default/a", "10.0.0.1"), service("default/b", "10.0.0.2")}
	c.Compile(parse(t, append(services, main)...))
	table := c.Compile(parse(t, append(services, main, solver)...))
	for path, want := range map[string]string{"/.well-known/acme-challenge/token": "b", "/.well-known/acme-challenge/other": "a",
		"/": "308 Location=https://x.test/"} {
		if got := outcome(table.Route(&engine.Request{Scheme: "http", Host: "x.test", Path: path, Header: fields{}})); got != want {
			t.Errorf("%s: %s, expected %s", path, got, want)
		}
	}
}
