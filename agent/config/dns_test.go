package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/dns"
)

// Every setting of DNS is in the server's configuration.
func TestDNSServer_Settings_AreInTheServersConfig(t *testing.T) {
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
	got := c.DNSServer()
	want := dns.Config{Node: "n1", Upstreams: []string{"192.0.2.53"}, ResolvConf: "/etc/resolv.conf",
		StubDomains: map[string][]string{"corp.example": {"192.0.2.54", "192.0.2.55:5353"},
			"lab.example": {"tls://192.0.2.56#ns.lab.example"}},
		Policy: dns.Parallel, Pods: dns.PodsVerified, TTL: 30, CacheBytes: 1 << 20, RateLimit: 500, StaleFor: -1,
		Allow: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !c.DNS.LogQueries || !c.DNS.Autopaths("jobs") || c.DNS.Autopaths("prod") {
		t.Errorf("%+v", c.DNS)
	}
	d := Default()
	got = d.DNSServer()
	if got.Policy != dns.Sequential || got.Pods != dns.PodsByForm || got.StaleFor != 24*time.Hour || got.TTL != 5 ||
		d.DNS.Autopaths("default") {
		t.Errorf("defaults: %+v", got)
	}
}

func TestLoad_InvalidDNSSettings_AreRefused(t *testing.T) {
	for yaml, want := range map[string]string{
		"upstreams: [example.org]":              `dns.upstreams: "example.org": expected addr, addr:port or tls://addr[:port][#servername]`,
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
		t.Run(yaml, func(t *testing.T) {
			if _, err := load(t, minimal+"dns:\n  "+yaml+"\n", nil, nil); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v\nwant %s", err, want)
			}
		})
	}
}
