package packet

import (
	"encoding/binary"
	"net/netip"
)

// Unreachable is why a packet does not reach its destination, for both ICMP versions.
type Unreachable uint8

// The reasons AppendUnreachable can state: RFC 792 / RFC 1812 codes and their RFC 4443 counterparts.
const (
	NoRoute    Unreachable = iota // network unreachable / no route to destination
	NoHost                        // host unreachable / address unreachable
	NoPort                        // port unreachable
	Prohibited                    // communication administratively prohibited
	reasons                       // how many there are
)

var codes4 = [reasons]uint8{0, 1, 3, 13}
var codes6 = [reasons]uint8{0, 3, 4, 1}

// Answer sizes: RFC 1812 4.3.2.3 lets an ICMPv4 error quote up to 576 bytes in all, RFC 4443 2.4 up to the minimum
// MTU of 1280.
const (
	max4 = 576
	max6 = 1280
	// MaxAnswer is the size in bytes of the largest packet the Append functions build.
	MaxAnswer = max6
)

// AppendUnreachable appends a destination-unreachable error about p, sent by from, or nothing if p must not be
// answered (RFC 1122 3.2.2, RFC 4443 2.4: errors, later fragments, group addresses).
func (p *Packet) AppendUnreachable(b []byte, from netip.Addr, why Unreachable) []byte {
	if why >= reasons {
		return b
	}
	if p.Version == 4 {
		return p.appendError(b, from, 3, codes4[why], 0)
	}
	return p.appendError(b, from, 1, codes6[why], 0)
}

// AppendTooBig appends "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443 3.2) with the MTU in bytes.
func (p *Packet) AppendTooBig(b []byte, from netip.Addr, mtu int) []byte {
	if p.Version == 4 {
		return p.appendError(b, from, 3, 4, uint32(min(mtu, 0xffff)))
	}
	return p.appendError(b, from, 2, 0, uint32(mtu))
}

// AppendTimeExceeded appends the error about a packet whose time to live or hop limit is used up (RFC 792, RFC 4443 3.3).
func (p *Packet) AppendTimeExceeded(b []byte, from netip.Addr) []byte {
	if p.Version == 4 {
		return p.appendError(b, from, 11, 0, 0)
	}
	return p.appendError(b, from, 3, 0, 0)
}

// answerable reports whether an ICMP error may be sent about the packet. RFC 4443 permits packet-too-big about multicast
// packets, which warren does not route.
func (p *Packet) answerable() bool {
	if p.ICMPError() || p.FragOff != 0 || p.Dst.IsMulticast() || p.Src.IsMulticast() || p.Src.IsUnspecified() {
		return false
	}
	if p.Version == 4 && (p.Src.As4()[0] >= 240 || p.Dst.As4() == [4]byte{255, 255, 255, 255}) {
		return false
	}
	return !(p.Proto == ProtoICMPv6 && p.HasL4 && p.ICMPType == 137) // redirects (RFC 4443 2.4 e.2)
}

func (p *Packet) appendError(b []byte, from netip.Addr, typ, code uint8, rest uint32) []byte {
	if !p.answerable() || from.Is4() != (p.Version == 4) {
		return b
	}
	head, limit, proto := 28, max4, uint8(ProtoICMP)
	if p.Version == 6 {
		head, limit, proto = 48, max6, ProtoICMPv6
	}
	quote := p.Buf[:min(len(p.Buf), limit-head)]
	start := len(b)
	b = appendHeader(b, from, p.Src, proto, 8+len(quote))
	b = append(b, typ, code, 0, 0)
	b = binary.BigEndian.AppendUint32(b, rest)
	b = append(b, quote...)
	finish(b[start:], proto)
	return b
}

// AppendReset appends the TCP RST that answers p (RFC 9293 3.10.7.1), or nothing if p is no whole TCP segment or is
// itself a reset.
func (p *Packet) AppendReset(b []byte) []byte {
	if p.Proto != ProtoTCP || !p.HasL4 || p.TCPFlags&RST != 0 || p.Dst.IsMulticast() {
		return b
	}
	t := p.Buf[p.L4:]
	seq, ack := binary.BigEndian.Uint32(t[8:]), uint32(0)
	flags := uint8(RST)
	if p.TCPFlags&ACK == 0 {
		size := p.Length - p.HeaderLen()
		if p.TCPFlags&SYN != 0 {
			size++
		}
		if p.TCPFlags&FIN != 0 {
			size++
		}
		seq, ack, flags = 0, binary.BigEndian.Uint32(t[4:])+uint32(size), RST|ACK
	}
	return appendSegment(b, p.Destination(), p.Source(), seq, ack, flags)
}

// AppendRST appends a TCP RST that answers no packet; seq is the sequence number that the receiver expects next.
func AppendRST(b []byte, src, dst netip.AddrPort, seq uint32) []byte {
	return appendSegment(b, src, dst, seq, 0, RST)
}

func appendSegment(b []byte, src, dst netip.AddrPort, seq, ack uint32, flags uint8) []byte {
	start := len(b)
	b = appendHeader(b, src.Addr(), dst.Addr(), ProtoTCP, 20)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, 5<<4, flags, 0, 0, 0, 0, 0, 0)
	finish(b[start:], ProtoTCP)
	return b
}

// appendHeader appends an IP header for a payload of size bytes.
func appendHeader(b []byte, src, dst netip.Addr, proto uint8, size int) []byte {
	if src.Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+size))
		b = append(b, 0, 0, 0, 0, 64, proto, 0, 0)
		s, d := src.As4(), dst.As4()
		b = append(b, s[:]...)
		return append(b, d[:]...)
	}
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, proto, 64)
	s, d := src.As16(), dst.As16()
	b = append(b, s[:]...)
	return append(b, d[:]...)
}

// finish computes the checksums of a packet made by appendHeader.
func finish(b []byte, proto uint8) {
	q := Packet{Buf: b, Version: b[0] >> 4, Proto: proto, HasL4: true, L4: 20}
	if q.Version == 6 {
		q.L4 = 40
	}
	q.FixIPChecksum()
	q.FixChecksum()
}

// Become replaces the packet by another one, which must not share memory with it. A hook answers with it. If the capacity
// of the buffer is too small or b is not a packet, it reports false and does not change the packet.
func (p *Packet) Become(b []byte) bool {
	if len(b) > cap(p.Buf) || len(b) == 0 {
		return false
	}
	var q Packet
	if q.Parse(b) != OK {
		return false
	}
	q.Buf = p.Buf[:len(b)]
	copy(q.Buf, b)
	*p = q
	return true
}

// BecomeTooBig replaces the packet by the ICMP error about it; see AppendTooBig.
func (p *Packet) BecomeTooBig(from netip.Addr, mtu int) bool {
	var room [MaxAnswer]byte
	return p.Become(p.AppendTooBig(room[:0], from, mtu))
}
