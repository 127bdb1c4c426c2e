package dns

import "encoding/binary"

// rrset is a prepared answer to one name and type: records in wire form that fit behind the question. Every owner is a
// two-byte pointer, most of them to the question's name; so one set serves every spelling of it.
type rrset struct {
	typ                 uint16
	answers, additional uint16
	stride              uint8 // length of each answer record when all are alike and may be turned around, else 0
	wire                []byte
}

// begin writes header and question of an answer.
func (q *query) begin(dst []byte, rcode byte, flags byte) []byte {
	dst = append(dst[:0], q.pkt[0], q.pkt[1], flagQR|flags|q.pkt[2]&flagRD, flagRA|q.pkt[3]&flagCD|rcode,
		0, 1, 0, 0, 0, 0, 0, 0)
	return append(dst, q.question...)
}

// finish adds the OPT record when the client sent one.
func (q *query) finish(dst []byte) []byte {
	if !q.edns {
		return dst
	}
	binary.BigEndian.PutUint16(dst[10:], binary.BigEndian.Uint16(dst[10:])+1)
	var do byte
	if q.dnssecOK {
		do = 0x80
	}
	return append(dst, 0, 0, typeOPT, udpSize>>8, udpSize&0xff, 0, 0, do, 0, 0, 0)
}

// room is how many bytes records may take in a message of at most limit bytes.
func (q *query) room(limit int) int {
	n := limit - headerLen - len(q.question)
	if q.edns {
		n -= optLen
	}
	return n
}

// answerSet answers with a prepared set; turn spreads the clients over its records.
func (q *query) answerSet(dst []byte, set *rrset, turn uint32, limit int) []byte {
	dst = q.begin(dst, rcodeOK, flagAA)
	at := 0
	if set.stride != 0 && set.answers > 1 {
		at = int(turn%uint32(set.answers)) * int(set.stride)
	}
	if len(set.wire) > q.room(limit) {
		return q.answerTruncated(dst, set, at, limit)
	}
	binary.BigEndian.PutUint16(dst[6:], set.answers)
	binary.BigEndian.PutUint16(dst[10:], set.additional)
	dst = append(dst, set.wire[at:]...)
	return q.finish(append(dst, set.wire[:at]...))
}

// answerTruncated answers with the records that fit. Additional records may be missing without a word (RFC 2181, 9), missing
// answers set TC.
func (q *query) answerTruncated(dst []byte, set *rrset, at, limit int) []byte {
	room, n := q.room(limit), uint16(0)
	for range set.answers {
		l := recordLen(set.wire[at:])
		if l > room {
			dst[2] |= flagTC
			break
		}
		dst, room, n = append(dst, set.wire[at:at+l]...), room-l, n+1
		if at += l; at == len(set.wire) {
			at = 0
		}
	}
	binary.BigEndian.PutUint16(dst[6:], n)
	return q.finish(dst)
}

// recordLen is the length of a prepared record: its owner is a pointer.
func recordLen(b []byte) int { return 12 + int(binary.BigEndian.Uint16(b[10:])) }

// answerNegative answers NXDOMAIN or NODATA with the zone's SOA, whose owner is the part of the name that starts at cut.
func (q *query) answerNegative(dst []byte, rcode byte, soa []byte, cut, limit int) []byte {
	dst = q.begin(dst, rcode, flagAA)
	if 2+len(soa) <= q.room(limit) {
		dst[9] = 1
		dst = binary.BigEndian.AppendUint16(dst, uint16(questionPointer+cut))
		dst = append(dst, soa...)
	}
	return q.finish(dst)
}

// answerError answers without records and without authority: SERVFAIL, REFUSED.
func (q *query) answerError(dst []byte, rcode byte) []byte { return q.finish(q.begin(dst, rcode, 0)) }
