package announce

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// mac is an Ethernet address.
type mac [6]byte

func (m mac) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

var (
	broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	zeroMAC   = mac{}
)

// observation is the content of one ARP packet or neighbor message. An address that the message does not have is invalid.
type observation struct {
	mac       mac        // of the sender
	target    netip.Addr // the address that is queried
	requester netip.Addr // of a query; invalid in a probe for duplicates (RFC 5227 section 1.1, RFC 4862 section 5.4.2)
	claimed   netip.Addr // the address that the sender has
}

// parseFrame parses a frame with an ARP packet or a neighbor message. ok is false for every other frame.
func parseFrame(b []byte) (o observation, ok bool) {
	if len(b) < etherLen {
		return o, false
	}
	copy(o.mac[:], b[6:12])
	if o.mac[0]&1 != 0 || o.mac == zeroMAC {
		return o, false // a group address is never a source
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherARP:
		return parseARP(o, b[etherLen:])
	case etherIPv6:
		return parseNeighbor(o, b[etherLen:])
	}
	return o, false
}

// ethernet adds an Ethernet header.
func ethernet(b []byte, dst, src mac, kind uint16) []byte {
	b = append(append(b, dst[:]...), src[:]...)
	return binary.BigEndian.AppendUint16(b, kind)
}
