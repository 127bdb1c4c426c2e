package agent

import (
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// Every setting of DNS reaches the server it is for.
func TestDNSSettings(t *testing.T) {
	c, err := load(t, minimal+`
dns:
  upstreams: [192.0.2.53]
  stubDomains: ["corp.example=192.0.2.54,192.0.2.55:5353", "Lab.example.=tls://192.0.2.56#ns.lab.example"]
  autopath: [default, jobs]
  allow: [198.51.100.0/24]
  rateLimit: 500
  policy: parallel
  pods: verified
  ttl: 30
  cacheBytes: 1048576
  serveStale: 0s
  logQueries: true
`, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	vip, block := netip.MustParseAddr("10.43.0.10"), netip.MustParsePrefix("10.42.3.0/24")
	got := c.dnsServer([]netip.Addr{vip}, []netip.Prefix{block}, "cluster.local", slog.Default())
	want := dns.Config{Listen: []netip.AddrPort{netip.AddrPortFrom(vip, 53)}, Domain: "cluster.local", Node: "n1", Upstreams: []string{"192.0.2.53"}, ResolvConf: "/etc/resolv.conf",
		StubDomains: map[string][]string{"corp.example": {"192.0.2.54", "192.0.2.55:5353"}, "lab.example": {"tls://192.0.2.56#ns.lab.example"}},
		Policy:      dns.Parallel, Pods: dns.PodsVerified, TTL: 30, CacheBytes: 1 << 20, RateLimit: 500, StaleFor: -1, Log: slog.Default(),
		Allow: []netip.Prefix{netip.MustParsePrefix("10.43.0.10/32"), block, netip.MustParsePrefix("198.51.100.0/24")}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !c.DNS.LogQueries || !c.autopath("jobs") || c.autopath("prod") {
		t.Errorf("%+v", c.DNS)
	}
	if _, err := dns.New(got); err != nil {
		t.Error(err)
	}
	d := DefaultConfig()
	got = d.dnsServer([]netip.Addr{vip}, nil, "cluster.local", nil)
	if got.Policy != dns.Sequential || got.Pods != dns.PodsByForm || got.StaleFor != 24*time.Hour || got.TTL != 5 || d.autopath("default") {
		t.Errorf("defaults: %+v", got)
	}
}

func TestDNSSettingsAreChecked(t *testing.T) {
	for yaml, want := range map[string]string{
		"upstreams: [example.org]":              `dns.upstreams: "example.org": expected addr, addr:port or tls://addr:port#servername`,
		"stubDomains: [192.0.2.1]":              `dns.stubDomains: "192.0.2.1" has no zone, expected zone=server`,
		`stubDomains: ["=192.0.2.1"]`:           `dns.stubDomains: "" is not a zone`,
		`stubDomains: ["a..b=192.0.2.1"]`:       `dns.stubDomains: "a..b" is not a zone`,
		`stubDomains: ["corp.example=nowhere"]`: `dns.stubDomains: server of corp.example: "nowhere": expected addr`,
		"autopath: [Default]":                   `dns.autopath: "Default" is neither a namespace nor *`,
		"allow: [10.0.0.1/8]":                   `dns.allow: 10.0.0.1/8 has host bits set, expected 10.0.0.0/8`,
		"rateLimit: -1":                         `dns.rateLimit: "-1" is not a whole number from 0 to 16777215`,
		"policy: random":                        `dns.policy: "random" is none of sequential, parallel`,
		"pods: maybe":                           `dns.pods: "maybe" is none of byForm, verified, off`,
		"ttl: 0":                                `dns.ttl: "0" is not a whole number from 1 to 3600`,
		"cacheBytes: 1":                         `dns.cacheBytes: "1" is not a whole number from 65536`,
		"serveStale: long":                      `dns.serveStale: "long" is not a duration`,
		"logQueries: 7":                         `dns.logQueries: "7" is neither true nor false`,
	} {
		if _, err := load(t, minimal+"dns:\n  "+yaml+"\n", nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", yaml, err, want)
		}
	}
}

// What a kubelet writes into the resolv.conf of each dnsPolicy, and what may be completed of it.
func TestSearchOf(t *testing.T) {
	servers := []netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd43::a")}
	domains := []string{"jobs.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"}
	for what, c := range map[string]struct {
		d     api.DNS
		ok    bool
		ndots int
	}{
		"ClusterFirst":                {api.DNS{Servers: []string{"10.43.0.10"}, Searches: domains, Options: []string{"ndots:5"}}, true, 5},
		"with an option of its own":   {api.DNS{Servers: []string{"10.43.0.10", "fd43::a"}, Searches: domains, Options: []string{"edns0", "ndots:2"}}, true, 2},
		"without options":             {api.DNS{Servers: []string{"10.43.0.10"}, Searches: domains}, true, 1},
		"Default":                     {api.DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"corp.example"}}, false, 1},
		"None, with another server":   {api.DNS{Servers: []string{"10.43.0.10", "192.0.2.53"}, Searches: domains, Options: []string{"ndots:5"}}, false, 1},
		"nothing recorded":            {api.DNS{}, false, 1},
		"ndots that nobody can read":  {api.DNS{Servers: []string{"10.43.0.10"}, Searches: domains, Options: []string{"ndots:many"}}, false, 1},
		"a server that is no address": {api.DNS{Servers: []string{"dns"}, Searches: domains}, false, 1},
	} {
		got, ok := searchOf(ipam.Record{PodNamespace: "jobs"}, c.d, servers)
		if ok != c.ok || ok && (got.Namespace != "jobs" || got.NDots != c.ndots || !slices.Equal(got.Domains, domains)) {
			t.Errorf("%s: %+v, %v", what, got, ok)
		}
	}
}

// Without a kubelet the plugin's own result is the Pod's resolver; with one, only what the runtime passed is.
func TestUnrecordedResolver(t *testing.T) {
	a := &Agent{cfg: DefaultConfig()}
	r := ipam.Record{PodNamespace: "jobs"}
	if d := a.resolver(r); len(d.Searches) != 3 || d.Searches[0] != "jobs.svc.cluster.local" {
		t.Errorf("without Kubernetes: %+v", d)
	}
	r.DNS.Servers = []string{"192.0.2.53"}
	if d := a.resolver(r); len(d.Searches) != 0 || d.Servers[0] != "192.0.2.53" {
		t.Errorf("recorded: %+v", d)
	}
	a.kube = &kubernetes{}
	if d := a.resolver(ipam.Record{PodNamespace: "jobs"}); len(d.Servers) != 0 {
		t.Errorf("with Kubernetes and nothing recorded: %+v", d)
	}
}
