package wire

import (
	"encoding/binary"
	"net/netip"
)

// Query is one simple query, parsed in place. Its slices point into the packet and into its own scratch buffer. Parse
// reuses it for the next packet.
type Query struct {
	Name             []byte // wire form in lower case, with the root label
	Labels           int    // in Name, without the root
	Type             uint16
	Size             int // largest answer that the client accepts over UDP
	DNSSECOK         bool
	RecursionDesired bool
	CheckingDisabled bool
	WantsAD          bool       // the AD bit is set (RFC 6840 section 5.7)
	Client           netip.Addr // set by the caller of Parse, where it matters

	pkt      []byte // the whole packet
	question []byte // name, type and class in the case of the client
	offs     [128]uint8
	edns     bool
	scratch  [256]byte
}

// Flag bits of the two bytes after the ID.
const (
	FlagQR = 0x80 // first byte
	FlagAA = 0x04
	FlagTC = 0x02
	FlagRD = 0x01
	flagRA = 0x80 // second byte
	FlagAD = 0x20
	FlagCD = 0x10
)

// Form is the kind of processing that a packet requires.
type Form uint8

// The forms of packets.
const (
	Simple    Form = iota // one plain question: the hot path answers
	General               // any other query: the DNS library parses it
	Malformed             // not a query: no answer
)

// Parse reads a packet. A simple query has opcode 0, one question of class IN without compression, no other record but at
// most one OPT of version 0, and no bytes after it.
func (q *Query) Parse(pkt []byte) Form {
	q.pkt = pkt
	if len(pkt) < HeaderLen || pkt[2]&FlagQR != 0 {
		return Malformed
	}
	if pkt[2]&0x7a != 0 || binary.BigEndian.Uint64(pkt[4:])>>16 != 1<<32 || pkt[10] != 0 || pkt[11] > 1 {
		return General // opcode, AA, TC, or not exactly one question
	}
	n := q.readName(pkt)
	if n == 0 || len(pkt) < n+4 {
		return General
	}
	q.Type = binary.BigEndian.Uint16(pkt[n:])
	if q.Type == 0 || q.Type == TypeOPT || q.Type >= 128 && q.Type <= 255 || binary.BigEndian.Uint16(pkt[n+2:]) != ClassIN {
		return General
	}
	q.question = pkt[HeaderLen : n+4]
	q.RecursionDesired, q.WantsAD, q.CheckingDisabled = pkt[2]&FlagRD != 0, pkt[3]&FlagAD != 0, pkt[3]&FlagCD != 0
	q.edns, q.DNSSECOK, q.Size = false, false, 512
	if pkt[11] == 0 {
		if len(pkt) != n+4 {
			return General
		}
		return Simple
	}
	return q.readOPT(pkt[n+4:])
}

// readName fills in Name, Labels and offs. It returns the offset after the name, 0 when the name is not simple.
func (q *Query) readName(pkt []byte) int {
	i, k := HeaderLen, 0
	for {
		if i >= len(pkt) {
			return 0
		}
		l := int(pkt[i])
		if l == 0 {
			break
		}
		if l > 63 || i+1+l >= len(pkt) || i+1+l-HeaderLen > 254 {
			return 0
		}
		q.offs[k] = uint8(i - HeaderLen)
		k++
		i += 1 + l
	}
	i++
	raw := pkt[HeaderLen:i]
	q.Name = q.scratch[:len(raw)]
	for j, c := range raw {
		q.Name[j] = ToLower[c]
	}
	q.Labels = k
	return i
}

// readOPT reads the additional record, which must be the EDNS0 pseudo record (RFC 6891). It ignores options.
func (q *Query) readOPT(b []byte) Form {
	if len(b) < OptLen || b[0] != 0 || binary.BigEndian.Uint16(b[1:]) != TypeOPT || b[6] != 0 {
		return General // no OPT record, or an unknown version
	}
	if int(binary.BigEndian.Uint16(b[9:])) != len(b)-OptLen {
		return General
	}
	q.edns, q.DNSSECOK = true, b[7]&0x80 != 0
	q.Size = min(max(int(binary.BigEndian.Uint16(b[3:])), 512), UDPSize)
	return Simple
}

// InZone reports whether the name is zone (wire form, of `labels` labels) or below it.
func (q *Query) InZone(zone string, labels int) bool {
	at := len(q.Name) - len(zone)
	if at < 0 || q.Labels < labels || string(q.Name[at:]) != zone {
		return false
	}
	return at == q.Offset(q.Labels-labels)
}

// Offset returns where label i starts in Name. i == Labels is the root.
func (q *Query) Offset(i int) int {
	if i == q.Labels {
		return len(q.Name) - 1
	}
	return int(q.offs[i])
}

// Label returns label i with its length byte.
func (q *Query) Label(i int) []byte { return q.Name[q.Offset(i):q.Offset(i+1)] }

// NewQuery writes a query for a name in wire form. Its ID and flags are 0.
func NewQuery(name string, typ uint16) []byte {
	p := make([]byte, HeaderLen, HeaderLen+len(name)+4+OptLen)
	p[5] = 1
	p = append(p, name...)
	p = binary.BigEndian.AppendUint16(p, typ)
	return binary.BigEndian.AppendUint16(p, ClassIN)
}

// WithName writes the same question for another name. ID, flags, type and EDNS0 are those of q.
func (q *Query) WithName(name string) []byte {
	p := NewQuery(name, q.Type)
	copy(p[:4], q.pkt)
	if q.edns {
		p[11] = 1
		p = append(p, 0, 0, TypeOPT, UDPSize>>8, UDPSize&0xff, 0, 0, 0, 0, 0, 0)
		if q.DNSSECOK {
			p[len(p)-4] = 0x80
		}
	}
	return p
}
