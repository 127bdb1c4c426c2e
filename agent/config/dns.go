package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/dns"
)

// DNS has the settings of this node's DNS server, except its addresses and upstreams.
type DNS struct {
	StubDomains []string // zone=server, then further servers of the zone
	Autopath    []string // namespaces whose Pods' search lists are completed (CoreDNS autopath), or "*"
	Allow       []netip.Prefix
	RateLimit   int
	Policy      string
	Pods        string
	TTL         int // seconds
	CacheBytes  int
	ServeStale  time.Duration // 0: never
	LogQueries  bool
}

// podsVerified is the value of dns.pods that needs the Pods of every node.
const podsVerified = "verified"

// The values of the settings, in the order of package dns's constants.
var (
	dnsPolicies = []string{"sequential", "parallel"}
	dnsPodModes = []string{"byForm", podsVerified, "off"}
)

// defaultRateLimit is far more than a resolver sends, and a small part of what the server answers on one CPU.
const defaultRateLimit = 20000

func defaultDNS() DNS {
	return DNS{Policy: dnsPolicies[dns.Sequential], Pods: dnsPodModes[dns.PodsByForm], TTL: 5, CacheBytes: 16 << 20,
		ServeStale: 24 * time.Hour, RateLimit: defaultRateLimit}
}

func dnsSettings() []Setting {
	return []Setting{
		list("dns.addresses", "addresses of cluster DNS, one per family, which every node answers itself; empty: no DNS",
			func(c *Config) *[]netip.Addr { return &c.ClusterDNS }, netip.ParseAddr),
		list("dns.upstreams", "upstreams for names outside the cluster domain: addr, addr:port or tls://addr[:port][#servername] "+
			"(default: those of /etc/resolv.conf)",
			func(c *Config) *[]string { return &c.DNSUpstreams }, upstream),
		list("dns.stubDomains",
			"zones with upstreams of their own: zone=server; a following item without a zone is another server of the same zone",
			func(c *Config) *[]string { return &c.DNS.StubDomains }, plain),
		list("dns.autopath", "namespaces whose Pods' search lists the server completes (autopath), or *",
			func(c *Config) *[]string { return &c.DNS.Autopath }, plain),
		list("dns.allow", "networks that may query in addition to this node and its Pods",
			func(c *Config) *[]netip.Prefix { return &c.DNS.Allow }, parsePrefix),
		between("dns.rateLimit", "queries per second per client, 0 for no limit", 0, 1<<24-1,
			func(c *Config) *int { return &c.DNS.RateLimit }),
		choice("dns.policy", "how several upstreams are queried: one after the other, or all at once", dnsPolicies,
			func(c *Config) *string { return &c.DNS.Policy }),
		choice("dns.pods", "how 10-42-0-7.NAMESPACE.pod.DOMAIN is answered: by its form alone, only for Pods that exist, or never",
			dnsPodModes,
			func(c *Config) *string { return &c.DNS.Pods }),
		between("dns.ttl", "TTL of cluster names in seconds", 1, 3600, func(c *Config) *int { return &c.DNS.TTL }),
		between("dns.cacheBytes", "bytes of the cache for names outside the cluster domain", 1<<16, 1<<34,
			func(c *Config) *int { return &c.DNS.CacheBytes }),
		duration("dns.serveStale", "how long an expired answer is served while no upstream answers, 0 for never",
			func(c *Config) *time.Duration { return &c.DNS.ServeStale }),
		boolean("dns.logQueries", "log a line for each query; the command warren dns log switches it while the agent runs",
			func(c *Config) *bool { return &c.DNS.LogQueries }),
	}
}

// choice is a setting with a few values.
func choice(key, usage string, values []string, at func(*Config) *string) Setting {
	return Setting{Key: key, Usage: usage + " (" + strings.Join(values, ", ") + ")",
		set: func(c *Config, v string) error {
			if !slices.Contains(values, v) {
				return fmt.Errorf("%q is none of %s", v, strings.Join(values, ", "))
			}
			*at(c) = v
			return nil
		},
		get: func(c *Config) string { return *at(c) }}
}

// between is a number with bounds.
func between(key, usage string, least, most int, at func(*Config) *int) Setting {
	s := number(key, usage, at)
	s.set = func(c *Config, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is not a whole number from %d to %d", v, least, most)
		}
		*at(c) = n
		return nil
	}
	return s
}

func upstream(s string) (string, error) { return s, dns.CheckUpstream(s) }

// VerifiesPods reports whether the DNS server answers Pod names only for Pods that exist.
func (d *DNS) VerifiesPods() bool { return d.Pods == podsVerified }

// Autopaths reports whether the search lists of a namespace's Pods are completed.
func (d *DNS) Autopaths(namespace string) bool {
	return slices.Contains(d.Autopath, "*") || slices.Contains(d.Autopath, namespace)
}

// DNSServer is the DNS server's configuration as far as the settings have it: without Domain, Listen and Log, and with the
// configured networks in Allow alone.
func (c *Config) DNSServer() dns.Config {
	stubs, _ := stubDomains(c.DNS.StubDomains) // validated
	out := dns.Config{Node: c.NodeName, Upstreams: c.DNSUpstreams, StubDomains: stubs, ResolvConf: "/etc/resolv.conf",
		Policy: dns.Policy(slices.Index(dnsPolicies, c.DNS.Policy)), Pods: dns.PodMode(slices.Index(dnsPodModes, c.DNS.Pods)),
		TTL: uint32(c.DNS.TTL), CacheBytes: c.DNS.CacheBytes, RateLimit: c.DNS.RateLimit, StaleFor: c.DNS.ServeStale, Allow: c.DNS.Allow}
	if c.DNS.ServeStale == 0 {
		out.StaleFor = -1
	}
	return out
}

// stubDomains reads "zone=server" and "server", which belongs to the zone before it.
func stubDomains(items []string) (map[string][]string, error) {
	out, zone := map[string][]string{}, ""
	for _, x := range items {
		name, server, named := strings.Cut(x, "=")
		if !named {
			server = x
		} else if zone = strings.ToLower(strings.TrimSuffix(strings.TrimSpace(name), ".")); dns.CheckZone(zone) != nil {
			return nil, fmt.Errorf("%q is not a zone such as corp.example (in %q)", name, x)
		}
		if zone == "" {
			return nil, fmt.Errorf("%q has no zone, expected zone=server such as corp.example=192.0.2.53", x)
		}
		server = strings.TrimSpace(server)
		if err := dns.CheckUpstream(server); err != nil {
			return nil, fmt.Errorf("server of %s: %w", zone, err)
		}
		out[zone] = append(out[zone], server)
	}
	return out, nil
}
