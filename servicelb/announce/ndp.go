package announce

import (
	"encoding/binary"
	"net/netip"
)

// allNodes is the link-local group of all nodes (RFC 4291 section 2.7.1).
var allNodes = netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1})

// solicitedNode is the group to which solicitations for an address are sent (RFC 4291 section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// groupMAC is the Ethernet address of an IPv6 group (RFC 2464 section 7).
func groupMAC(g netip.Addr) mac {
	b := g.As16()
	return mac{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// parseNeighbor completes o from a neighbor message. It validates as RFC 4861 sections 7.1.1 and 7.1.2 require.
func parseNeighbor(o observation, b []byte) (observation, bool) {
	if len(b) < ipv6Len+ndLen || b[0]>>4 != 6 || b[6] != protoICMP6 || b[7] != ndHopLimit {
		return o, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < ndLen || len(b) < ipv6Len+n {
		return o, false
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	msg := b[ipv6Len : ipv6Len+n]
	target := netip.AddrFrom16([16]byte(msg[8:24]))
	if msg[1] != 0 || target.IsMulticast() || target.Is4In6() || checksum(src, dst, msg) != 0 {
		return o, false
	}
	source, dest, ok := linkOptions(msg[ndLen:])
	if !ok {
		return o, false
	}
	switch msg[0] {
	case ndSolicitation:
		o.target = target
		if src.IsUnspecified() {
			return o, dst == solicitedNode(target) && source == zeroMAC
		}
		o.requester = src
		if source != zeroMAC {
			o.mac = source
		}
	case ndAdvertisement:
		o.claimed = target
		if dest != zeroMAC {
			o.mac = dest
		}
	default:
		return o, false
	}
	return o, true
}

// linkOptions returns the link-layer addresses of a message's options. ok is false when an option's length is 0 or too large.
func linkOptions(b []byte) (source, target mac, ok bool) {
	for len(b) > 0 {
		if len(b) < ndOptionUnit || b[1] == 0 || len(b) < int(b[1])*ndOptionUnit {
			return source, target, false
		}
		switch {
		case b[0] == optSourceLinkAddress && b[1] == 1:
			copy(source[:], b[2:8])
		case b[0] == optTargetLinkAddress && b[1] == 1:
			copy(target[:], b[2:8])
		}
		b = b[int(b[1])*ndOptionUnit:]
	}
	return source, target, source[0]&1 == 0 && target[0]&1 == 0
}

// checksum is the ICMPv6 checksum over the pseudo header (RFC 4443 section 2.3). It is 0 for a message with a correct checksum.
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

// neighborMessage is a neighbor message that this package sends.
type neighborMessage struct {
	to, from mac // of the frame
	src, dst netip.Addr
	kind     byte
	flags    byte
	target   netip.Addr
	option   byte // kind of the option with the MAC address from, 0: no option
}

// frame returns the message in an Ethernet frame.
func (m neighborMessage) frame() []byte {
	b := ethernet(make([]byte, 0, etherLen+ipv6Len+ndLen+ndOptionUnit), m.to, m.from, etherIPv6)
	n := ndLen
	if m.option != 0 {
		n += ndOptionUnit
	}
	b = append(b, 0x60, 0, 0, 0, 0, byte(n), protoICMP6, ndHopLimit)
	b = append(append(b, m.src.AsSlice()...), m.dst.AsSlice()...)
	at := len(b)
	b = append(b, m.kind, 0, 0, 0, m.flags, 0, 0, 0)
	b = append(b, m.target.AsSlice()...)
	if m.option != 0 {
		b = append(append(b, m.option, 1), m.from[:]...)
	}
	binary.BigEndian.PutUint16(b[at+2:], checksum(m.src, m.dst, b[at:]))
	return b
}

// ndProbe is the solicitation of duplicate address detection (RFC 4862 section 5.4.2).
func ndProbe(from mac, a netip.Addr) []byte {
	g := solicitedNode(a)
	return neighborMessage{to: groupMAC(g), from: from, src: netip.IPv6Unspecified(), dst: g, kind: ndSolicitation, target: a}.frame()
}

// ndAnnounce is an unsolicited advertisement that overrides cached entries (RFC 4861 section 7.2.6).
func ndAnnounce(from mac, a netip.Addr) []byte {
	return neighborMessage{to: groupMAC(allNodes), from: from, src: a, dst: allNodes, kind: ndAdvertisement,
		flags: flagOverride, target: a, option: optTargetLinkAddress}.frame()
}

// ndAnswer advertises the address to the requester, or to all nodes in answer to a probe (RFC 4861 section 7.2.4).
//
// The kernel forwards a solicitation that is sent to the address itself, and refuses it because its source is link-local.
// The ICMPv6 error "beyond scope" that it sends has no effect on a host that solicits.
func ndAnswer(from mac, a netip.Addr, request observation) []byte {
	if !request.requester.IsValid() {
		return ndAnnounce(from, a)
	}
	return neighborMessage{to: request.mac, from: from, src: a, dst: request.requester, kind: ndAdvertisement,
		flags: flagSolicited | flagOverride, target: a, option: optTargetLinkAddress}.frame()
}
