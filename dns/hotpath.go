package dns

import (
	"net/netip"
	"time"

	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/dns/zone"
)

// verdict is what the hot path decided about a packet.
type verdict uint8

const (
	answered verdict = iota // the answer is in the buffer
	dropped                 // no answer
	deferred                // resolvePacket answers in another goroutine
)

// responder answers simple queries of one worker or one TCP connection. It is not for concurrent use.
type responder struct {
	s        *Server
	counters *counters
	rotation uint32 // spreads clients over the records of a set
	now      time.Time
	q        wire.Query
}

// answer is the hot path. It allocates nothing, takes no lock for cluster names and does not read the clock: the caller
// sets now once per batch. limit bounds the answer; the capacity of dst does not. It is wire.TCPSize, or wire.UDPSize for a
// datagram, where the size that the client accepts applies, too.
func (a *responder) answer(dst, pkt []byte, from netip.Addr, limit int) ([]byte, verdict) {
	q := &a.q
	form := q.Parse(pkt)
	if form == wire.Malformed {
		return nil, dropped
	}
	if !a.s.access.allowed(from) {
		a.counters.refused.Add(1)
		return wire.Refused(dst, pkt), answered
	}
	if !a.s.access.withinLimit(from, a.now.Unix()) {
		a.counters.limited.Add(1)
		return wire.Refused(dst, pkt), answered
	}
	if form == wire.General {
		return nil, deferred
	}
	if limit <= wire.UDPSize {
		limit = min(limit, q.Size)
	}
	x := a.s.index.Load()
	if x == nil {
		if kind, maybe := a.s.maybeCluster(q); maybe {
			a.counters.count(kind, q.Type, wire.RcodeServfail)
			return q.AnswerError(dst, wire.RcodeServfail), answered
		}
		return a.answerCached(dst, limit)
	}
	r := x.Find(q)
	switch {
	case r.Zone == zone.External:
		return a.answerCached(dst, limit)
	case r.Alias != "" || r.LoopProbe || r.Rcode == wire.RcodeNXDomain && a.s.autopath.applies(q, from):
		return nil, deferred
	}
	a.counters.count(r.Zone, q.Type, r.Rcode)
	a.rotation++
	return x.Answer(dst, q, r, a.rotation, limit), answered
}

// answerCached answers from the cache. A name that is not cached, or is due to be fetched again, is deferred.
func (a *responder) answerCached(dst []byte, limit int) ([]byte, verdict) {
	hit := a.s.forward.Cached(&a.q, a.now)
	if hit.Message == nil || !hit.Usable || hit.Refresh {
		return nil, deferred
	}
	a.counters.count(zone.External, a.q.Type, hit.Message.Rcode)
	a.counters.countHit(hit)
	return hit.Message.Answer(dst, &a.q, hit.TTL, limit), answered
}
