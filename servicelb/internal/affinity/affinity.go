// Package affinity remembers which backend serves a client of a Service with sessionAffinity ClientIP.
//
// It is a cache of fixed size whose sets evict their oldest session. A client without a session gets the backend that a
// hash selects, the same on every node, so that most clients keep their backend even then. A session that was idle for
// longer than its timeout has ended: the next backend is random.
package affinity

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/warrennet/warren/servicelb/internal/stable"
	"github.com/warrennet/warren/servicelb/internal/table"
)

// Sessions holds the sessions of all Services. Any number of goroutines may use it.
type Sessions struct{ sets []set }

type set struct {
	mu   sync.Mutex
	list [8]Session
}

// Session is the backend of one client of one Service port.
type Session struct {
	Service uint64 // table.Frontend.ID
	Client  netip.Addr
	Backend netip.AddrPort
	Seen    uint32 // seconds
}

const sets = 1 << 12

// New returns an empty cache.
func New() *Sessions { return &Sessions{make([]set, sets)} }

// Choose returns the client's backend and renews the session. The pool is not empty.
func (s *Sessions) Choose(f *table.Frontend, pool *table.Pool, client netip.Addr, now uint32) table.Backend {
	h := stable.Hash(client, f.ID)
	set := &s.sets[h%sets]
	set.mu.Lock()
	defer set.mu.Unlock()
	at, known := set.find(f.ID, client)
	random := h >> 16
	i := int(random % uint64(len(pool.Backends)))
	if old := &set.list[at]; known && now-old.Seen > uint32(f.Affinity/time.Second) {
		i = rand.IntN(len(pool.Backends))
	} else if j, ok := pool.Find(old.Backend); known && ok {
		i = j
	}
	b := pool.Backends[pool.Select(i, random, now)]
	set.list[at] = Session{f.ID, client, b.AddrPort(), now}
	return b
}

// find returns the index of the client's session, or else of the session to evict. The set is locked.
func (s *set) find(service uint64, client netip.Addr) (at int, known bool) {
	for i := range s.list {
		e := &s.list[i]
		if e.Service == service && e.Client == client {
			return i, true
		}
		if e.Seen < s.list[at].Seen {
			at = i
		}
	}
	return at, false
}

// Put stores a session, of a flow that the previous process has had.
func (s *Sessions) Put(n Session) {
	set := &s.sets[stable.Hash(n.Client, n.Service)%sets]
	set.mu.Lock()
	defer set.mu.Unlock()
	at, _ := set.find(n.Service, n.Client)
	set.list[at] = n
}
