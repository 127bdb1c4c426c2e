package dns

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warrennet/warren/dns/forward"
	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/dns/zone"
	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/model"
)

// Server is the DNS server of one node. Its methods may be called from any goroutine, before, while and after Run.
type Server struct {
	cfg     Config
	zone    *zone.Config
	access  *access
	forward *forward.Forwarder
	tasks   tasks
	stats   stats
	ready   chan struct{}

	index        atomic.Pointer[zone.Index] // nil: no snapshot
	logQueriesOn atomic.Bool
	autopath     autopath

	buildMu sync.Mutex // serializes Set
	builder *zone.Builder
}

// New checks the configuration. It opens and starts nothing.
func New(c Config) (*Server, error) {
	c.setDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: c, zone: c.zone(), ready: make(chan struct{}), access: newAccess(c.Allow, c.RateLimit)}
	s.tasks.clients = forward.NewShares(4 * c.InFlight)
	s.autopath.decisions = map[string]*decision{}
	s.builder = zone.NewBuilder(s.zone, c.serverAddrs())
	var err error
	s.forward, err = forward.New(forward.Config{
		Listen: c.Listen, Upstreams: c.Upstreams, ResolvConf: c.ResolvConf, StubDomains: c.StubDomains, Policy: c.Policy,
		CacheBytes: c.CacheBytes, InFlight: c.InFlight, StaleFor: c.StaleFor, RootCAs: c.RootCAs,
		LoopZone: zone.LoopLabel + s.zone.Domain, Now: c.now, Spawn: s.tasks.spawn, Log: c.Log,
	})
	return s, err
}

// Run opens the sockets and answers until ctx ends. It returns when every goroutine it started has. A server runs once, but after an
// error to open its sockets it may run again.
func (s *Server) Run(ctx context.Context) error {
	from := s.cfg.Sockets
	if from == nil {
		from = listen.New(listen.Config{Log: s.cfg.Log})
		defer from.Close()
	}
	socks, err := listenAll(ctx, from, s.cfg.Listen, s.cfg.Workers)
	if err != nil {
		return fmt.Errorf("open sockets: %w", err)
	}
	return s.serve(ctx, socks)
}

// serve answers on open sockets, and closes them.
func (s *Server) serve(ctx context.Context, socks *sockets) error {
	defer socks.close()
	var workers []*worker
	for _, c := range socks.udp {
		w, err := newWorker(s, c)
		if err != nil {
			return fmt.Errorf("dns: %w", err)
		}
		workers = append(workers, w)
	}
	g, ctx := errgroup.WithContext(ctx)
	s.tasks.start(ctx)
	for _, w := range workers {
		g.Go(func() error { return w.run(ctx) })
	}
	for _, l := range socks.tcp {
		g.Go(func() error { return s.serveTCP(ctx, l) })
	}
	g.Go(func() error { return s.forward.Run(ctx) })
	defer context.AfterFunc(ctx, socks.stop)()
	close(s.ready)
	err := g.Wait()
	s.tasks.end()
	s.forward.Close()
	return err
}

// Problems returns what the server does not serve because an object exceeds a bound.
func (s *Server) Problems() []string {
	if x := s.index.Load(); x != nil {
		return x.Problems()
	}
	return nil
}

// Ready is closed when the sockets are open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Set atomically replaces the zone data: a question is answered from the previous snapshot or from the new one. Cluster
// names are SERVFAIL before the first call and after Set(nil).
func (s *Server) Set(snap *model.Snapshot) {
	s.buildMu.Lock()
	defer s.buildMu.Unlock()
	if snap == nil {
		s.index.Store(nil)
		return
	}
	start := time.Now()
	x := s.builder.Build(snap)
	s.index.Store(x)
	s.stats.built(x, time.Since(start))
}

// SetUpstreams changes the upstreams of every name and the stub domains while the server runs. Answers of removed
// upstreams leave the cache. Without default upstreams those of Config.ResolvConf are used.
func (s *Server) SetUpstreams(defaults []string, stubs map[string][]string) error {
	return s.forward.SetUpstreams(defaults, stubs)
}

// SetAllow replaces Config.Allow.
func (s *Server) SetAllow(allow []netip.Prefix) { s.access.set(allow) }

// LogQueries switches a log line per query on or off. A line costs far more than the answer.
func (s *Server) LogQueries(on bool) { s.logQueriesOn.Store(on) }

// maybeCluster reports whether a name may belong to the cluster, and its zone, while there is no snapshot. Reverse names
// may when their range is private (RFC 1918, RFC 4193) or allowed to query: the Pod and Service ranges are unknown.
func (s *Server) maybeCluster(q *wire.Query) (zone.Kind, bool) {
	if k := s.zone.ZoneOf(q); k != zone.External {
		return k, true
	}
	p, _, ok := q.ReversePrefix()
	return zone.Reverse, ok && (p.Addr().IsPrivate() || s.access.covers(p))
}

// tasks are the goroutines outside of the hot path. Run joins them.
type tasks struct {
	mu      sync.RWMutex // guards spawn against the end of Run
	ctx     context.Context
	ended   bool
	group   sync.WaitGroup
	clients *forward.Shares // of the goroutines that answer one client each
	refused atomic.Uint64   // queries beyond the client's share
}

func (t *tasks) start(ctx context.Context) {
	t.mu.Lock()
	t.ctx = ctx
	t.mu.Unlock()
}

// end refuses further goroutines and waits for those that run.
func (t *tasks) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.group.Wait()
}

// spawn runs fn in a goroutine that Run joins. It returns false when the server is not running.
func (t *tasks) spawn(fn func(ctx context.Context)) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.ctx == nil || t.ended || t.ctx.Err() != nil {
		return false
	}
	ctx := t.ctx
	t.group.Go(func() { fn(ctx) })
	return true
}

// spawnForClient is spawn for the answer to one client, which has a share of these goroutines.
func (t *tasks) spawnForClient(client netip.Addr, fn func(ctx context.Context)) bool {
	if !t.clients.Acquire(client) {
		t.refused.Add(1)
		return false
	}
	ok := t.spawn(func(ctx context.Context) {
		defer t.clients.Release(client)
		fn(ctx)
	})
	if !ok {
		t.clients.Release(client)
	}
	return ok
}
