package dns

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// PodMode says how `<a>-<b>-<c>-<d>.<ns>.pod.<domain>` is answered.
type PodMode uint8

// The modes. PodsVerified costs one map entry per Pod address at each snapshot, and a Pod's name appears with it.
const (
	PodsByForm PodMode = iota
	PodsVerified
	PodsOff
)

// Policy says how several upstreams are asked.
type Policy uint8

// Sequential asks the first healthy upstream and the next one when it is slow; Parallel asks all and takes the first
// good answer.
const (
	Sequential Policy = iota
	Parallel
)

// Config is a server's configuration. The zero value of each field but Listen is usable.
type Config struct {
	Listen []netip.AddrPort // UDP and TCP
	Domain string           // cluster.local
	Node   string
	// Upstreams are "addr", "addr:port" or "tls://addr[:853]#servername"; none: those of ResolvConf.
	Upstreams []string
	// ResolvConf is read and watched when Upstreams is empty. When it names only a local stub (127.0.0.53), the real list
	// beside it is used.
	ResolvConf string
	// StubDomains are zones with upstreams of their own.
	StubDomains map[string][]string
	Policy      Policy
	Pods        PodMode
	// Allow are the sources that may ask, besides loopback; all others are refused.
	Allow      []netip.Prefix
	TTL        uint32 // of cluster names, in seconds: 5
	CacheBytes int    // 16 MiB
	RateLimit  int    // queries per second of one client, 0 for no limit
	InFlight   int    // queries on their way upstream at once: 1000
	Workers    int    // UDP sockets per address: one per CPU, at most 4
	// StaleFor is how long an expired external answer may still be used when upstream fails (RFC 8767): 24 h; < 0 never.
	StaleFor        time.Duration
	RootCAs         *x509.CertPool // of upstreams over TLS; nil: the system's
	autopathTimeout time.Duration  // completeWithin, but for tests on busy machines
	Log             *slog.Logger
}

// setDefaultsAndValidate sets the defaults and reports every problem at once.
func (c *Config) setDefaultsAndValidate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("dns: "+format, args...)) }
	if len(c.Listen) == 0 {
		bad("no address to listen on")
	}
	for _, a := range c.Listen {
		if !a.IsValid() {
			bad("listen address %s: expected address and port", a)
		}
	}
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
	if w, err := encodeName(c.Domain); err != nil || len(w) < 2 || len(w) > 128 {
		bad("domain %q: expected a name of at most 126 bytes", c.Domain)
	}
	for _, p := range c.Allow {
		if !p.IsValid() {
			bad("allowed source %s: expected a prefix", p)
		}
	}
	if c.Pods > PodsOff || c.Policy > Parallel {
		bad("unknown Pod mode %d or policy %d", c.Pods, c.Policy)
	}
	for _, v := range []struct {
		name string
		p    *int
		def  int
	}{{"cache bytes", &c.CacheBytes, 16 << 20}, {"rate limit", &c.RateLimit, 0}, {"queries in flight", &c.InFlight, 1000}, {"workers", &c.Workers, defaultWorkers()}} {
		if *v.p < 0 {
			bad("%s %d: expected 0 or more", v.name, *v.p)
		} else if *v.p == 0 {
			*v.p = v.def
		}
	}
	if c.TTL == 0 {
		c.TTL = 5
	}
	if c.TTL > 3600 {
		bad("TTL %d: expected at most 3600 seconds", c.TTL)
	}
	if c.StaleFor == 0 {
		c.StaleFor = 24 * time.Hour
	}
	if c.autopathTimeout == 0 {
		c.autopathTimeout = autopathTimeout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := parseRoutes(c.Upstreams, c.StubDomains, c.Listen); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *Config) zones() *zoneConfig {
	w, _ := encodeName(c.Domain)
	return &zoneConfig{domain: w, labels: strings.Count(strings.TrimSuffix(c.Domain, "."), ".") + 1, pods: c.Pods, ttl: c.TTL}
}

// serverAddrs are the addresses that ns.dns.<domain> has.
func (c *Config) serverAddrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range c.Listen {
		if !a.Addr().IsUnspecified() && !a.Addr().IsLoopback() {
			out = append(out, a.Addr())
		}
	}
	return out
}
