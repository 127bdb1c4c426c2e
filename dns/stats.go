package dns

import (
	"sync"
	"sync/atomic"
	"time"
)

// statTypes are the types counted by name; every other type is "other".
var statTypes = [...]struct {
	typ  uint16
	name string
}{{0, "other"}, {typeA, "A"}, {typeAAAA, "AAAA"}, {typeSRV, "SRV"}, {typePTR, "PTR"}, {typeCNAME, "CNAME"}, {typeTXT, "TXT"}, {typeSOA, "SOA"}, {typeNS, "NS"}, {15, "MX"}, {65, "HTTPS"}}

var statRcodes = [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"}

// buckets of the answer times, in microseconds; a bucket more is for what is slower.
var buckets = [...]float64{50, 100, 250, 500, 1000, 2500, 5000, 10000, 50000, 250000, 1000000, 5000000}

// counters counts for one worker; workers do not share cache lines.
type counters struct {
	_       [64]byte
	answers [len(zoneNames)][len(statTypes)][len(statRcodes)]atomic.Uint64
	times   [len(buckets) + 1]atomic.Uint64
	nanos   atomic.Uint64

	hits, stale, misses, failures        atomic.Uint64
	refused, limited, malformed, general atomic.Uint64
	sendFailed, autopath                 atomic.Uint64
	_                                    [64]byte
}

func (t *counters) count(zone zoneKind, typ uint16, rcode byte) {
	i := 0
	for j := range statTypes {
		if statTypes[j].typ == typ {
			i = j
			break
		}
	}
	t.answers[zone][i][min(int(rcode), len(statRcodes)-1)].Add(1)
}

// observe notes n answers of one batch, all with the batch's time.
func (t *counters) observe(d time.Duration, n int) {
	if n == 0 {
		return
	}
	us, i := float64(d)/1e3, 0
	for i < len(buckets) && us > buckets[i] {
		i++
	}
	t.times[i].Add(uint64(n))
	t.nanos.Add(uint64(d) * uint64(n))
}

func (t *counters) hit(l hit) {
	if l.stale {
		t.stale.Add(1)
		return
	}
	t.hits.Add(1)
}

func (t *counters) countSource(m source) {
	switch m.from {
	case "cache":
		t.hits.Add(1)
	case "stale":
		t.stale.Add(1)
	case "upstream":
		t.misses.Add(1)
	default:
		t.failures.Add(1)
	}
}

// stats are the counters of a server.
type stats struct {
	mu       sync.Mutex
	workers  []*counters
	shared   *counters // of TCP and Query
	revision atomic.Int64
	services atomic.Int64
	buildNs  atomic.Int64
	upNs     atomic.Uint64
	upCount  atomic.Uint64

	overload, joined, acceptErrors, tcpRefused atomic.Uint64
}

func (s *stats) newCounters() *counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &counters{}
	s.workers = append(s.workers, t)
	return t
}

func (s *stats) sharedCounters() *counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shared == nil {
		s.shared = &counters{}
		s.workers = append(s.workers, s.shared)
	}
	return s.shared
}

func (s *stats) built(x *index, took time.Duration) {
	s.revision.Store(x.revision)
	s.services.Store(int64(len(x.services)))
	s.buildNs.Store(int64(took))
}

func (s *stats) upstreamTook(d time.Duration) {
	s.upNs.Add(uint64(d))
	s.upCount.Add(1)
}

func (s *stats) all() []*counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*counters(nil), s.workers...)
}

// sum adds one counter of every worker.
func (s *stats) sum(of func(*counters) *atomic.Uint64) (n uint64) {
	for _, t := range s.all() {
		n += of(t).Load()
	}
	return n
}
