package announce

import (
	"encoding/binary"
	"net/netip"
)

// Neighbour solicitation and advertisement (RFC 4861 sections 4.3 and 4.4): type, code, checksum, 4 bytes of flags, the
// target, options of 8 byte units.
const (
	ipv6Len    = 40
	ndLen      = 24
	protoICMP6 = 58
	ndSolicit  = 135
	ndAdvert   = 136
	ndHops     = 255 // anything less came over a router

	optSource = 1
	optTarget = 2

	flagSolicited = 0x40
	flagOverride  = 0x20
)

var allNodes = netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1})

// solicitedNode is the group in which an address is asked for (RFC 4291 section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// groupMAC is the Ethernet group of an IPv6 group (RFC 2464 section 7).
func groupMAC(g netip.Addr) mac {
	b := g.As16()
	return mac{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// parseNeighbour checks a message as RFC 4861 sections 7.1.1 and 7.1.2 demand.
func parseNeighbour(s sighting, b []byte) (sighting, bool) {
	if len(b) < ipv6Len+ndLen || b[0]>>4 != 6 || b[6] != protoICMP6 || b[7] != ndHops {
		return s, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < ndLen || len(b) < ipv6Len+n {
		return s, false
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	msg := b[ipv6Len : ipv6Len+n]
	target := netip.AddrFrom16([16]byte(msg[8:24]))
	if msg[1] != 0 || target.IsMulticast() || target.Is4In6() || checksum(src, dst, msg) != 0 {
		return s, false
	}
	source, dest, ok := linkOptions(msg[ndLen:])
	if !ok {
		return s, false
	}
	switch msg[0] {
	case ndSolicit:
		s.asked = target
		if src.IsUnspecified() {
			return s, dst == solicitedNode(target) && source == nobody
		}
		s.asker = src
		if source != nobody {
			s.hw = source
		}
	case ndAdvert:
		s.claimed = target
		if dest != nobody {
			s.hw = dest
		}
	default:
		return s, false
	}
	return s, true
}

// linkOptions finds the link addresses among a message's options; ok is false when an option has no or too much length.
func linkOptions(b []byte) (source, target mac, ok bool) {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || len(b) < int(b[1])*8 {
			return source, target, false
		}
		switch {
		case b[0] == optSource && b[1] == 1:
			copy(source[:], b[2:8])
		case b[0] == optTarget && b[1] == 1:
			copy(target[:], b[2:8])
		}
		b = b[int(b[1])*8:]
	}
	return source, target, source[0]&1 == 0 && target[0]&1 == 0
}

// checksum is ICMPv6's over the pseudo header (RFC 4443 section 2.3); 0 over a message that carries the right one.
func checksum(src, dst netip.Addr, msg []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)&1 != 0 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	add(src.AsSlice())
	add(dst.AsSlice())
	add(msg)
	sum += uint32(len(msg)) + protoICMP6
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// neighbour builds a frame with one message; opt is the kind of its link address option, 0 for none.
func neighbour(to mac, from mac, src, dst netip.Addr, kind, flags byte, target netip.Addr, opt byte) []byte {
	b := ethernet(make([]byte, 0, etherLen+ipv6Len+ndLen+8), to, from, etherIPv6)
	n := ndLen
	if opt != 0 {
		n += 8
	}
	b = append(b, 0x60, 0, 0, 0, 0, byte(n), protoICMP6, ndHops)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	at := len(b)
	b = append(b, kind, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, target.AsSlice()...)
	if opt != 0 {
		b = append(append(b, opt, 1), from[:]...)
	}
	binary.BigEndian.PutUint16(b[at+2:], checksum(src, dst, b[at:]))
	return b
}

// ndProbe is duplicate address detection's solicitation (RFC 4862 section 5.4.2).
func ndProbe(from mac, a netip.Addr) []byte {
	g := solicitedNode(a)
	return neighbour(groupMAC(g), from, netip.IPv6Unspecified(), g, ndSolicit, 0, a, 0)
}

// ndAnnounce is an unsolicited advertisement that overrides what others remember (RFC 4861 section 7.2.6).
func ndAnnounce(from mac, a netip.Addr) []byte {
	return neighbour(groupMAC(allNodes), from, a, allNodes, ndAdvert, flagOverride, a, optTarget)
}

// ndAnswer advertises the address to the asker of s, to everybody when that one probes (RFC 4861 section 7.2.4). A
// solicitation to the address itself is a packet to be routed for the kernel, which refuses it, link-local as its sender
// is: an ICMPv6 error "beyond scope" goes out as well, and means nothing to a host that solicits.
func ndAnswer(from mac, a netip.Addr, s sighting) []byte {
	if !s.asker.IsValid() {
		return ndAnnounce(from, a)
	}
	return neighbour(s.hw, from, a, s.asker, ndAdvert, flagSolicited|flagOverride, a, optTarget)
}
