package packet

import (
	"encoding/binary"
	"net/netip"
)

// Fault is the reason why a packet is invalid and must not be forwarded. OK is zero.
type Fault uint8

// The faults Parse and VnetFault report.
const (
	OK           Fault = iota
	Short              // fewer bytes than the headers need
	BadVersion         // neither IPv4 nor IPv6
	BadLength          // header lengths contradict each other or the buffer
	BadExtension       // IPv6 extension headers that do not end within maxExtensions
	BadTransport       // transport header cut off or impossible, as in tiny-fragment attacks (RFC 3128)
	BadVnet            // the virtio-net header contradicts the packet
)

var faultNames = [...]string{"ok", "short", "bad_version", "bad_length", "bad_extension", "bad_transport", "bad_vnet"}

func (f Fault) String() string {
	if int(f) < len(faultNames) {
		return faultNames[f]
	}
	return "unknown"
}

// maxExtensions bounds the walk over IPv6 extension headers; the kernel sends at most four kinds.
const maxExtensions = 8

// Parse reads the packet in buf, which it keeps. It does not change Vnet: the caller sets it before or after. Bytes after
// the packet (link padding) are cut off. After a fault only Buf is set.
func (p *Packet) Parse(buf []byte) Fault {
	vnet := p.Vnet
	*p = Packet{Buf: buf, Vnet: vnet}
	if len(buf) < 20 {
		return Short
	}
	switch buf[0] >> 4 {
	case 4:
		return p.parse4()
	case 6:
		return p.parse6()
	}
	return BadVersion
}

func (p *Packet) parse4() Fault {
	b := p.Buf
	hlen, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if hlen < 20 || total < hlen || total > len(b) {
		return BadLength
	}
	p.Version, p.Length, p.Buf = 4, total, b[:total]
	p.Src = netip.AddrFrom4([4]byte(b[12:16]))
	p.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	p.Proto = b[9]
	off := binary.BigEndian.Uint16(b[6:])
	p.DontFrag, p.MoreFrags, p.FragOff = off&0x4000 != 0, off&0x2000 != 0, int(off&0x1fff)*8
	p.FragID = uint32(binary.BigEndian.Uint16(b[4:]))
	return p.parse4th(hlen)
}

func (p *Packet) parse6() Fault {
	b := p.Buf
	if len(b) < 40 {
		return Short
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return BadLength
	}
	p.Version, p.Length, p.Buf, p.DontFrag = 6, total, b[:total], true
	p.Src = netip.AddrFrom16([16]byte(b[8:24]))
	p.Dst = netip.AddrFrom16([16]byte(b[24:40]))
	if p.Src.Is4In6() || p.Dst.Is4In6() {
		return BadTransport // RFC 4291: never on the wire; it would compare equal to IPv4 after Unmap
	}
	next, at, ok, fault := p.skipExtensions(b[6], 40)
	p.Proto = next
	if fault != OK || !ok {
		return fault
	}
	return p.parse4th(at)
}

// skipExtensions finds the transport header. ok is false if it cannot be read: fragments except the first, no next header,
// ESP, or a routing header with segments left. The final destination of such a packet is not Dst, so that neither its
// checksum nor its flow can be determined from the fixed header.
func (p *Packet) skipExtensions(next uint8, at int) (proto uint8, l4 int, ok bool, fault Fault) {
	for range maxExtensions {
		b := p.Buf[at:]
		var size int
		switch next {
		case 0, 60, 135, 139, 140, 43: // options, mobility, HIP, shim6, routing
			if len(b) < 8 {
				return next, 0, false, Short
			}
			size = int(b[1])*8 + 8
			if next == 43 && b[3] != 0 {
				return next, 0, false, OK
			}
		case 51: // authentication header counts in words of four bytes
			if len(b) < 8 {
				return next, 0, false, Short
			}
			size = int(b[1])*4 + 8
		case 44:
			if len(b) < 8 {
				return next, 0, false, Short
			}
			size = 8
			off := binary.BigEndian.Uint16(b[2:])
			p.FragOff, p.MoreFrags = int(off&^7), off&1 != 0
			p.FragID = binary.BigEndian.Uint32(b[4:])
			if p.FragOff != 0 {
				return b[0], 0, false, OK
			}
		case 50, 59:
			return next, 0, false, OK
		default:
			return next, at, true, OK
		}
		if size > len(b) {
			return next, 0, false, BadLength
		}
		next, at = b[0], at+size
	}
	return next, 0, false, BadExtension
}

// parse4th reads the transport header at that offset.
func (p *Packet) parse4th(at int) Fault {
	if p.FragOff != 0 {
		if p.Version == 4 && p.Proto == ProtoTCP && p.FragOff == 8 {
			return BadTransport // would overwrite the flags of the first fragment
		}
		return OK
	}
	b := p.Buf[at:]
	p.L4 = at
	switch p.Proto {
	case ProtoTCP:
		if len(b) < 20 {
			return BadTransport
		}
		if n := int(b[12]>>4) * 4; n < 20 || n > len(b) {
			return BadTransport
		}
		p.TCPFlags = b[13]
		p.ports(b)
	case ProtoUDP:
		if len(b) < 8 {
			return BadTransport
		}
		if n := int(binary.BigEndian.Uint16(b[4:])); !p.MoreFrags && (n < 8 || n > len(b)) && p.Vnet.GSOType == GSONone {
			return BadTransport
		}
		p.ports(b)
	case ProtoUDPLite:
		if len(b) < 8 {
			return BadTransport
		}
		p.ports(b)
	case ProtoSCTP:
		if len(b) < 12 {
			return BadTransport
		}
		p.ports(b)
	case ProtoICMP, ProtoICMPv6:
		if len(b) < 8 {
			return BadTransport
		}
		p.ICMPType, p.ICMPCode = b[0], b[1]
	}
	p.HasL4 = true
	return OK
}

func (p *Packet) ports(b []byte) {
	p.SrcPort = binary.BigEndian.Uint16(b)
	p.DstPort = binary.BigEndian.Uint16(b[2:])
}
