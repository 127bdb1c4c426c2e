package dns

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
)

// routes say which upstreams answer for which names. A value is immutable; a change makes a new one.
type routes struct {
	defaults *upstreamSet
	stubs    []stubDomain // the longest zone first
}

type stubDomain struct {
	zone      string // wire form
	labels    int
	upstreams *upstreamSet
}

// upstreamSet is one set; its id keys the cache.
type upstreamSet struct {
	id      uint32
	spec    string // what it was parsed from: an unchanged set keeps its id, health and cached answers
	members []*upstream
}

// upstream is one server with its health.
type upstream struct {
	name       string // as configured
	addr       netip.AddrPort
	tls        *tls.Config // nil: plain UDP and TCP
	probeLabel string      // label of the loop probe
	idle       chan *tls.Conn
	health     health
	looped     atomic.Bool // a probe sent there came back to us
	probeSeen  atomic.Bool // the present probe did
	noEDNS     atomic.Bool // it answered FORMERR to EDNS0
}

var nextSet atomic.Uint32

func (r *routes) pick(q *query) *upstreamSet {
	for i := range r.stubs {
		if q.inZone(r.stubs[i].zone, r.stubs[i].labels) {
			return r.stubs[i].upstreams
		}
	}
	return r.defaults
}

// sets are all of them, the default first.
func (r *routes) sets() []*upstreamSet {
	out := []*upstreamSet{r.defaults}
	for _, s := range r.stubs {
		out = append(out, s.upstreams)
	}
	return out
}

func (r *routes) has(id uint32) bool {
	return slices.ContainsFunc(r.sets(), func(u *upstreamSet) bool { return u.id == id })
}

// close ends idle TLS connections.
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

// parseRoutes reads the configured form. listen are our own addresses, which are no upstreams.
func parseRoutes(def []string, stubs map[string][]string, listen []netip.AddrPort) (*routes, error) {
	r := &routes{}
	var errs []error
	parse := func(what string, specs []string) *upstreamSet {
		set := &upstreamSet{id: nextSet.Add(1), spec: strings.Join(specs, " ")}
		for _, spec := range specs {
			up, err := parseUpstream(spec)
			if err == nil && slices.Contains(listen, up.addr) {
				err = errors.New("this server itself")
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
		w, _ := encodeName(zone)
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

// parseUpstream reads "addr", "addr:port" or "tls://addr[:port][#servername]".
func parseUpstream(spec string) (*upstream, error) {
	rest, encrypted := strings.CutPrefix(spec, "tls://")
	rest, server, named := strings.Cut(rest, "#")
	port := uint16(53)
	if encrypted {
		port = 853
	} else if named {
		return nil, errors.New("a server name needs tls://")
	}
	ap, err := netip.ParseAddrPort(rest)
	if err != nil {
		a, err := netip.ParseAddr(strings.Trim(rest, "[]"))
		if err != nil {
			return nil, errors.New("expected addr, addr:port or tls://addr:port#servername")
		}
		ap = netip.AddrPortFrom(a, port)
	}
	if ap.Port() == 0 || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast() {
		return nil, errors.New("not an address to send to")
	}
	up := &upstream{name: spec, addr: netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), probeLabel: newProbeLabel(), idle: make(chan *tls.Conn, 4)}
	if encrypted {
		if server == "" {
			server = ap.Addr().String()
		}
		up.tls = &tls.Config{ServerName: server, MinVersion: tls.VersionTLS12}
	}
	return up, nil
}

// CheckUpstream says what is wrong with a server as Config.Upstreams has them.
func CheckUpstream(spec string) error {
	if _, err := parseUpstream(spec); err != nil {
		return fmt.Errorf("%q: %w", spec, err)
	}
	return nil
}

// CheckZone says what is wrong with a key of Config.StubDomains.
func CheckZone(zone string) error {
	w, err := encodeName(zone)
	if err == nil && len(w) < 2 {
		err = errors.New("expected a name below the root")
	}
	return err
}

func newProbeLabel() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return "w" + hex.EncodeToString(b[:])
}

// SetUpstreams changes the upstreams of every name and the stub domains while the server runs. Answers of upstreams that
// are gone leave the cache; a set that stays as it was keeps its own. No default upstreams: those of Config.ResolvConf.
func (s *Server) SetUpstreams(def []string, stubs map[string][]string) error {
	r, err := parseRoutes(def, stubs, s.cfg.Listen)
	if err != nil {
		return err
	}
	s.upstreamsMu.Lock()
	s.fromFile = len(def) == 0
	if s.fromFile {
		r.defaults = s.fileUpstreams()
	}
	s.setRoutes(r)
	s.upstreamsMu.Unlock()
	return nil
}

// setRoutes swaps the routes; the caller holds adjust.
func (s *Server) setRoutes(r *routes) {
	old := s.routes.Load()
	ids := map[uint32]bool{}
	changed := old == nil || len(old.stubs) != len(r.stubs)
	if old != nil {
		r.defaults = r.defaults.reuse(old.defaults)
		for i := range r.stubs {
			for _, was := range old.stubs {
				if was.zone == r.stubs[i].zone {
					r.stubs[i].upstreams = r.stubs[i].upstreams.reuse(was.upstreams)
				}
			}
		}
	}
	for _, set := range r.sets() {
		ids[set.id] = true
		changed = changed || !old.has(set.id)
		for _, up := range set.members {
			if up.tls != nil {
				up.tls.RootCAs = s.cfg.RootCAs
			}
		}
	}
	if !changed {
		return
	}
	s.routes.Store(r)
	s.cache.retain(ids)
	if old == nil {
		return
	}
	for _, set := range old.sets() {
		if !ids[set.id] {
			set.close()
		}
	}
	select {
	case s.reload <- struct{}{}:
	default:
	}
}

func (u *upstreamSet) reuse(was *upstreamSet) *upstreamSet {
	if u.spec == was.spec {
		return was
	}
	return u
}
