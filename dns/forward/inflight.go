package forward

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/warrennet/warren/dns/wire"
)

// inFlightQuery is one query to the upstreams. All clients with the same question wait for it.
type inFlightQuery struct {
	client netip.Addr    // whose share it takes: the first with this question
	done   chan struct{} // closed when result is set
	result attempt
}

// inFlightQueries are the queries that wait for an upstream.
//
// golang.org/x/sync/singleflight does not fit here: it bounds neither the number of keys nor the time that each caller
// waits, its key is a string that would be built for every miss, and no owner joins the goroutine of DoChan.
type inFlightQueries struct {
	mu      sync.Mutex
	queries map[cacheKey]*inFlightQuery
	shares  *Shares
	shared  atomic.Uint64
	refused atomic.Uint64
}

func (q *inFlightQueries) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.queries)
}

// fetch starts a query, or returns the one with the same key that waits already. The answer goes into the cache.
func (f *Forwarder) fetch(set *upstreamSet, k cacheKey, client netip.Addr) (*inFlightQuery, error) {
	f.inFlight.mu.Lock()
	defer f.inFlight.mu.Unlock()
	if q := f.inFlight.queries[k]; q != nil {
		f.inFlight.shared.Add(1)
		return q, nil
	}
	if !f.inFlight.shares.Acquire(client) {
		f.inFlight.refused.Add(1)
		return nil, errOverload
	}
	q := &inFlightQuery{client: client, done: make(chan struct{})}
	if !f.cfg.Spawn(func(ctx context.Context) { f.run(ctx, q, set, k) }) {
		f.inFlight.shares.Release(client)
		return nil, errors.New("the server is not running")
	}
	f.inFlight.queries[k] = q
	return q, nil
}

func (f *Forwarder) run(ctx context.Context, q *inFlightQuery, set *upstreamSet, k cacheKey) {
	q.result = f.queryUpstreams(ctx, set, k)
	now := f.cfg.Now()
	switch {
	case q.result.usable():
		f.cache.put(k, q.result.msg, now)
	case ctx.Err() == nil:
		f.cache.refreshFailed(k, now)
		if q.result.msg == nil || q.result.msg.Rcode == wire.RcodeServfail {
			f.cache.put(k, &Message{Rcode: wire.RcodeServfail, ttl: failureTTL}, now)
		}
	}
	f.inFlight.mu.Lock()
	delete(f.inFlight.queries, k)
	f.inFlight.shares.Release(q.client)
	f.inFlight.mu.Unlock()
	close(q.done)
}
