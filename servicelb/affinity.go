package servicelb

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// affinity remembers which backend a client of a Service with sessionAffinity ClientIP has: a cache of fixed size
// whose sets give up their oldest note. What is not remembered (any more: the agent was restarted) is chosen by a hash
// that is the same everywhere, so a client mostly finds its backend again even so. A session that was idle for longer
// than its timeout is over, and the client starts another one anywhere.
type affinity struct{ sets []affinitySet }

type affinitySet struct {
	mu   sync.Mutex
	list [8]session
}

type session struct {
	service uint64
	client  netip.Addr
	back    netip.AddrPort
	seen    uint32
}

const affinitySets = 1 << 12

func (a *affinity) init() { a.sets = make([]affinitySet, affinitySets) }

// choose returns the client's backend and renews the session.
func (a *affinity) choose(f *frontend, in *pool, client netip.Addr, now uint32) backend {
	h := stable(client, f.id)
	s := &a.sets[h%affinitySets]
	s.mu.Lock()
	defer s.mu.Unlock()
	at, pick := 0, h>>16
	for i := range s.list {
		e := &s.list[i]
		if e.service == f.id && e.client == client {
			at = i
			if now-e.seen > uint32(f.affinity/time.Second) {
				pick = rand.Uint64()
			} else if i, ok := in.find(e.back); ok {
				e.seen, i = now, in.avoid(i, pick, now)
				e.back = in.backends[i].addrPort()
				return in.backends[i]
			}
			break
		}
		if e.seen < s.list[at].seen {
			at = i
		}
	}
	b := in.backends[in.avoid(int(pick%uint64(len(in.backends))), pick, now)]
	s.list[at] = session{f.id, client, b.addrPort(), now}
	return b
}
