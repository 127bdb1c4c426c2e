package dns

import (
	"encoding/binary"
	"net/netip"
	"time"
)

type verdict uint8

const (
	answered verdict = iota // the answer is in the buffer
	dropped                 // no answer is due
	deferred                // the hot path does not know: ask slow.go
)

// responder answers the plain questions of one worker or connection. It is not shared.
type responder struct {
	s        *Server
	counters *counters
	rotation uint32 // spreads clients over the records of a set
	now      time.Time
	q        query
}

// answer is the hot path: no allocation, no lock for cluster names, no clock. dst's capacity bounds nothing, limit does.
func (a *responder) answer(dst, pkt []byte, from netip.Addr, limit int, udp bool) ([]byte, verdict) {
	q := &a.q
	sh := q.parse(pkt)
	if sh == malformed {
		return nil, dropped
	}
	if !a.s.access.allowed(from) {
		a.counters.refused.Add(1)
		return refused(dst, pkt), answered
	}
	if !a.s.access.withinLimit(from, a.now.Unix()) {
		a.counters.limited.Add(1)
		return refused(dst, pkt), answered
	}
	if sh == general {
		return nil, deferred
	}
	if udp {
		limit = min(limit, q.size)
	}
	x := a.s.index.Load()
	if x == nil {
		if zone, mine := a.s.unknownZone(q); mine {
			a.counters.count(zone, q.typ, rcodeServfail)
			return q.answerError(dst, rcodeServfail), answered
		}
		return a.answerCached(dst, limit)
	}
	f := x.find(q)
	switch {
	case f.zone == zoneExternal:
		return a.answerCached(dst, limit)
	case f.chase != nil || f.loopProbe || f.rcode == rcodeNXDomain && a.s.autopathApplies(q, from):
		return nil, deferred
	}
	a.counters.count(f.zone, q.typ, f.rcode)
	a.rotation++
	return q.local(dst, x, f, a.rotation, limit), answered
}

// local writes what the index found.
func (q *query) local(dst []byte, x *index, f result, turn uint32, limit int) []byte {
	switch {
	case f.set != nil:
		return q.answerSet(dst, f.set, turn, limit)
	case f.addr.IsValid():
		return q.answerAddress(dst, f.addr, x.config.ttl)
	case f.names != nil:
		return q.answerPointers(dst, f.names, x.config.ttl, limit)
	}
	return q.answerNegative(dst, f.rcode, x.soa, f.zoneOffset, limit)
}

// answerAddress answers with one address made from the question.
func (q *query) answerAddress(dst []byte, addr netip.Addr, ttl uint32) []byte {
	dst = q.begin(dst, rcodeOK, flagAA)
	dst[7] = 1
	return q.finish(appendAddr(dst, questionPointer, addr, ttl))
}

// pointers answers with the names of an address.
func (q *query) answerPointers(dst []byte, names []string, ttl uint32, limit int) []byte {
	dst = q.begin(dst, rcodeOK, flagAA)
	room, n := q.room(limit), uint16(0)
	for _, name := range names {
		if 12+len(name) > room {
			dst[2] |= flagTC
			break
		}
		room -= 12 + len(name)
		dst = appendTarget(dst, questionPointer, typePTR, ttl, name)
		n++
	}
	binary.BigEndian.PutUint16(dst[6:], n)
	return q.finish(dst)
}

// refused answers any query with its header alone: shorter than the question, so nobody is flooded through us.
func refused(dst, pkt []byte) []byte {
	return append(dst[:0], pkt[0], pkt[1], flagQR|pkt[2]&0x79, rcodeRefused, 0, 0, 0, 0, 0, 0, 0, 0)
}

// answerCached answers from the cache; what is not there, or should be asked again, is slow.
func (a *responder) answerCached(dst []byte, limit int) ([]byte, verdict) {
	r := a.s.routes.Load()
	hit := a.s.cache.get(keyOf(r.pick(&a.q), &a.q), a.now)
	if hit.msg == nil || !hit.usable || hit.refresh {
		return nil, deferred
	}
	a.counters.count(zoneExternal, a.q.typ, hit.msg.rcode)
	a.counters.hit(hit)
	return a.q.message(dst, hit.msg, hit.ttl, limit), answered
}
