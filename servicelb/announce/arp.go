package announce

import (
	"encoding/binary"
	"net/netip"
)

// ARP for IPv4 over Ethernet (RFC 826): hardware 1, protocol 0x0800, lengths 6 and 4, operation, then sender MAC, sender
// address, target MAC, target address.
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

func parseARP(s sighting, b []byte) (sighting, bool) {
	if len(b) < arpLen || binary.BigEndian.Uint16(b) != 1 || binary.BigEndian.Uint16(b[2:]) != etherIPv4 || b[4] != 6 || b[5] != 4 {
		return s, false
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	copy(s.hw[:], b[8:14])
	if s.hw[0]&1 != 0 || s.hw == nobody {
		return s, false
	}
	if !sender.IsUnspecified() {
		s.claimed = sender
	}
	switch binary.BigEndian.Uint16(b[6:]) {
	case arpRequest:
		if sender == target {
			return s, true // an announcement (RFC 5227 section 3)
		}
		s.asked = target
		if !sender.IsUnspecified() {
			s.asker = sender
		}
	case arpReply:
	default:
		return s, false
	}
	return s, true
}

func arp(dst, src mac, op uint16, sha mac, spa netip.Addr, tha mac, tpa netip.Addr) []byte {
	b := ethernet(make([]byte, 0, 60), dst, src, etherARP)
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint16(b, etherIPv4)
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, sha[:]...), spa.AsSlice()...)
	b = append(append(b, tha[:]...), tpa.AsSlice()...)
	return b[:60] // Ethernet's least, without its check sequence; the rest is zero
}

// arpProbe asks whether anybody has the address (RFC 5227 section 2.1.1).
func arpProbe(from mac, a netip.Addr) []byte {
	return arp(broadcast, from, arpRequest, from, netip.IPv4Unspecified(), nobody, a)
}

// arpAnnounce says that the address is here, as a request (RFC 5227 section 2.3) and as a reply: some hosts take only one
// of them.
func arpAnnounce(from mac, a netip.Addr) [][]byte {
	return [][]byte{arp(broadcast, from, arpRequest, from, a, nobody, a), arp(broadcast, from, arpReply, from, a, broadcast, a)}
}

// arpAnswer tells the asker of s that the address is here.
func arpAnswer(from mac, a netip.Addr, s sighting) []byte {
	to := s.asker
	if !to.IsValid() {
		to = netip.IPv4Unspecified()
	}
	return arp(s.hw, from, arpReply, from, a, s.hw, to)
}
