package forward

import (
	"container/list"
	"sync"
	"time"

	"github.com/warrennet/warren/dns/wire"
)

const (
	cacheShards    = 16
	maxTTL         = 24 * time.Hour
	maxNegative    = 15 * time.Minute // RFC 2308 allows up to three hours
	failureTTL     = time.Second      // of SERVFAIL (RFC 9520)
	staleTTL       = 30               // seconds, in stale answers (RFC 8767 section 4)
	staleRetry     = 5 * time.Second  // after a failed refresh: stale answers are served without another query
	prefetchHits   = 3                // hits after which an answer is refreshed before it expires
	minPrefetchTTL = 10 * time.Second
	entryOverhead  = 256 // bytes of an entry in addition to its message and name
)

// Flags of a cacheKey: answers differ by them.
const (
	flagDO = 1 << iota // DNSSEC OK
	flagCD             // checking disabled
)

// cacheKey identifies an answer. The id of the upstream set is part of it: an answer never outlives its upstreams.
type cacheKey struct {
	set   uint32
	typ   uint16
	flags uint8
	name  string // wire form, lower case
}

func keyOf(set *upstreamSet, q *wire.Query) cacheLookup {
	k := cacheLookup{set: set.id, typ: q.Type, name: q.Name}
	if q.DNSSECOK {
		k.flags |= flagDO
	}
	if q.CheckingDisabled {
		k.flags |= flagCD
	}
	return k
}

// cacheLookup is a cacheKey whose name is a part of the packet: a lookup copies nothing.
type cacheLookup struct {
	set   uint32
	typ   uint16
	flags uint8
	name  []byte
}

func (k cacheLookup) key() cacheKey { return cacheKey{k.set, k.typ, k.flags, string(k.name)} }

// cache stores external answers, positive and negative. The least recently used answers are removed first. Cluster names
// are never stored.
type cache struct {
	shards        [cacheShards]cacheShard
	maxShardBytes int
	maxStale      time.Duration // how long an expired answer may be served, <= 0: never
}

type cacheShard struct {
	mu    sync.Mutex
	m     map[cacheKey]*list.Element
	lru   list.List // of *entry, most recently used first
	bytes int
}

type entry struct {
	key     cacheKey
	msg     *Message
	stored  time.Time
	expires time.Time
	retry   time.Time // after a failed refresh: serve the stale answer until then
	hits    int
}

// Hit is the result of a cache lookup.
type Hit struct {
	Message *Message // nil: not cached
	Usable  bool     // fresh, or stale after a refresh failed a moment ago
	Stale   bool
	Refresh bool // usable, used often and about to expire: the caller fetches it again
	TTL     TTLRule
}

func (h Hit) source() Source {
	if h.Stale {
		return Source{From: "stale"}
	}
	return Source{From: "cache"}
}

func newCache(bytes int, stale time.Duration) *cache {
	c := &cache{maxShardBytes: bytes / cacheShards, maxStale: stale}
	for i := range c.shards {
		c.shards[i].m = map[cacheKey]*list.Element{}
	}
	return c
}

func (c *cache) shard(typ uint16, n int, last byte) *cacheShard {
	return &c.shards[(int(typ)+n*7+int(last)*31)%cacheShards]
}

func (c *cache) shardFor(name []byte, typ uint16) *cacheShard {
	return c.shard(typ, len(name), name[len(name)/3])
}

// get looks an answer up. It allocates nothing.
func (c *cache) get(k cacheLookup, now time.Time) Hit {
	sh := c.shardFor(k.name, k.typ)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	el := sh.m[cacheKey{k.set, k.typ, k.flags, string(k.name)}]
	if el == nil {
		return Hit{}
	}
	e := el.Value.(*entry)
	sh.lru.MoveToFront(el)
	if now.Before(e.expires) {
		e.hits++
		l := Hit{Message: e.msg, Usable: true, TTL: TTLRule{age: uint32(max(0, now.Sub(e.stored)) / time.Second)}}
		ttl, left := e.expires.Sub(e.stored), e.expires.Sub(now)
		l.Refresh = e.hits > prefetchHits && ttl >= minPrefetchTTL && left < ttl/10 && now.After(e.retry)
		return l
	}
	if now.Sub(e.expires) >= c.maxStale || e.msg.Rcode == wire.RcodeServfail {
		return Hit{}
	}
	return Hit{Message: e.msg, Stale: true, Usable: now.Before(e.retry), TTL: TTLRule{fixed: staleTTL}}
}

// put stores an answer for its TTL. SERVFAIL never replaces another answer.
func (c *cache) put(k cacheKey, m *Message, now time.Time) {
	ttl := m.ttl
	if ttl <= 0 {
		return
	}
	e := &entry{key: k, msg: m, stored: now, expires: now.Add(ttl)}
	sh := c.shardFor([]byte(k.name), k.typ)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if el := sh.m[k]; el != nil {
		old := el.Value.(*entry)
		if m.Rcode == wire.RcodeServfail && old.msg.Rcode != wire.RcodeServfail {
			return
		}
		sh.drop(el)
	}
	if cost := e.cost(); cost <= c.maxShardBytes {
		sh.m[k] = sh.lru.PushFront(e)
		sh.bytes += cost
	}
	for sh.bytes > c.maxShardBytes {
		sh.drop(sh.lru.Back())
	}
}

// refreshFailed starts the time in which a stale answer is served without another query.
func (c *cache) refreshFailed(k cacheKey, now time.Time) {
	sh := c.shardFor([]byte(k.name), k.typ)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if el := sh.m[k]; el != nil {
		el.Value.(*entry).retry = now.Add(staleRetry)
	}
}

// retain removes every answer whose upstream set is not one of these.
func (c *cache) retain(sets map[uint32]bool) {
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		for el := sh.lru.Front(); el != nil; {
			next := el.Next()
			if !sets[el.Value.(*entry).key.set] {
				sh.drop(el)
			}
			el = next
		}
		sh.mu.Unlock()
	}
}

func (c *cache) size() (entries, bytes int) {
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		entries, bytes = entries+len(sh.m), bytes+sh.bytes
		sh.mu.Unlock()
	}
	return entries, bytes
}

func (e *entry) cost() int { return len(e.key.name) + len(e.msg.body) + entryOverhead }

func (sh *cacheShard) drop(el *list.Element) {
	e := sh.lru.Remove(el).(*entry)
	delete(sh.m, e.key)
	sh.bytes -= e.cost()
}
