package forward

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warrennet/warren/dns/wire"
)

// Policy selects how the upstreams of one set are queried.
type Policy uint8

// Sequential queries the first healthy upstream, and the next one when the first is slow or fails. Parallel queries all
// of them and takes the first usable answer.
const (
	Sequential Policy = iota
	Parallel
)

// Config is what a Forwarder works with. The fields from Listen to RootCAs have the meaning of those of dns.Config; the
// caller has filled in the defaults.
type Config struct {
	Listen      []netip.AddrPort // addresses of this server, which are refused as upstreams
	Upstreams   []string
	ResolvConf  string
	StubDomains map[string][]string
	Policy      Policy
	CacheBytes  int
	InFlight    int
	StaleFor    time.Duration
	RootCAs     *x509.CertPool
	// LoopZone is the zone in wire form below which this server receives its own loop probes.
	LoopZone string
	Now      func() time.Time
	// Spawn runs a function in a goroutine whose context ends with the server. It returns false when the server does not run.
	Spawn func(func(ctx context.Context)) bool
	Log   *slog.Logger
}

// Forwarder answers names outside the cluster zone. Its methods may be called from any goroutine.
type Forwarder struct {
	cfg      Config
	cache    *cache
	inFlight inFlightQueries

	routes   atomic.Pointer[routes]
	changeMu sync.Mutex    // serializes changes of the routes; guards the next two fields
	fromFile bool          // the default upstreams come from resolv.conf
	lastSet  uint32        // the highest id of an upstreamSet
	changed  chan struct{} // the routes changed: probe for loops now
}

// Source is where an external answer came from.
type Source struct {
	From     string // record, cache, stale, upstream, autopath, failure, ...
	Upstream string
	Note     string
}

// Stats are the counters and the load of a Forwarder.
type Stats struct {
	Refused      uint64 // queries refused because the client had its share of Config.InFlight
	Shared       uint64 // questions that shared the query of an equal one
	InFlight     int    // queries that wait for an upstream now
	CacheEntries int
	CacheBytes   int
}

// New returns a Forwarder for the configured upstreams. It opens and starts nothing.
func New(c Config) (*Forwarder, error) {
	f := &Forwarder{cfg: c, cache: newCache(c.CacheBytes, c.StaleFor), changed: make(chan struct{}, 1)}
	f.inFlight.queries, f.inFlight.shares = map[cacheKey]*inFlightQuery{}, NewShares(c.InFlight)
	return f, f.SetUpstreams(c.Upstreams, c.StubDomains)
}

// Run watches resolv.conf and probes the upstreams for loops until ctx ends.
func (f *Forwarder) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.watchResolvConf(ctx) })
	g.Go(func() error { return f.detectLoops(ctx) })
	return g.Wait()
}

// Close closes idle connections. The caller has joined everything that Spawn started.
func (f *Forwarder) Close() { f.routes.Load().close() }

// Cached looks a question up in the cache. It allocates nothing.
func (f *Forwarder) Cached(q *wire.Query, now time.Time) Hit {
	return f.cache.get(keyOf(f.routes.Load().pick(q), q), now)
}

// Resolve returns the answer to a question: from the cache, from an upstream, or a stale one when the upstreams fail or
// take longer than staleDelay. It always returns a message; SERVFAIL stands for a failure that Source describes.
func (f *Forwarder) Resolve(ctx context.Context, q *wire.Query) (*Message, TTLRule, Source) {
	set := f.routes.Load().pick(q)
	look := keyOf(set, q)
	hit := f.cache.get(look, f.cfg.Now())
	switch {
	case hit.Usable && hit.Refresh:
		_, _ = f.fetch(set, look.key(), q.Client) // the client does not wait for it
		fallthrough
	case hit.Usable:
		return hit.Message, hit.TTL, hit.source()
	case !q.RecursionDesired:
		return Failure(wire.RcodeRefused), TTLRule{}, Source{From: "refused", Note: "the query does not request recursion"}
	}
	r, err := f.await(ctx, q, set, hit.Stale)
	switch {
	case err == nil && r.usable():
		return r.msg, TTLRule{}, Source{From: "upstream", Upstream: r.up.name}
	case hit.Stale:
		return hit.Message, hit.TTL, hit.source()
	case err == nil && r.err == nil:
		return Failure(r.msg.Rcode), TTLRule{}, Source{From: "upstream", Upstream: r.up.name}
	case err == nil:
		err = r.err
	}
	return Failure(wire.RcodeServfail), TTLRule{}, Source{From: "failure", Note: err.Error()}
}

// await queries the upstreams and waits for the answer. It waits less long when a stale answer is available.
func (f *Forwarder) await(ctx context.Context, question *wire.Query, set *upstreamSet, stale bool) (attempt, error) {
	look := keyOf(set, question)
	q, err := f.fetch(set, look.key(), question.Client)
	if err != nil {
		return attempt{}, err
	}
	wait := QueryTimeout
	if stale {
		wait = staleDelay
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-q.done:
		return q.result, nil
	case <-timer.C:
		return attempt{}, context.DeadlineExceeded
	case <-ctx.Done():
		return attempt{}, ctx.Err()
	}
}

// SetOf returns the id of the upstream set that serves a name. A set whose configuration changes gets another id.
func (f *Forwarder) SetOf(q *wire.Query) uint32 { return f.routes.Load().pick(q).id }

// Stats returns the present counters.
func (f *Forwarder) Stats() Stats {
	s := Stats{Refused: f.inFlight.refused.Load(), Shared: f.inFlight.shared.Load(), InFlight: f.inFlight.len()}
	s.CacheEntries, s.CacheBytes = f.cache.size()
	return s
}

// SetUpstreams changes the upstreams of every name and the stub domains while the server runs. Answers of removed
// upstreams leave the cache; an unchanged set keeps its health and its answers. Without default upstreams those of
// Config.ResolvConf are used.
func (f *Forwarder) SetUpstreams(defaults []string, stubs map[string][]string) error {
	r, err := parseRoutes(defaults, stubs, f.cfg.Listen)
	if err != nil {
		return err
	}
	f.changeMu.Lock()
	defer f.changeMu.Unlock()
	f.fromFile = len(defaults) == 0
	if f.fromFile {
		r.defaults = f.fileUpstreams()
	}
	f.setRoutes(r)
	return nil
}

// setRoutes swaps the routes; the caller holds changeMu.
func (f *Forwarder) setRoutes(r *routes) {
	old := f.routes.Load()
	if old != nil {
		r.reuse(old)
	}
	changed := old == nil || len(old.stubs) != len(r.stubs)
	ids := map[uint32]bool{}
	for _, set := range r.sets() {
		if set.id == 0 {
			f.lastSet++
			set.id, changed = f.lastSet, true
			set.trust(f.cfg.RootCAs)
		}
		ids[set.id] = true
	}
	if !changed {
		return
	}
	f.routes.Store(r)
	f.cache.retain(ids)
	if old == nil {
		return
	}
	for _, set := range old.sets() {
		if !ids[set.id] {
			set.close()
		}
	}
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// CheckUpstreams reports every invalid upstream and stub domain of a configuration.
func CheckUpstreams(defaults []string, stubs map[string][]string, listen []netip.AddrPort) error {
	_, err := parseRoutes(defaults, stubs, listen)
	return err
}

var (
	errNoUpstream = errors.New("no usable upstream: none is configured, or all of them forward back to this server")
	errOverload   = errors.New("too many queries of this client wait for an upstream")
)
