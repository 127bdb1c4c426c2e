package forward

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/dns/wire"
)

// routes select the upstreams of a name. A value is immutable; a change makes a new one.
type routes struct {
	defaults *upstreamSet
	stubs    []stubDomain // the longest zone first
}

type stubDomain struct {
	zone      string // wire form
	labels    int
	upstreams *upstreamSet
}

// upstreamSet are the servers of one zone. A set whose spec does not change keeps its id, health and cached answers.
type upstreamSet struct {
	id      uint32 // a part of every cacheKey; 0 until setRoutes
	spec    string // the configuration that it was parsed from
	members []*upstream
}

// maxIdleConns bounds the idle TLS connections to one upstream.
const maxIdleConns = 4

// upstream is one server.
type upstream struct {
	name       string // as configured
	addr       netip.AddrPort
	tls        *tls.Config // nil: plain UDP and TCP
	probeLabel string      // first label of its loop probes
	idle       chan *tls.Conn
	health     health
	looped     atomic.Bool // it forwards back to this server: not used
	probeSeen  atomic.Bool // the present loop probe has arrived
	noEDNS     atomic.Bool // it answered FORMERR to EDNS0
}

// pick returns the set of the longest stub domain that contains the name, or the default set.
func (r *routes) pick(q *wire.Query) *upstreamSet {
	for i := range r.stubs {
		if q.InZone(r.stubs[i].zone, r.stubs[i].labels) {
			return r.stubs[i].upstreams
		}
	}
	return r.defaults
}

// sets returns all sets, the default set first.
func (r *routes) sets() []*upstreamSet {
	out := []*upstreamSet{r.defaults}
	for _, s := range r.stubs {
		out = append(out, s.upstreams)
	}
	return out
}

// reuse takes over the sets of old whose configuration is the same.
func (r *routes) reuse(old *routes) {
	r.defaults = r.defaults.orSame(old.defaults)
	for i := range r.stubs {
		for _, was := range old.stubs {
			if was.zone == r.stubs[i].zone {
				r.stubs[i].upstreams = r.stubs[i].upstreams.orSame(was.upstreams)
			}
		}
	}
}

// orSame returns old when its configuration is the same.
func (u *upstreamSet) orSame(old *upstreamSet) *upstreamSet {
	if u.spec == old.spec {
		return old
	}
	return u
}

// trust sets the certificate authorities of upstreams over TLS. The set is not in use yet.
func (u *upstreamSet) trust(roots *x509.CertPool) {
	for _, up := range u.members {
		if up.tls != nil {
			up.tls.RootCAs = roots
		}
	}
}

// close closes idle TLS connections.
func (r *routes) close() {
	for _, set := range r.sets() {
		set.close()
	}
}

func (u *upstreamSet) close() {
	for _, up := range u.members {
		for {
			select {
			case c := <-up.idle:
				c.Close()
				continue
			default:
			}
			break
		}
	}
}

// parseRoutes parses the configured upstreams and reports every problem. An address in listen is refused: it is this
// server itself.
func parseRoutes(def []string, stubs map[string][]string, listen []netip.AddrPort) (*routes, error) {
	r := &routes{}
	var errs []error
	parse := func(what string, specs []string) *upstreamSet {
		set := &upstreamSet{spec: strings.Join(specs, " ")}
		for _, spec := range specs {
			up, err := parseUpstream(spec)
			if err == nil && slices.Contains(listen, up.addr) {
				err = errors.New("the address of this server itself, expected another server")
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("dns: upstream %q of %s: %w", spec, what, err))
				continue
			}
			set.members = append(set.members, up)
		}
		return set
	}
	r.defaults = parse("every name", def)
	for zone, specs := range stubs {
		w, _ := wire.EncodeName(zone)
		if CheckZone(zone) != nil {
			errs = append(errs, fmt.Errorf("dns: stub domain %q: expected a name below the root", zone))
			continue
		}
		labels := strings.Count(strings.TrimSuffix(zone, "."), ".") + 1
		r.stubs = append(r.stubs, stubDomain{w, labels, parse(zone, specs)})
	}
	slices.SortFunc(r.stubs, func(a, b stubDomain) int { return b.labels - a.labels })
	return r, errors.Join(errs...)
}

// parseUpstream parses "addr", "addr:port" or "tls://addr[:port][#servername]".
func parseUpstream(spec string) (*upstream, error) {
	rest, encrypted := strings.CutPrefix(spec, "tls://")
	rest, server, named := strings.Cut(rest, "#")
	port := uint16(53)
	if encrypted {
		port = 853
	} else if named {
		return nil, errors.New("a server name requires tls://")
	}
	ap, err := netip.ParseAddrPort(rest)
	if err != nil {
		a, err := netip.ParseAddr(strings.Trim(rest, "[]"))
		if err != nil {
			return nil, errors.New("expected addr, addr:port or tls://addr[:port][#servername]")
		}
		ap = netip.AddrPortFrom(a, port)
	}
	if ap.Port() == 0 || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast() {
		return nil, errors.New("expected a unicast address and a port other than 0")
	}
	up := &upstream{name: spec, addr: netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), probeLabel: newProbeLabel(),
		idle: make(chan *tls.Conn, maxIdleConns)}
	if encrypted {
		if server == "" {
			server = ap.Addr().String()
		}
		up.tls = &tls.Config{ServerName: server, MinVersion: tls.VersionTLS12}
	}
	return up, nil
}

// CheckUpstream returns the problem of one element of Config.Upstreams.
func CheckUpstream(spec string) error {
	if _, err := parseUpstream(spec); err != nil {
		return fmt.Errorf("%q: %w", spec, err)
	}
	return nil
}

// CheckZone returns the problem of a key of Config.StubDomains.
func CheckZone(zone string) error {
	w, err := wire.EncodeName(zone)
	if err == nil && len(w) < 2 {
		err = errors.New("expected a name below the root")
	}
	return err
}

// newProbeLabel returns a random label.
func newProbeLabel() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return "w" + hex.EncodeToString(b[:])
}

// UpstreamState is the present state of one upstream.
type UpstreamState struct {
	Name, Zone               string // Zone is "." in the default set
	Down, Loop               bool
	RTT                      time.Duration
	Sent, Failed, Mismatched uint64
}

// Upstreams returns the state of every upstream. An upstream of several zones is listed once.
func (f *Forwarder) Upstreams() []UpstreamState {
	var out []UpstreamState
	now, r := f.cfg.Now(), f.routes.Load()
	seen := map[string]bool{}
	for i, set := range r.sets() {
		zone := "."
		if i > 0 {
			zone = wire.DecodeName([]byte(r.stubs[i-1].zone))
		}
		for _, u := range set.members {
			if seen[u.name] {
				continue
			}
			seen[u.name] = true
			out = append(out, u.state(zone, now))
		}
	}
	return out
}

func (up *upstream) state(zone string, now time.Time) UpstreamState {
	h := &up.health
	h.mu.Lock()
	defer h.mu.Unlock()
	return UpstreamState{Name: up.name, Zone: zone, Down: now.Before(h.downUntil), Loop: up.looped.Load(), RTT: h.rtt,
		Sent: h.sent, Failed: h.failed, Mismatched: h.mismatched}
}
