package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/dns"
)

// DNS is how this node's DNS server works, beside its addresses and upstreams.
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

// podsVerified needs the Pods of every node.
const podsVerified = "verified"

// The words of the settings, in the order of the package's values.
var (
	dnsPolicies = []string{"sequential", "parallel"}
	dnsPodModes = []string{"byForm", podsVerified, "off"}
)

func defaultDNS() DNS {
	return DNS{Policy: dnsPolicies[dns.Sequential], Pods: dnsPodModes[dns.PodsByForm], TTL: 5, CacheBytes: 16 << 20, ServeStale: 24 * time.Hour}
}

func dnsSettings() []Setting {
	return []Setting{
		list("dns.addresses", "addresses of cluster DNS, one per family, which every node answers itself; empty: no DNS",
			func(c *Config) *[]netip.Addr { return &c.ClusterDNS }, netip.ParseAddr),
		list("dns.upstreams", "servers for other names: addr, addr:port or tls://addr#name (default: those of /etc/resolv.conf)",
			func(c *Config) *[]string { return &c.DNSUpstreams }, upstream),
		list("dns.stubDomains", "zones with servers of their own: zone=server; what follows without a zone is another server of the last one",
			func(c *Config) *[]string { return &c.DNS.StubDomains }, plain),
		list("dns.autopath", "namespaces whose Pods' search lists the server completes (autopath), or *",
			func(c *Config) *[]string { return &c.DNS.Autopath }, plain),
		list("dns.allow", "sources that may ask besides this node and its Pods",
			func(c *Config) *[]netip.Prefix { return &c.DNS.Allow }, parsePrefix),
		between("dns.rateLimit", "queries per second that one client may ask, 0 for no limit", 0, 1<<24-1, func(c *Config) *int { return &c.DNS.RateLimit }),
		choice("dns.policy", "how several servers are asked: one after the other, or all at once", dnsPolicies, func(c *Config) *string { return &c.DNS.Policy }),
		choice("dns.pods", "how 10-42-0-7.NAMESPACE.pod.DOMAIN is answered: by its form alone, only for Pods that exist, or never", dnsPodModes, func(c *Config) *string { return &c.DNS.Pods }),
		between("dns.ttl", "seconds that a resolver may keep a cluster name", 1, 3600, func(c *Config) *int { return &c.DNS.TTL }),
		between("dns.cacheBytes", "memory for answers to other names", 1<<16, 1<<34, func(c *Config) *int { return &c.DNS.CacheBytes }),
		duration("dns.serveStale", "how long an expired answer may still be given while no server answers, 0 for never", func(c *Config) *time.Duration { return &c.DNS.ServeStale }),
		boolean("dns.logQueries", "log a line for each query; `warren dns log` switches it while the agent runs", func(c *Config) *bool { return &c.DNS.LogQueries }),
	}
}

// choice is a setting with a few words for values.
func choice(key, usage string, words []string, at func(*Config) *string) Setting {
	return Setting{Key: key, Usage: usage + " (" + strings.Join(words, ", ") + ")",
		set: func(c *Config, v string) error {
			if !slices.Contains(words, v) {
				return fmt.Errorf("%q is none of %s", v, strings.Join(words, ", "))
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

// checkDNS reports what single values cannot show.
func (c *Config) checkDNS(bad func(key, format string, args ...any)) {
	if _, err := stubDomains(c.DNS.StubDomains); err != nil {
		bad("dns.stubDomains", "%v", err)
	}
	for _, ns := range c.DNS.Autopath {
		if ns != "*" && (!dnsLabel.MatchString(ns) || strings.Contains(ns, ".")) {
			bad("dns.autopath", "%q is neither a namespace nor *", ns)
		}
	}
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

func (c *Config) autopath(namespace string) bool {
	return slices.Contains(c.DNS.Autopath, "*") || slices.Contains(c.DNS.Autopath, namespace)
}
