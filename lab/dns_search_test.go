package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/warrennet/warren/internal/testutil"
)

// outside is a DNS server on a machine of the lab, for names outside of the cluster domain.
type outside struct {
	mu    sync.Mutex
	names map[string][]string // records by name without the final dot, in zone file form
	asked []string
}

// serve answers on a machine's address until the test ends.
func (o *outside) serve(t *testing.T, l *Lab, machine string, at netip.AddrPort) {
	t.Helper()
	pid, err := l.hold(machine)
	if err != nil {
		t.Fatal(err)
	}
	var conn net.PacketConn
	if err := inside(pid, func() (err error) { conn, err = net.ListenPacket("udp", at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(o.answer)}
	done := make(chan error, 1)
	go func() { done <- srv.ActivateAndServe() }()
	t.Cleanup(func() { conn.Close(); <-done })
}

func (o *outside) answer(w dns.ResponseWriter, q *dns.Msg) {
	o.mu.Lock()
	defer o.mu.Unlock()
	name := strings.TrimSuffix(dns.CanonicalName(q.Question[0].Name), ".")
	o.asked = append(o.asked, name)
	m := new(dns.Msg).SetReply(q)
	records, ok := o.names[name]
	if !ok {
		m.Rcode = dns.RcodeNameError
	}
	for _, s := range records {
		if rr, err := dns.NewRR(q.Question[0].Name + " 60 IN " + s); err == nil && rr.Header().Rrtype == q.Question[0].Qtype {
			m.Answer = append(m.Answer, rr)
		}
	}
	if len(m.Answer) == 0 {
		soa, _ := dns.NewRR(". 60 IN SOA a. b. 1 2 3 4 60")
		m.Ns = []dns.RR{soa}
	}
	_ = w.WriteMsg(m)
}

// resolver builds the program that resolves names with the C library of a compiler.
func resolver(t *testing.T, compiler string, flags ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "resolve-"+compiler)
	if out, err := exec.Command(compiler, append(flags, "-O1", "-Wall", "-o", bin, "testdata/resolve.c")...).CombinedOutput(); err != nil {
		t.Fatalf("%s (hack/deps.sh installs it): %v: %s", compiler, err, out)
	}
	return bin
}

// A Pod of a namespace in dns.autopath resolves an external name with its first query, with glibc and with musl. Its results
// are those of a Pod without autopath.
func TestDNS_SearchList_OneQueryPerName(t *testing.T) {
	t.Parallel()
	const upstream = "192.168.77.11:5300"
	l := start(t, Spec{Nodes: 1, Family: Dual, Agent: map[string]any{"dns": map[string]any{"autopath": []string{"default"},
		"upstreams": []string{upstream}}}})
	o := &outside{names: map[string][]string{"www.example.com": {"A 192.0.2.80", "AAAA 2001:db8::80"}, "v4.example.com": {"A 192.0.2.81"},
		"db-0.less.example": {"A 192.0.2.82"},
		"db-0.less":         {"A 192.0.2.83"}}}
	o.serve(t, l, "n1", netip.MustParseAddrPort(upstream))
	resolvers := map[string]string{"glibc": resolver(t, "gcc"), "musl": resolver(t, "musl-gcc", "-static")}
	applyYAML(t, l, web("web", "app: web", "")+"---"+strings.Replace(web("less", "app: none", ""), "spec:", "spec:\n  clusterIP: None", 1))
	pods := map[string]*Pod{}
	for _, ns := range []string{"default", "jobs"} {
		p, err := l.RunPod(context.Background(), PodSpec{Node: "n1", Name: "client", Namespace: ns, Args: []string{"sleep", "inf"}})
		if err != nil {
			t.Fatal(err)
		}
		pods[ns] = p
	}
	vip := getSvc(t, l, "web").ips(t)
	testutil.Eventually(t, "completion", func() error { // the agent learns the Pod's search list shortly after ADD
		out, err := l.PodOutput(pods["default"], "dig", "+search", "www.example.com")
		if err == nil && !strings.Contains(out, "CNAME www.example.com.") {
			err = fmt.Errorf("dig printed %s", out)
		}
		return err
	})
	sh(t, l, "n1", l.Exe+" dns log on")
	if out, err := l.PodOutput(pods["default"], "getent", "ahosts", "www.example.com"); err != nil ||
		!slices.Equal(addressesIn(out), []string{"192.0.2.80", "2001:db8::80"}) {
		t.Errorf("getent: %v %s", err, out)
	}
	for _, c := range []struct {
		name, family string
		want         []string
		few          int // queries with autopath
	}{
		{"www.example.com", "", []string{"192.0.2.80", "2001:db8::80"}, 2},
		{"www.example.com", "4", []string{"192.0.2.80"}, 1},
		{"v4.example.com", "", []string{"192.0.2.81"}, 2},
		{"v4.example.com", "6", nil, 0}, // glibc continues the search after NODATA, musl stops
		{"db-0.less.example", "4", []string{"192.0.2.82"}, 1},
		{"web.default.svc", "4", []string{vip[0].String()}, 1},
		{"nothing.example.com", "", nil, 0},
	} {
		for which, bin := range resolvers {
			for ns, p := range pods {
				before := len(questions(t, l, p))
				out, err := l.PodOutput(p, strings.Fields(bin+" "+c.name+" "+c.family)...)
				if got := addressesIn(out); !slices.Equal(got, c.want) || (err == nil) != (len(c.want) > 0) {
					t.Errorf("%s in %s: %s %s: %v %v, want %v", which, ns, c.name, c.family, got, err, c.want)
				}
				// a resolver that has its answer may still query the previous name
				sent := slices.DeleteFunc(questions(t, l, p)[before:], func(q string) bool { return !strings.HasPrefix(q, c.name) })
				slices.Sort(sent)
				sent = slices.Compact(sent) // musl queries all servers at once
				if ns == "default" && c.few > 0 && len(sent) != c.few || ns == "jobs" && c.few > 0 && len(sent) < 3*c.few {
					t.Errorf("%s in %s sent %d queries for %s: %q", which, ns, len(sent), c.name, sent)
				}
			}
		}
	}
	// Autopath sends no query to an upstream for the name of a Pod whose Service has no ready endpoints.
	o.mu.Lock()
	o.asked = nil
	o.mu.Unlock()
	out, err := l.PodOutput(pods["default"], "dig", "db-0.less.default.svc.cluster.local.")
	if err != nil || !strings.Contains(out, "NXDOMAIN") {
		t.Errorf("a Pod that is not ready: %v %s", err, out)
	}
	o.mu.Lock()
	if len(o.asked) != 0 {
		t.Errorf("queries to the upstream: %q", o.asked)
	}
	o.mu.Unlock()
	sh(t, l, "n1", l.Exe+" dns log off")
	before := len(questions(t, l, pods["jobs"]))
	if _, err := l.PodOutput(pods["jobs"], "dig", "www.example.com"); err != nil || len(questions(t, l, pods["jobs"])) != before {
		t.Errorf("after `dns log off`: %v, or still logged", err)
	}
}

// addressesIn are the distinct addresses at the start of lines, sorted.
func addressesIn(out string) (list []string) {
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Fields(line); len(f) > 0 {
			if a, err := netip.ParseAddr(f[0]); err == nil {
				list = append(list, a.String())
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

var questionName = regexp.MustCompile(`msg="answered a DNS query" client=(\S+) question="(\S+) (\S+)"`)

// questions are the queries of a Pod in the agent's log.
func questions(t *testing.T, l *Lab, p *Pod) (out []string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(l.machineDir(p.Node), "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range questionName.FindAllStringSubmatch(string(raw), -1) {
		from, err := netip.ParseAddrPort(strings.Trim(m[1], `"`))
		if err == nil && slices.Contains(p.Addresses, from.Addr()) {
			out = append(out, m[2]+" "+m[3])
		}
	}
	return out
}
