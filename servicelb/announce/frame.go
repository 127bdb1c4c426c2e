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
	nobody    = mac{}
)

// EtherTypes.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

const etherLen = 14

// sighting is what one ARP packet or neighbour message says. Invalid addresses say nothing.
type sighting struct {
	hw      mac        // who speaks
	asked   netip.Addr // whom it looks for
	asker   netip.Addr // with which address; invalid: it has none yet, so it probes (RFC 5227 1.1, RFC 4862 5.4.2)
	claimed netip.Addr // the address it says it has
}

// parseFrame reads a frame with ARP or a neighbour message in it; ok is false for everything else.
func parseFrame(b []byte) (s sighting, ok bool) {
	if len(b) < etherLen {
		return s, false
	}
	copy(s.hw[:], b[6:12])
	if s.hw[0]&1 != 0 || s.hw == nobody {
		return s, false // no sender has a group's address
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherARP:
		return parseARP(s, b[etherLen:])
	case etherIPv6:
		return parseNeighbour(s, b[etherLen:])
	}
	return s, false
}

func ethernet(b []byte, dst, src mac, kind uint16) []byte {
	b = append(append(b, dst[:]...), src[:]...)
	return binary.BigEndian.AppendUint16(b, kind)
}
