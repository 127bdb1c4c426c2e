package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// Record types, classes and response codes that the hot path knows by itself.
const (
	typeA     = 1
	typeNS    = 2
	typeCNAME = 5
	typeSOA   = 6
	typePTR   = 12
	typeTXT   = 16
	typeAAAA  = 28
	typeSRV   = 33
	typeOPT   = 41

	classIN = 1

	rcodeOK       = 0
	rcodeServfail = 2
	rcodeNXDomain = 3
	rcodeRefused  = 5
)

const (
	headerLen = 12
	optLen    = 11 // an OPT record without options
	udpSize   = 1232
	tcpSize   = 65535
	// questionPointer points at the question's name, which stands right behind the header in every message.
	questionPointer = 0xC000 | headerLen
)

// appendLabel adds one label in lower case.
func appendLabel(dst []byte, label string) ([]byte, error) {
	if len(label) == 0 || len(label) > 63 || strings.IndexByte(label, '.') >= 0 {
		return dst, fmt.Errorf("label %q: expected 1 to 63 bytes without a dot", label)
	}
	dst = append(dst, byte(len(label)))
	for i := range len(label) {
		dst = append(dst, toLower[label[i]])
	}
	return dst, nil
}

// encodeName turns "a.b." into its wire form in lower case, the root label included.
func encodeName(name string) (string, error) {
	var dst []byte
	var err error
	if name = strings.TrimSuffix(name, "."); name != "" {
		for l := range strings.SplitSeq(name, ".") {
			if dst, err = appendLabel(dst, l); err != nil {
				return "", fmt.Errorf("name %q: %w", name, err)
			}
		}
	}
	if len(dst) > 254 {
		return "", fmt.Errorf("name %q: longer than 255 bytes", name)
	}
	return string(append(dst, 0)), nil
}

// decodeName is wireName the other way, for logs and people. Bytes that are no plain host name characters are escaped.
func decodeName(wire []byte) string {
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

// toLower maps ASCII capitals to small letters. Label lengths (0 to 63) map to themselves, so a whole wire name may go
// through it.
var toLower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			t[i] = byte(i) + 'a' - 'A'
		}
	}
	return
}()

// appendHead adds a record up to its data: owner (a pointer), type, class IN, TTL, length of the data.
func appendHead(dst []byte, owner, typ uint16, ttl uint32, n int) []byte {
	dst = binary.BigEndian.AppendUint16(dst, owner)
	dst = binary.BigEndian.AppendUint16(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, classIN)
	dst = binary.BigEndian.AppendUint32(dst, ttl)
	return binary.BigEndian.AppendUint16(dst, uint16(n))
}

// appendAddr adds an A or AAAA record.
func appendAddr(dst []byte, owner uint16, a netip.Addr, ttl uint32) []byte {
	if a.Is4() {
		b := a.As4()
		return append(appendHead(dst, owner, typeA, ttl, 4), b[:]...)
	}
	b := a.As16()
	return append(appendHead(dst, owner, typeAAAA, ttl, 16), b[:]...)
}

// appendTarget adds a record whose data is one uncompressed name: CNAME, PTR, NS.
func appendTarget(dst []byte, owner, typ uint16, ttl uint32, target string) []byte {
	return append(appendHead(dst, owner, typ, ttl, len(target)), target...)
}
