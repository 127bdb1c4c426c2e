package dns

import (
	"container/list"
	"sync"
	"time"
)

// The bounds of what the cache keeps.
const (
	cacheShards   = 16
	maxTTL        = 24 * time.Hour
	maxNegative   = 15 * time.Minute // RFC 2308 allows up to three hours
	failureTTL    = time.Second      // RFC 9520: not to be asked again at once
	staleTTL      = 30               // seconds, RFC 8767
	staleRetry    = 5 * time.Second  // how long a failed refresh is not tried again
	hotHits       = 3                // hits that make a name worth fetching before it expires
	entryOverhead = 256              // bytes of an entry beside its message and name
)

// cacheKey names an answer. routes gives each set of upstreams an id, so an answer never outlives who gave it.
type cacheKey struct {
	set   uint32
	typ   uint16
	flags uint8 // DO 1, CD 2
	name  string
}

func keyOf(set *upstreamSet, q *query) cacheLookup {
	k := cacheLookup{set: set.id, typ: q.typ, name: q.name}
	if q.dnssecOK {
		k.flags |= 1
	}
	if q.checkingDisabled {
		k.flags |= 2
	}
	return k
}

// cacheLookup is cacheKey with the name still in the packet.
type cacheLookup struct {
	set   uint32
	typ   uint16
	flags uint8
	name  []byte
}

func (k cacheLookup) key() cacheKey { return cacheKey{k.set, k.typ, k.flags, string(k.name)} }

// cache keeps external answers, positive and negative, least recently used out first. Cluster names never get here.
type cache struct {
	shards        [cacheShards]cacheShard
	maxShardBytes int           // bytes per shard
	maxStale      time.Duration // how long an expired answer may still serve; <= 0 never
}

type cacheShard struct {
	mu    sync.Mutex
	m     map[cacheKey]*list.Element
	lru   list.List // of *entry, the last used first
	bytes int
}

type entry struct {
	key     cacheKey
	msg     *message
	stored  time.Time
	expires time.Time
	retry   time.Time // after a failed refresh: serve stale until then
	hits    int
}

// hit is what the cache says about a question.
type hit struct {
	msg     *message
	usable  bool // fresh, or stale while upstream is known to fail
	stale   bool
	refresh bool // usable, and hot, and about to expire: this caller should fetch it
	ttl     ttlRule
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

// get allocates nothing.
func (c *cache) get(k cacheLookup, now time.Time) hit {
	sh := c.shardFor(k.name, k.typ)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	el := sh.m[cacheKey{k.set, k.typ, k.flags, string(k.name)}]
	if el == nil {
		return hit{}
	}
	e := el.Value.(*entry)
	sh.lru.MoveToFront(el)
	if now.Before(e.expires) {
		e.hits++
		l := hit{msg: e.msg, usable: true, ttl: ttlRule{age: uint32(max(0, now.Sub(e.stored)) / time.Second)}}
		if life := e.expires.Sub(e.stored); e.hits > hotHits && life >= 10*time.Second && e.expires.Sub(now) < life/10 && now.After(e.retry) {
			l.refresh = true
		}
		return l
	}
	if now.Sub(e.expires) >= c.maxStale || e.msg.rcode == rcodeServfail {
		return hit{}
	}
	return hit{msg: e.msg, stale: true, usable: now.Before(e.retry), ttl: ttlRule{fixed: staleTTL}}
}

// put stores an answer for its life; a failure is kept for a moment, and never in the place of something better.
func (c *cache) put(k cacheKey, m *message, now time.Time) {
	life := m.ttl
	if life <= 0 {
		return
	}
	e := &entry{key: k, msg: m, stored: now, expires: now.Add(life)}
	sh := c.shardFor([]byte(k.name), k.typ)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if el := sh.m[k]; el != nil {
		old := el.Value.(*entry)
		if m.rcode == rcodeServfail && old.msg.rcode != rcodeServfail {
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

// refreshFailed notes that a refresh did not succeed: the stale answer serves for a while without asking.
func (c *cache) refreshFailed(k cacheKey, now time.Time) {
	sh := c.shardFor([]byte(k.name), k.typ)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if el := sh.m[k]; el != nil {
		el.Value.(*entry).retry = now.Add(staleRetry)
	}
}

// retain drops every answer whose upstreams are gone.
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
