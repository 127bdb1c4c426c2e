package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// Record types, classes and response codes.
const (
	TypeA     = 1
	TypeNS    = 2
	TypeCNAME = 5
	TypeSOA   = 6
	TypePTR   = 12
	TypeTXT   = 16
	TypeAAAA  = 28
	TypeSRV   = 33
	TypeOPT   = 41

	ClassIN = 1

	RcodeOK       = 0
	RcodeServfail = 2
	RcodeNXDomain = 3
	RcodeRefused  = 5
)

// Lengths of parts of a message, in bytes.
const (
	HeaderLen = 12
	OptLen    = 11    // an OPT record without options
	UDPSize   = 1232  // largest answer over UDP (DNS flag day 2020)
	TCPSize   = 65535 // largest message over TCP
	// QuestionPointer is a compression pointer to the name of the question, which follows the header in every message.
	QuestionPointer = 0xC000 | HeaderLen
)

// AppendLabel adds one label in lower case.
func AppendLabel(dst []byte, label string) ([]byte, error) {
	if len(label) == 0 || len(label) > 63 || strings.IndexByte(label, '.') >= 0 {
		return dst, fmt.Errorf("label %q: expected 1 to 63 bytes without a dot", label)
	}
	dst = append(dst, byte(len(label)))
	for i := range len(label) {
		dst = append(dst, ToLower[label[i]])
	}
	return dst, nil
}

// EncodeName converts "a.b." to wire form in lower case, with the root label.
func EncodeName(name string) (string, error) {
	var dst []byte
	var err error
	if name = strings.TrimSuffix(name, "."); name != "" {
		for l := range strings.SplitSeq(name, ".") {
			if dst, err = AppendLabel(dst, l); err != nil {
				return "", fmt.Errorf("name %q: %w", name, err)
			}
		}
	}
	if len(dst) > 254 {
		return "", fmt.Errorf("name %q: longer than 255 bytes", name)
	}
	return string(append(dst, 0)), nil
}

// DecodeName converts a name in wire form to text. Bytes that do not occur in host names are escaped.
func DecodeName(wire []byte) string {
	var b strings.Builder
	for i := 0; i < len(wire) && wire[i] != 0; i += 1 + int(wire[i]) {
		for _, c := range wire[i+1 : min(len(wire), i+1+int(wire[i]))] {
			switch {
			case c == '.' || c == '\\' || c == '"':
				b.WriteByte('\\')
				b.WriteByte(c)
			case c <= ' ' || c > '~':
				fmt.Fprintf(&b, "\\%03d", c)
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('.')
	}
	if b.Len() == 0 {
		return "."
	}
	return b.String()
}

// ToLower maps ASCII capitals to lower case. Label lengths (0 to 63) map to themselves, so it applies to a whole name in wire
// form.
var ToLower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			t[i] = byte(i) + 'a' - 'A'
		}
	}
	return
}()

// AppendRecordHeader adds a record without its n bytes of data: owner (a pointer), type, class IN, TTL and data length.
func AppendRecordHeader(dst []byte, owner, typ uint16, ttl uint32, n int) []byte {
	dst = binary.BigEndian.AppendUint16(dst, owner)
	dst = binary.BigEndian.AppendUint16(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, ClassIN)
	dst = binary.BigEndian.AppendUint32(dst, ttl)
	return binary.BigEndian.AppendUint16(dst, uint16(n))
}

// AppendAddress adds an A or AAAA record.
func AppendAddress(dst []byte, owner uint16, a netip.Addr, ttl uint32) []byte {
	if a.Is4() {
		b := a.As4()
		return append(AppendRecordHeader(dst, owner, TypeA, ttl, 4), b[:]...)
	}
	b := a.As16()
	return append(AppendRecordHeader(dst, owner, TypeAAAA, ttl, 16), b[:]...)
}

// AppendNameRecord adds a record whose data is one uncompressed name: CNAME, PTR or NS.
func AppendNameRecord(dst []byte, owner, typ uint16, ttl uint32, target string) []byte {
	return append(AppendRecordHeader(dst, owner, typ, ttl, len(target)), target...)
}
