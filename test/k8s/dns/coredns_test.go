//go:build k8s

// Package dns holds warren's DNS against CoreDNS with its kubernetes plugin: both see the same objects (CoreDNS by a
// fake API server), a table of questions goes to both, and every difference must be one that is meant.
package dns

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
)

// coreDNS is the rig's binary; hack/test-k8s.sh builds it.
func coreDNS() string {
	dir := os.Getenv("RIG_BIN")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "warren-k8s", "bin")
	}
	return filepath.Join(dir, "coredns")
}

// TestMain runs the tests in a network namespace of their own.
func TestMain(m *testing.M) {
	if os.Getenv("WARREN_OWN_NETNS") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("unshare", append([]string{"-n", "sh", "-c", `ip link set lo up && exec "$0" "$@"`, os.Args[0]}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), "WARREN_OWN_NETNS=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// cluster is one Service of each kind.
const cluster = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.43.0.5, clusterIPs: [10.43.0.5, "fd43::5"], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: four, namespace: default}
spec: {clusterIP: 10.43.0.6, clusterIPs: [10.43.0.6], selector: {app: four}, ports: [{port: 1}]}
---
apiVersion: v1
kind: Service
metadata: {name: lonely, namespace: default}
spec: {clusterIP: 10.43.0.8, clusterIPs: [10.43.0.8], ports: [{name: a, port: 1}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: prod}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: pg, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: none, namespace: prod}
spec: {clusterIP: None, selector: {app: none}, ports: [{name: pg, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: prod}
spec: {clusterIP: None, selector: {app: empty}, ports: [{name: pg, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: prod}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: all}, ports: [{name: pg, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: away, namespace: ext}
spec: {type: ExternalName, externalName: www.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: here, namespace: ext}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: wrong, namespace: ext}
spec: {type: ExternalName, externalName: nope.default.svc.cluster.local}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.42.9.9], conditions: {ready: true}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: prod, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: pg, port: 5432, protocol: TCP}]
endpoints:
- {addresses: [10.42.0.2], hostname: db-0, conditions: {ready: true}}
- {addresses: [10.42.1.2], hostname: db-1, conditions: {ready: true}}
- {addresses: [10.42.2.2], conditions: {ready: true}}
- {addresses: [10.42.3.2], hostname: db-3, conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-2, namespace: prod, labels: {kubernetes.io/service-name: db}}
addressType: IPv6
ports: [{name: pg, port: 5432, protocol: TCP}]
endpoints: [{addresses: ["fd42::2"], hostname: db-0, conditions: {ready: true}}, {addresses: ["fd42::9"], conditions: {ready: true}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: none-1, namespace: prod, labels: {kubernetes.io/service-name: none}}
addressType: IPv4
ports: [{name: pg, port: 5432, protocol: TCP}]
endpoints: [{addresses: [10.42.0.3], hostname: x, conditions: {ready: false}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: all-1, namespace: prod, labels: {kubernetes.io/service-name: all}}
addressType: IPv4
ports: [{name: pg, port: 5432, protocol: TCP}]
endpoints: [{addresses: [10.42.0.9], hostname: a-0, conditions: {ready: true, serving: false}}] # as the controller writes them
`

// questions are sent with every type.
var questions = []string{
	"cluster.local", "svc.cluster.local", "pod.cluster.local", "default.svc.cluster.local", "prod.svc.cluster.local",
	"nowhere.svc.cluster.local",
	"default.pod.cluster.local", "nope.cluster.local", "dns-version.cluster.local", "example.com.cluster.local",
	"www.example.com.svc.cluster.local",
	"www.example.com.default.svc.cluster.local",
	"web.default.svc.cluster.local", "WEB.Default.SVC.cluster.LOCAL", "web.prod.svc.cluster.local", "nope.default.svc.cluster.local",
	"_http._tcp.web.default.svc.cluster.local", "_dns._udp.web.default.svc.cluster.local", "_http._udp.web.default.svc.cluster.local",
	"_nope._tcp.web.default.svc.cluster.local", "x.web.default.svc.cluster.local", "10-42-9-9.web.default.svc.cluster.local",
	"four.default.svc.cluster.local", "lonely.default.svc.cluster.local", "_a._tcp.lonely.default.svc.cluster.local",
	"db.prod.svc.cluster.local", "db-0.db.prod.svc.cluster.local", "db-1.db.prod.svc.cluster.local", "db-3.db.prod.svc.cluster.local",
	"10-42-2-2.db.prod.svc.cluster.local", "10-42-0-2.db.prod.svc.cluster.local", "fd42--9.db.prod.svc.cluster.local",
	"x.db-0.db.prod.svc.cluster.local",
	"_pg._tcp.db.prod.svc.cluster.local", "_pg._udp.db.prod.svc.cluster.local",
	"none.prod.svc.cluster.local", "x.none.prod.svc.cluster.local", "_pg._tcp.none.prod.svc.cluster.local", "empty.prod.svc.cluster.local",
	"all.prod.svc.cluster.local", "a-0.all.prod.svc.cluster.local", "_pg._tcp.all.prod.svc.cluster.local",
	"here.ext.svc.cluster.local", "wrong.ext.svc.cluster.local", "x.here.ext.svc.cluster.local",
	"10-42-0-7.default.pod.cluster.local", "fd42--7.default.pod.cluster.local", "10-42-0-256.default.pod.cluster.local",
	"www.default.pod.cluster.local",
	"a.10-42-0-7.default.pod.cluster.local", "10-42-0-7.nowhere.pod.cluster.local",
	"5.0.43.10.in-addr.arpa", "6.0.43.10.in-addr.arpa", "2.0.42.10.in-addr.arpa", "2.2.42.10.in-addr.arpa", "9.0.42.10.in-addr.arpa",
	"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa",
	"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.4.d.f.ip6.arpa",
}

var types = []uint16{mdns.TypeA, mdns.TypeAAAA, mdns.TypeSRV, mdns.TypePTR, mdns.TypeTXT, mdns.TypeANY, mdns.TypeNS, mdns.TypeSOA,
	mdns.TypeCNAME, mdns.TypeMX}

// api serves objects as an API server does: lists, and watches that begin with them and then stand still.
func api(t *testing.T, of map[string][]any, kinds map[string][2]string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		items, ok := of[r.URL.Path]
		w.Header().Set("Content-Type", "application/json")
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
				Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404})
			return
		}
		kind := kinds[r.URL.Path]
		if r.URL.Query().Get("watch") == "" {
			_ = json.NewEncoder(w).Encode(map[string]any{"kind": kind[1] + "List", "apiVersion": kind[0],
				"metadata": map[string]any{"resourceVersion": "1"}, "items": items})
			return
		}
		if r.URL.Query().Get("sendInitialEvents") == "true" {
			for _, x := range items {
				_ = json.NewEncoder(w).Encode(map[string]any{"type": "ADDED", "object": x})
			}
			end := map[string]any{"kind": kind[1], "apiVersion": kind[0], "metadata": map[string]any{"resourceVersion": "1",
				"annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
			_ = json.NewEncoder(w).Encode(map[string]any{"type": "BOOKMARK", "object": end})
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

// load reads the cluster for both sides.
func load(t *testing.T) (*model.Snapshot, map[string][]any) {
	t.Helper()
	all, err := objects.Parse(strings.NewReader(cluster), "default")
	if err != nil {
		t.Fatal(err)
	}
	snap := &model.Snapshot{Revision: 1, Cluster: model.Cluster{Domain: "cluster.local",
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/48")}},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")}}
	of := map[string][]any{"/api/v1/pods": {}}
	spaces := map[string]bool{}
	for _, o := range all {
		spaces[o.GetNamespace()] = true
		o.SetResourceVersion("1")
		objects.Default(o, time.Now())
		switch o := o.(type) {
		case *corev1.Service:
			o.TypeMeta = metav1.TypeMeta{Kind: "Service", APIVersion: "v1"}
			of["/api/v1/services"] = append(of["/api/v1/services"], o)
			snap.Services = append(snap.Services, objects.Service(o))
		case *discoveryv1.EndpointSlice:
			o.TypeMeta = metav1.TypeMeta{Kind: "EndpointSlice", APIVersion: "discovery.k8s.io/v1"}
			of["/apis/discovery.k8s.io/v1/endpointslices"] = append(of["/apis/discovery.k8s.io/v1/endpointslices"], o)
			if s, ok := objects.Slice(o); ok {
				snap.Slices = append(snap.Slices, s)
			}
		}
	}
	for ns := range spaces {
		of["/api/v1/namespaces"] = append(of["/api/v1/namespaces"], &corev1.Namespace{TypeMeta: metav1.TypeMeta{Kind: "Namespace",
			APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: ns, ResourceVersion: "1"}})
	}
	return snap, of
}

var kinds = map[string][2]string{"/api/v1/services": {"v1", "Service"}, "/api/v1/namespaces": {"v1", "Namespace"},
	"/api/v1/pods": {"v1", "Pod"},
	"/apis/discovery.k8s.io/v1/endpointslices": {"discovery.k8s.io/v1", "EndpointSlice"}}

// startCoreDNS runs CoreDNS as kubeadm configures it, as far as it concerns cluster names.
func startCoreDNS(t *testing.T, endpoint string) netip.AddrPort {
	t.Helper()
	at := netip.MustParseAddrPort("127.0.0.1:5301")
	file := filepath.Join(t.TempDir(), "Corefile")
	text := fmt.Sprintf(".:%d {\n errors\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  endpoint %s\n  pods insecure\n  "+
		"fallthrough in-addr.arpa ip6.arpa\n  ttl 5\n }\n}\n", at.Port(), endpoint)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(coreDNS(), "-conf", file)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("CoreDNS: %s", log.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if r, err := exchange(at, "all.prod.svc.cluster.local.", mdns.TypeA); err == nil && len(r.Answer) == 1 {
			return at
		}
		if time.Now().After(end) {
			t.Fatal("CoreDNS does not answer")
		}
	}
}

func startWarren(t *testing.T, snap *model.Snapshot) netip.AddrPort {
	t.Helper()
	at := netip.MustParseAddrPort("127.0.0.1:5302")
	s, err := dns.New(dns.Config{Listen: []netip.AddrPort{at}, Domain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	s.Set(snap)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-s.Ready()
	return at
}

func exchange(at netip.AddrPort, name string, typ uint16) (*mdns.Msg, error) {
	c := &mdns.Client{Net: "tcp", Timeout: 5 * time.Second, Dialer: &net.Dialer{}}
	r, _, err := c.Exchange(new(mdns.Msg).SetQuestion(mdns.Fqdn(name), typ), at.String())
	return r, err
}

// essence is an answer without the parts that may differ: TTLs, order, the case of names, the serial and times of the zone, and the
// weights of SRV records (CoreDNS divides 100 by the number of addresses, warren by the number of targets).
func essence(r *mdns.Msg) string {
	out := []string{}
	for _, rr := range r.Answer {
		f := strings.Fields(strings.ToLower(rr.String()))
		line := strings.Join(append([]string{f[0]}, f[3:]...), " ")
		if soa, ok := rr.(*mdns.SOA); ok {
			line = strings.ToLower(soa.Hdr.Name) + " soa " + soa.Ns
		}
		if srv, ok := rr.(*mdns.SRV); ok {
			line = strings.ToLower(fmt.Sprintf("%s srv %d %d %s", srv.Hdr.Name, srv.Priority, srv.Port, srv.Target))
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return mdns.RcodeToString[r.Rcode] + " " + strings.Join(out, "; ")
}

// meant are the differences that are on purpose, with their reasons.
var meant = []struct {
	why   string
	where func(name string, typ uint16) bool
}{
	{"ANY has one small record for each name that exists (RFC 8482)", func(_ string, typ uint16) bool { return typ == mdns.TypeANY }},
	{"a name that does not exist has no SOA: CoreDNS calls it empty", func(_ string, typ uint16) bool { return typ == mdns.TypeSOA }},
	{"a name that exists has no TXT but exists: CoreDNS returns NXDOMAIN above Services", func(n string, typ uint16) bool {
		return typ == mdns.TypeTXT && slices.Contains([]string{"cluster.local", "svc.cluster.local", "pod.cluster.local",
			"default.svc.cluster.local", "prod.svc.cluster.local", "default.pod.cluster.local"}, n)
	}},
	{"dns-version exists for every type", func(n string, _ uint16) bool { return n == "dns-version.cluster.local" }},
	{"the zone has its NS record", func(n string, typ uint16) bool { return n == "cluster.local" && typ == mdns.TypeNS }},
	{"the name of a port has no address", func(n string, typ uint16) bool {
		return strings.HasPrefix(n, "_") && (typ == mdns.TypeA || typ == mdns.TypeAAAA)
	}},
	{"endpoints have names below headless Services only", func(n string,
		_ uint16) bool {
		return n == "10-42-9-9.web.default.svc.cluster.local"
	}},
	{"an endpoint's own name has no SRV", func(n string, typ uint16) bool {
		return typ == mdns.TypeSRV && (strings.HasSuffix(n, ".db.prod.svc.cluster.local") ||
			strings.HasSuffix(n, ".all.prod.svc.cluster.local")) && !strings.HasPrefix(n, "_")
	}},
	{"an alias is followed for every type, and kept when its target does not exist", func(n string, _ uint16) bool {
		return n == "here.ext.svc.cluster.local" || n == "wrong.ext.svc.cluster.local"
	}},
	{"a Pod's name has no SRV, and nothing below it", func(n string, typ uint16) bool {
		return strings.HasSuffix(n, ".default.pod.cluster.local") && (typ == mdns.TypeSRV || strings.HasPrefix(n, "a."))
	}},
	{"reverse names of the ranges end here for every type: CoreDNS sends all but PTR on", func(n string, typ uint16) bool {
		return strings.HasSuffix(n, ".arpa") && typ != mdns.TypePTR
	}},
	{"Pod names are answered by form in any namespace", func(n string,
		_ uint16) bool {
		return n == "10-42-0-7.nowhere.pod.cluster.local"
	}},
}

func TestDNS_ComparedWithCoreDNS_SameAnswers(t *testing.T) {
	snap, of := load(t)
	theirs, ours := startCoreDNS(t, api(t, of, kinds).URL), startWarren(t, snap)
	asked, same := 0, 0
	differ := map[string]int{}
	for _, name := range questions {
		for _, typ := range types {
			asked++
			a, err := exchange(theirs, name, typ)
			if err != nil {
				t.Fatalf("CoreDNS: %s %s: %v", name, mdns.TypeToString[typ], err)
			}
			b, err := exchange(ours, name, typ)
			if err != nil {
				t.Fatalf("%s %s: %v", name, mdns.TypeToString[typ], err)
			}
			if essence(a) == essence(b) {
				same++
				continue
			}
			i := slices.IndexFunc(meant, func(m struct {
				why   string
				where func(string, uint16) bool
			}) bool {
				return m.where(strings.ToLower(name), typ)
			})
			if i < 0 {
				t.Errorf("%s %s:\n CoreDNS %s\n warren  %s", name, mdns.TypeToString[typ], essence(a), essence(b))
				continue
			}
			differ[meant[i].why]++
		}
	}
	t.Logf("%d questions, %d alike", asked, same)
	for why, n := range differ {
		t.Logf("%d differ: %s", n, why)
	}
}
