package dns

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/dns/forward"
	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/dns/zone"
)

// statTypes are the question types with a counter of their own. Every other type counts as "other".
var statTypes = [...]struct {
	typ  uint16
	name string
}{
	{0, "other"}, {wire.TypeA, "A"}, {wire.TypeAAAA, "AAAA"}, {wire.TypeSRV, "SRV"}, {wire.TypePTR, "PTR"}, {wire.TypeCNAME, "CNAME"},
	{wire.TypeTXT, "TXT"}, {wire.TypeSOA, "SOA"}, {wire.TypeNS, "NS"}, {15, "MX"}, {65, "HTTPS"},
}

var statRcodes = [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"}

// buckets are the upper bounds of the answer time histogram, in microseconds. One more bucket counts slower answers.
var buckets = [...]float64{50, 100, 250, 500, 1000, 2500, 5000, 10000, 50000, 250000, 1000000, 5000000}

// counters are those of one worker. The padding keeps workers off each other's cache lines.
type counters struct {
	_       [64]byte
	answers [len(zone.Kinds)][len(statTypes)][len(statRcodes)]atomic.Uint64
	times   [len(buckets) + 1]atomic.Uint64
	nanos   atomic.Uint64

	hits, stale, misses, failures atomic.Uint64 // external answers by source
	refused, limited, malformed   atomic.Uint64
	sendFailed, autopath          atomic.Uint64
	_                             [64]byte
}

func (t *counters) count(kind zone.Kind, typ uint16, rcode byte) {
	i := 0
	for j := range statTypes {
		if statTypes[j].typ == typ {
			i = j
			break
		}
	}
	t.answers[kind][i][min(int(rcode), len(statRcodes)-1)].Add(1)
}

// observe records the answer time of n answers. All answers of a batch have the time of the batch.
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

func (t *counters) countHit(h forward.Hit) {
	if h.Stale {
		t.stale.Add(1)
		return
	}
	t.hits.Add(1)
}

func (t *counters) countSource(s forward.Source) {
	switch s.From {
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
	mu         sync.Mutex
	workers    []*counters
	shared     *counters // of TCP connections and Query
	revision   atomic.Int64
	buildNs    atomic.Int64
	tcpRefused atomic.Uint64
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

func (s *stats) built(x *zone.Index, took time.Duration) {
	s.revision.Store(x.Revision)
	s.buildNs.Store(int64(took))
}

func (s *stats) all() []*counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*counters(nil), s.workers...)
}

// sum adds up one counter of all workers.
func (s *stats) sum(of func(*counters) *atomic.Uint64) (n uint64) {
	for _, t := range s.all() {
		n += of(t).Load()
	}
	return n
}
