package wire

import (
	"encoding/binary"
	"net/netip"
)

// RRSet is a prepared answer to one name and type: records in wire form that follow the question. Every owner is a pointer of
// two bytes, most of them to the name of the question, so one set serves every spelling of the name.
type RRSet struct {
	Type                uint16
	Answers, Additional uint16
	Stride              uint8 // length of each answer record when all have the same length and may be rotated, else 0
	Wire                []byte
}

// Begin writes the header and the question of an answer.
func (q *Query) Begin(dst []byte, rcode byte, flags byte) []byte {
	dst = append(dst[:0], q.pkt[0], q.pkt[1], FlagQR|flags|q.pkt[2]&FlagRD, flagRA|q.pkt[3]&FlagCD|rcode,
		0, 1, 0, 0, 0, 0, 0, 0)
	return append(dst, q.question...)
}

// Finish adds the OPT record when the query has one.
func (q *Query) Finish(dst []byte) []byte {
	if !q.edns {
		return dst
	}
	binary.BigEndian.PutUint16(dst[10:], binary.BigEndian.Uint16(dst[10:])+1)
	var do byte
	if q.DNSSECOK {
		do = 0x80
	}
	return append(dst, 0, 0, TypeOPT, UDPSize>>8, UDPSize&0xff, 0, 0, do, 0, 0, 0)
}

// Room returns how many bytes of records fit into a message of at most limit bytes.
func (q *Query) Room(limit int) int {
	n := limit - HeaderLen - len(q.question)
	if q.edns {
		n -= OptLen
	}
	return n
}

// AnswerSet answers with a prepared set. rotation selects the first record.
func (q *Query) AnswerSet(dst []byte, set *RRSet, rotation uint32, limit int) []byte {
	dst = q.Begin(dst, RcodeOK, FlagAA)
	at := 0
	if set.Stride != 0 && set.Answers > 1 {
		at = int(rotation%uint32(set.Answers)) * int(set.Stride)
	}
	if len(set.Wire) > q.Room(limit) {
		return q.answerTruncated(dst, set, at, limit)
	}
	binary.BigEndian.PutUint16(dst[6:], set.Answers)
	binary.BigEndian.PutUint16(dst[10:], set.Additional)
	dst = append(dst, set.Wire[at:]...)
	return q.Finish(append(dst, set.Wire[:at]...))
}

// answerTruncated answers with the records that fit. Missing answers set TC; missing additional records do not (RFC 2181
// section 9).
func (q *Query) answerTruncated(dst []byte, set *RRSet, at, limit int) []byte {
	room, n := q.Room(limit), uint16(0)
	for range set.Answers {
		l := RecordLen(set.Wire[at:])
		if l > room {
			dst[2] |= FlagTC
			break
		}
		dst, room, n = append(dst, set.Wire[at:at+l]...), room-l, n+1
		if at += l; at == len(set.Wire) {
			at = 0
		}
	}
	binary.BigEndian.PutUint16(dst[6:], n)
	return q.Finish(dst)
}

// RecordLen returns the length of a prepared record, whose owner is a pointer.
func RecordLen(b []byte) int { return 12 + int(binary.BigEndian.Uint16(b[10:])) }

// AnswerNegative answers NXDOMAIN or NODATA with the SOA of the zone, whose name starts at offset cut in Name.
func (q *Query) AnswerNegative(dst []byte, rcode byte, soa []byte, cut, limit int) []byte {
	dst = q.Begin(dst, rcode, FlagAA)
	if 2+len(soa) <= q.Room(limit) {
		dst[9] = 1
		dst = binary.BigEndian.AppendUint16(dst, uint16(QuestionPointer+cut))
		dst = append(dst, soa...)
	}
	return q.Finish(dst)
}

// AnswerError answers without records: SERVFAIL or REFUSED.
func (q *Query) AnswerError(dst []byte, rcode byte) []byte { return q.Finish(q.Begin(dst, rcode, 0)) }

// AnswerAddress answers with one address.
func (q *Query) AnswerAddress(dst []byte, addr netip.Addr, ttl uint32) []byte {
	dst = q.Begin(dst, RcodeOK, FlagAA)
	dst[7] = 1
	return q.Finish(AppendAddress(dst, QuestionPointer, addr, ttl))
}

// AnswerPointers answers with the PTR records of an address. names are in wire form.
func (q *Query) AnswerPointers(dst []byte, names []string, ttl uint32, limit int) []byte {
	dst = q.Begin(dst, RcodeOK, FlagAA)
	room, n := q.Room(limit), uint16(0)
	for _, name := range names {
		if 12+len(name) > room {
			dst[2] |= FlagTC
			break
		}
		room -= 12 + len(name)
		dst = AppendNameRecord(dst, QuestionPointer, TypePTR, ttl, name)
		n++
	}
	binary.BigEndian.PutUint16(dst[6:], n)
	return q.Finish(dst)
}

// Refused answers any query with REFUSED and the header only. The answer is shorter than the query, so it does not amplify an
// attack with a forged source.
func Refused(dst, pkt []byte) []byte {
	return append(dst[:0], pkt[0], pkt[1], FlagQR|pkt[2]&0x79, RcodeRefused, 0, 0, 0, 0, 0, 0, 0, 0)
}

// HeaderOnly answers any query with a response code and the header only.
func HeaderOnly(pkt []byte, rcode byte) []byte {
	out := Refused(make([]byte, 0, HeaderLen), pkt)
	out[3] = flagRA | rcode
	return out
}
