package dns

import (
	"encoding/binary"
	"net/netip"
)

// query is one plain question, parsed in place. Its slices point into the packet and into its own scratch; it is
// reused for the next packet.
type query struct {
	pkt              []byte // the whole packet
	question         []byte // name, type and class as they came: the case is kept
	name             []byte // the name in lower case, wire form with the root label
	labels           int    // labels in name without the root
	offs             [128]uint8
	typ              uint16
	edns             bool
	dnssecOK         bool
	size             int // largest answer the client takes over UDP
	scratch          [256]byte
	recursionDesired bool // RD
	wantsAD          bool
	checkingDisabled bool       // CD
	client           netip.Addr // who asked, where that matters
}

// Flag bits of the two bytes behind the id.
const (
	flagQR = 0x80 // first byte
	flagAA = 0x04
	flagTC = 0x02
	flagRD = 0x01
	flagRA = 0x80 // second byte
	flagAD = 0x20
	flagCD = 0x10
)

type form uint8

const (
	simple    form = iota // the hot path can go on
	general               // a query, but not a plain one: the library answers
	malformed             // no query at all: never answered
)

// parse reads a packet. A plain query has opcode 0, one question of class IN without compression, no other records but
// at most one OPT of version 0, and nothing behind it.
func (q *query) parse(pkt []byte) form {
	q.pkt = pkt
	if len(pkt) < headerLen || pkt[2]&flagQR != 0 {
		return malformed
	}
	if pkt[2]&0x7a != 0 || binary.BigEndian.Uint64(pkt[4:])>>16 != 1<<32 || pkt[10] != 0 || pkt[11] > 1 {
		return general // opcode, AA, TC, or other counts than one question
	}
	n := q.readName(pkt)
	if n == 0 || len(pkt) < n+4 {
		return general
	}
	q.typ = binary.BigEndian.Uint16(pkt[n:])
	if q.typ == 0 || q.typ == typeOPT || q.typ >= 128 && q.typ <= 255 || binary.BigEndian.Uint16(pkt[n+2:]) != classIN {
		return general
	}
	q.question = pkt[headerLen : n+4]
	q.recursionDesired, q.wantsAD, q.checkingDisabled = pkt[2]&flagRD != 0, pkt[3]&flagAD != 0, pkt[3]&flagCD != 0
	q.edns, q.dnssecOK, q.size = false, false, 512
	if pkt[11] == 0 {
		if len(pkt) != n+4 {
			return general
		}
		return simple
	}
	return q.readOPT(pkt[n+4:])
}

// readName fills name, labels and offs and returns the offset behind the name, 0 if it is not plain.
func (q *query) readName(pkt []byte) int {
	i, k := headerLen, 0
	for {
		if i >= len(pkt) {
			return 0
		}
		l := int(pkt[i])
		if l == 0 {
			break
		}
		if l > 63 || i+1+l >= len(pkt) || i+1+l-headerLen > 254 {
			return 0
		}
		q.offs[k] = uint8(i - headerLen)
		k++
		i += 1 + l
	}
	i++
	raw := pkt[headerLen:i]
	q.name = q.scratch[:len(raw)]
	for j, c := range raw {
		q.name[j] = toLower[c]
	}
	q.labels = k
	return i
}

// readOPT reads the one additional record, which must be the EDNS0 pseudo record (RFC 6891). Options are ignored.
func (q *query) readOPT(b []byte) form {
	if len(b) < optLen || b[0] != 0 || binary.BigEndian.Uint16(b[1:]) != typeOPT || b[6] != 0 {
		return general // no OPT, or a version that is not known
	}
	if int(binary.BigEndian.Uint16(b[9:])) != len(b)-optLen {
		return general
	}
	q.edns, q.dnssecOK = true, b[7]&0x80 != 0
	q.size = min(max(int(binary.BigEndian.Uint16(b[3:])), 512), udpSize)
	return simple
}

// inZone reports whether the name is zone (wire form, `labels` labels) or below it.
func (q *query) inZone(zone string, labels int) bool {
	at := len(q.name) - len(zone)
	if at < 0 || q.labels < labels || string(q.name[at:]) != zone {
		return false
	}
	return at == q.offset(q.labels-labels)
}

// offset is where label i starts in name; i == labels is the root.
func (q *query) offset(i int) int {
	if i == q.labels {
		return len(q.name) - 1
	}
	return int(q.offs[i])
}

// label returns label i with its length byte.
func (q *query) label(i int) []byte { return q.name[q.offset(i):q.offset(i+1)] }
