package dns

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/warrennet/warren/dns/forward"
	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/dns/zone"
	"github.com/warrennet/warren/internal/listen"
)

// PodMode selects how `<a>-<b>-<c>-<d>.<ns>.pod.<domain>` is answered.
type PodMode = zone.PodMode

// The modes of Pod names.
const (
	PodsByForm   = zone.PodsByForm
	PodsVerified = zone.PodsVerified
	PodsOff      = zone.PodsOff
)

// Policy selects how several upstreams are queried.
type Policy = forward.Policy

// The policies.
const (
	Sequential = forward.Sequential
	Parallel   = forward.Parallel
)

// Config is a server's configuration. The zero value of each field but Listen is usable.
type Config struct {
	Listen []netip.AddrPort // UDP and TCP
	Domain string           // cluster.local
	Node   string           // the answer to CHAOS hostname.bind
	// Upstreams are "addr", "addr:port" or "tls://addr[:853]#servername". Without any, those of ResolvConf are used.
	Upstreams []string
	// ResolvConf is read and watched when Upstreams is empty. When it names only a stub resolver (127.0.0.53), the
	// upstreams of systemd-resolved are used.
	ResolvConf string
	// StubDomains are zones with upstreams of their own.
	StubDomains map[string][]string
	Policy      Policy
	Pods        PodMode
	// Allow are the sources that may query this server, in addition to loopback. All others are refused.
	Allow      []netip.Prefix
	TTL        uint32 // of cluster names, in seconds: 5
	CacheBytes int    // 16 MiB
	RateLimit  int    // queries per second of one client, 0 for no limit
	InFlight   int    // queries that wait for an upstream at once: 1000
	Workers    int    // goroutines that read one UDP socket: one per CPU, at most 4
	// Sockets keep the server's sockets open beyond its end. nil: they end with the server.
	Sockets *listen.Sockets
	// StaleFor is how long an expired external answer is served while the upstreams fail (RFC 8767): 24 h; < 0 never.
	StaleFor time.Duration
	RootCAs  *x509.CertPool // of upstreams over TLS; nil: the system's
	Log      *slog.Logger

	autopathTimeout time.Duration    // a test on a busy machine sets more than autopathTimeout
	now             func() time.Time // a test sets a clock that it can advance
}

const (
	defaultTTL        = 5 // seconds
	maxConfigTTL      = 3600
	defaultCacheBytes = 16 << 20
	defaultInFlight   = 1000
	defaultStaleFor   = 24 * time.Hour
	maxDomainBytes    = 128 // wire form
)

// setDefaults fills in the fields that are zero.
func (c *Config) setDefaults() {
	c.Domain = cmp.Or(c.Domain, "cluster.local")
	c.TTL = cmp.Or(c.TTL, defaultTTL)
	c.CacheBytes = cmp.Or(c.CacheBytes, defaultCacheBytes)
	c.InFlight = cmp.Or(c.InFlight, defaultInFlight)
	c.Workers = cmp.Or(c.Workers, defaultWorkers())
	c.StaleFor = cmp.Or(c.StaleFor, defaultStaleFor)
	c.autopathTimeout = cmp.Or(c.autopathTimeout, autopathTimeout)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.now == nil {
		c.now = time.Now
	}
}

// validate reports every problem at once.
func (c *Config) validate() error {
	return errors.Join(c.validateAddresses(), c.validateZone(), c.validateNumbers(),
		forward.CheckUpstreams(c.Upstreams, c.StubDomains, c.Listen))
}

func (c *Config) validateAddresses() error {
	var errs []error
	if len(c.Listen) == 0 {
		errs = append(errs, errors.New("dns: no address to listen on"))
	}
	for _, a := range c.Listen {
		if !a.IsValid() {
			errs = append(errs, fmt.Errorf("dns: listen address %s: expected address and port", a))
		}
	}
	for _, p := range c.Allow {
		if !p.IsValid() {
			errs = append(errs, fmt.Errorf("dns: allowed source %s: expected a prefix", p))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) validateZone() error {
	var errs []error
	if w, err := wire.EncodeName(c.Domain); err != nil || len(w) < 2 || len(w) > maxDomainBytes {
		errs = append(errs, fmt.Errorf("dns: domain %q: expected a name of at most %d bytes", c.Domain, maxDomainBytes-2))
	}
	if c.TTL > maxConfigTTL {
		errs = append(errs, fmt.Errorf("dns: TTL %d: expected at most %d seconds", c.TTL, maxConfigTTL))
	}
	if c.Pods > PodsOff {
		errs = append(errs, fmt.Errorf("dns: unknown Pod mode %d", c.Pods))
	}
	if c.Policy > Parallel {
		errs = append(errs, fmt.Errorf("dns: unknown policy %d", c.Policy))
	}
	return errors.Join(errs...)
}

func (c *Config) validateNumbers() error {
	var errs []error
	for _, v := range []struct {
		name  string
		value int
	}{{"cache bytes", c.CacheBytes}, {"rate limit", c.RateLimit}, {"queries in flight", c.InFlight}, {"workers", c.Workers}} {
		if v.value < 0 {
			errs = append(errs, fmt.Errorf("dns: %s %d: expected 0 or more", v.name, v.value))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) zone() *zone.Config {
	w, _ := wire.EncodeName(c.Domain)
	return &zone.Config{Domain: w, Labels: strings.Count(strings.TrimSuffix(c.Domain, "."), ".") + 1, Pods: c.Pods, TTL: c.TTL}
}

// serverAddrs returns the addresses of ns.dns.<domain>.
func (c *Config) serverAddrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range c.Listen {
		if !a.Addr().IsUnspecified() && !a.Addr().IsLoopback() {
			out = append(out, a.Addr())
		}
	}
	return out
}

// CheckUpstream returns the problem of one element of Config.Upstreams.
func CheckUpstream(spec string) error { return forward.CheckUpstream(spec) }

// CheckZone returns the problem of a key of Config.StubDomains.
func CheckZone(zone string) error { return forward.CheckZone(zone) }
