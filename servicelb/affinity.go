package servicelb

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// affinity remembers which backend a client of a Service with sessionAffinity ClientIP has: a cache of fixed size
// whose sets give up their oldest note. A restarted agent reads it off the flows that it adopts. What is not remembered
// (any more) is chosen by a hash that is the same everywhere, so a client mostly finds its backend again even so. A
// session that was idle for longer than its timeout is over, and the client starts another one anywhere.
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
	at, known := s.find(f.id, client)
	pick := h >> 16
	i := int(pick % uint64(len(in.backends)))
	if e := &s.list[at]; known && now-e.seen > uint32(f.affinity/time.Second) {
		i = rand.IntN(len(in.backends))
	} else if j, ok := in.find(e.back); known && ok {
		i = j
	}
	b := in.backends[in.avoid(i, pick, now)]
	s.list[at] = session{f.id, client, b.addrPort(), now}
	return b
}

// find returns where the client's session is, or else what may be given up for it. The set is locked.
func (s *affinitySet) find(service uint64, client netip.Addr) (at int, known bool) {
	for i := range s.list {
		e := &s.list[i]
		if e.service == service && e.client == client {
			return i, true
		}
		if e.seen < s.list[at].seen {
			at = i
		}
	}
	return at, false
}

// recall makes sessions of flows: a client's newest flow to a Service port says where it belongs.
func (a *affinity) recall(t *Table, f *flows, now uint32) {
	born := map[sessionKey]time.Duration{} // ago
	var part []Flow
	for i := range f.shards {
		part = f.list(part[:0], uint64(i), now, nil)
		for _, x := range part {
			front := t.front(frontKey{x.Service.Addr(), x.Service.Port(), x.Proto})
			if x.Masquerade || front == nil || front.affinity == 0 {
				continue
			}
			k := sessionKey{front.id, x.Client.Addr()}
			if age, ok := born[k]; !ok || x.Age < age {
				born[k] = x.Age
				a.note(session{k.service, k.client, x.Backend, now - uint32(x.Idle/time.Second)})
			}
		}
	}
}

type sessionKey struct {
	service uint64
	client  netip.Addr
}

// note puts a session in the place of the client's own, or of the oldest one.
func (a *affinity) note(n session) {
	s := &a.sets[stable(n.client, n.service)%affinitySets]
	s.mu.Lock()
	defer s.mu.Unlock()
	at, _ := s.find(n.service, n.client)
	s.list[at] = n
}
