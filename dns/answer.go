package dns

import (
	"encoding/binary"
	"net/netip"
	"time"
)

type verdict uint8

const (
	sent    verdict = iota // the answer is in the buffer
	dropped                // no answer is due
	slow                   // the hot path does not know: ask slow.go
)

// asker answers the plain questions of one worker or connection. It is not shared.
type asker struct {
	s     *Server
	tally *tally
	turn  uint32 // spreads clients over the records of a set
	now   time.Time
	q     query
}

// answer is the hot path: no allocation, no lock for cluster names, no clock. dst's capacity bounds nothing, limit does.
func (a *asker) answer(dst, pkt []byte, from netip.Addr, limit int, udp bool) ([]byte, verdict) {
	q := &a.q
	sh := q.parse(pkt)
	if sh == junk {
		return nil, dropped
	}
	if !a.s.access.allowed(from) {
		a.tally.refused.Add(1)
		return refusal(dst, pkt), sent
	}
	if !a.s.access.within(from, a.now.Unix()) {
		a.tally.limited.Add(1)
		return refusal(dst, pkt), sent
	}
	if sh == odd {
		return nil, slow
	}
	if udp {
		limit = min(limit, q.size)
	}
	x := a.s.index.Load()
	if x == nil {
		if zone, mine := a.s.unknownYet(q); mine {
			a.tally.count(zone, q.typ, rcodeServfail)
			return q.failure(dst, rcodeServfail), sent
		}
		return a.cached(dst, limit)
	}
	f := x.find(q)
	switch {
	case f.zone == zoneExternal:
		return a.cached(dst, limit)
	case f.chase != nil || f.loop || f.rcode == rcodeNX && a.s.completes(q, from):
		return nil, slow
	}
	a.tally.count(f.zone, q.typ, f.rcode)
	a.turn++
	return q.local(dst, x, f, a.turn, limit), sent
}

// local writes what the index found.
func (q *query) local(dst []byte, x *index, f found, turn uint32, limit int) []byte {
	switch {
	case f.set != nil:
		return q.records(dst, f.set, turn, limit)
	case f.addr.IsValid():
		return q.address(dst, f.addr, x.z.ttl)
	case f.names != nil:
		return q.pointers(dst, f.names, x.z.ttl, limit)
	}
	return q.negative(dst, f.rcode, x.soa, f.cut, limit)
}

// address answers with one address made from the question.
func (q *query) address(dst []byte, addr netip.Addr, ttl uint32) []byte {
	dst = q.begin(dst, rcodeOK, flagAA)
	dst[7] = 1
	return q.finish(appendAddr(dst, atQuestion, addr, ttl))
}

// pointers answers with the names of an address.
func (q *query) pointers(dst []byte, names []string, ttl uint32, limit int) []byte {
	dst = q.begin(dst, rcodeOK, flagAA)
	room, n := q.room(limit), uint16(0)
	for _, name := range names {
		if 12+len(name) > room {
			dst[2] |= flagTC
			break
		}
		room -= 12 + len(name)
		dst = appendTarget(dst, atQuestion, typePTR, ttl, name)
		n++
	}
	binary.BigEndian.PutUint16(dst[6:], n)
	return q.finish(dst)
}

// refusal answers any query with its header alone: shorter than the question, so nobody is flooded through us.
func refusal(dst, pkt []byte) []byte {
	return append(dst[:0], pkt[0], pkt[1], flagQR|pkt[2]&0x79, rcodeRefused, 0, 0, 0, 0, 0, 0, 0, 0)
}

// cached answers from the cache; what is not there, or should be asked again, is slow.
func (a *asker) cached(dst []byte, limit int) ([]byte, verdict) {
	r := a.s.routes.Load()
	hit := a.s.cache.get(keyOf(r.pick(&a.q), &a.q), a.now)
	if hit.msg == nil || !hit.usable || hit.refresh {
		return nil, slow
	}
	a.tally.count(zoneExternal, a.q.typ, hit.msg.rcode)
	a.tally.hit(hit)
	return a.q.message(dst, hit.msg, hit.ttl, limit), sent
}
