package dns

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warrennet/warren/internal/model"
)

// Server answers for one node. Its methods may be called from any goroutine, before, while and after Run.
type Server struct {
	cfg     Config
	zone    *zoneConfig
	access  *access
	cache   *cache
	flights inFlightQueries
	stats   stats
	ready   chan struct{}

	index        atomic.Pointer[index]
	routes       atomic.Pointer[routes]
	logQueriesOn atomic.Bool // log them

	searches  atomic.Pointer[map[netip.Addr]*searchList] // clients whose search lists are completed
	decisions decisions

	upstreamsMu sync.Mutex // one change of the upstreams at a time
	fromFile    bool       // the default upstreams are those of resolv.conf

	buildMu sync.Mutex // one Set at a time
	builder *builder

	tasksMu sync.RWMutex // guards spawn against the end of Run
	ctx     context.Context
	ended   bool
	tasks   sync.WaitGroup
	waiting atomic.Int64
	reload  chan struct{} // probe the upstreams now
}

// New checks the configuration. It opens and starts nothing.
func New(c Config) (*Server, error) {
	if err := c.setDefaultsAndValidate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: c, zone: c.zones(), ready: make(chan struct{}), reload: make(chan struct{}, 1)}
	s.access = newAccess(c.Allow, c.RateLimit)
	s.cache = newCache(c.CacheBytes, c.StaleFor)
	s.flights.calls = map[cacheKey]*inFlightQuery{}
	s.decisions.m = map[string]*decision{}
	s.builder = newBuilder(s.zone, c.serverAddrs())
	return s, s.SetUpstreams(c.Upstreams, c.StubDomains)
}

// Run opens the sockets and answers until ctx ends. It returns when every goroutine it started has. A server runs once.
func (s *Server) Run(ctx context.Context) error {
	socks, err := listenAll(ctx, s.cfg.Listen, s.cfg.Workers)
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	return s.serve(ctx, socks)
}

// serve answers on sockets that are open, and closes them.
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
	s.tasksMu.Lock()
	s.ctx = ctx
	s.tasksMu.Unlock()
	for _, w := range workers {
		g.Go(func() error { return w.run(ctx) })
	}
	for _, l := range socks.tcp {
		g.Go(func() error { return s.serveTCP(ctx, l) })
	}
	g.Go(func() error { return s.watchResolvConf(ctx) })
	g.Go(func() error { return s.detectLoops(ctx) })
	defer context.AfterFunc(ctx, socks.stop)()
	close(s.ready)
	err := g.Wait()
	s.tasksMu.Lock()
	s.ended = true // nobody may join while we wait
	s.tasksMu.Unlock()
	s.tasks.Wait()
	s.routes.Load().close()
	return err
}

// Ready is closed when the sockets are open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Set makes a snapshot the truth about cluster names, in one swap: a question is answered from the old one or from the
// new one. Before the first call cluster names are SERVFAIL, and again after nil.
func (s *Server) Set(snap *model.Snapshot) {
	s.buildMu.Lock()
	defer s.buildMu.Unlock()
	if snap == nil {
		s.index.Store(nil)
		return
	}
	start := time.Now()
	x := s.builder.index(snap)
	s.index.Store(x)
	s.stats.built(x, time.Since(start))
}

// LogQueries switches a log line per query on or off. It costs far more than answering.
func (s *Server) LogQueries(on bool) { s.logQueriesOn.Store(on) }

// spawn runs fn in a goroutine that Run joins; false when the server is not running.
func (s *Server) spawn(fn func(ctx context.Context)) bool {
	s.tasksMu.RLock()
	defer s.tasksMu.RUnlock()
	if s.ctx == nil || s.ended || s.ctx.Err() != nil {
		return false
	}
	ctx := s.ctx
	s.tasks.Go(func() { fn(ctx) })
	return true
}

// spawnWaiter is spawn for a client's question, of which only so many may wait at once.
func (s *Server) spawnWaiter(fn func(ctx context.Context)) bool {
	if s.waiting.Add(1) > int64(4*s.cfg.InFlight) {
		s.waiting.Add(-1)
		s.stats.overload.Add(1)
		return false
	}
	ok := s.spawn(func(ctx context.Context) {
		defer s.waiting.Add(-1)
		fn(ctx)
	})
	if !ok {
		s.waiting.Add(-1)
	}
	return ok
}

// SetAllow replaces the sources that may ask (Config.Allow).
func (s *Server) SetAllow(allow []netip.Prefix) { s.access.set(allow) }

// unknownZone reports whether a name could be the cluster's while there is no snapshot to tell.
func (s *Server) unknownZone(q *query) (zoneKind, bool) {
	if k := s.zone.zoneOf(q); k != zoneExternal {
		return k, true
	}
	p, _, ok := q.reversePrefix()
	private := ok && (p.Addr().IsPrivate() || s.access.covers(p))
	return zoneReverse, private
}

func (a *access) covers(p netip.Prefix) bool {
	for _, in := range *a.allow.Load() {
		if in.Overlaps(p) && p.Bits() >= in.Bits() {
			return true
		}
	}
	return false
}
