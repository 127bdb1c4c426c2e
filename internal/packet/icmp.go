package packet

import (
	"encoding/binary"
	"net/netip"
)

// Inner is the packet that an ICMP error quotes: the beginning of what one end of a flow had sent. IP and L4 are
// offsets in the outer packet's Buf.
type Inner struct {
	Src, Dst         netip.Addr
	IP, L4           int
	SrcPort, DstPort uint16
	EchoID           uint16 // of a quoted ICMP echo
	Version, Proto   uint8
	// HasPorts: source and destination port are quoted. Echo: EchoID is quoted.
	HasPorts, Echo bool
}

// ICMPError reports whether the packet is an ICMP or ICMPv6 error, which quotes another packet.
func (p *Packet) ICMPError() bool {
	if !p.HasL4 {
		return false
	}
	switch p.Proto {
	case ProtoICMP:
		switch p.ICMPType {
		case 3, 4, 5, 11, 12:
			return p.Version == 4
		}
	case ProtoICMPv6:
		return p.Version == 6 && p.ICMPType < 128
	}
	return false
}

// Echo returns the identifier of an ICMP echo request or reply.
func (p *Packet) Echo() (id uint16, request, ok bool) {
	if !p.HasL4 {
		return 0, false, false
	}
	switch {
	case p.Proto == ProtoICMP && (p.ICMPType == 8 || p.ICMPType == 0):
		request = p.ICMPType == 8
	case p.Proto == ProtoICMPv6 && (p.ICMPType == 128 || p.ICMPType == 129):
		request = p.ICMPType == 128
	default:
		return 0, false, false
	}
	return binary.BigEndian.Uint16(p.Buf[p.L4+4:]), request, true
}

// EchoSequence returns the sequence number of an ICMP echo request or reply.
func (p *Packet) EchoSequence() uint16 { return binary.BigEndian.Uint16(p.Buf[p.L4+6:]) }

// AppendEcho appends an echo request (RFC 792, RFC 4443 4.1) of size bytes in all, not less than its headers.
func AppendEcho(b []byte, src, dst netip.Addr, id, sequence uint16, size int) []byte {
	typ, proto, head := byte(8), uint8(ProtoICMP), 28
	if src.Is6() {
		typ, proto, head = 128, ProtoICMPv6, 48
	}
	start, data := len(b), max(size-head, 0)
	b = appendHeader(b, src, dst, proto, 8+data)
	b = append(b, typ, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, sequence)
	b = append(b, make([]byte, data)...)
	finish(b[start:], proto)
	return b
}

// SetEcho gives an ICMP echo request or reply another identifier.
func (p *Packet) SetEcho(id uint16) {
	if _, _, ok := p.Echo(); ok {
		p.set16(4, id)
	}
}

// Inner reads the packet that an ICMP error quotes. The quotation may be short: fields that it lacks are not set.
func (p *Packet) Inner() (in Inner, ok bool) {
	if !p.ICMPError() {
		return Inner{}, false
	}
	in.IP = p.L4 + 8
	b := p.Buf[in.IP:]
	var later bool
	switch p.Version {
	case 4:
		in.L4, later, ok = in.parse4(b)
	default:
		in.L4, later, ok = in.parse6(b)
	}
	if !ok || later || in.L4+4 > len(b) {
		in.L4 += in.IP
		return in, ok
	}
	t := b[in.L4:]
	in.L4 += in.IP
	switch in.Proto {
	case ProtoTCP, ProtoUDP, ProtoUDPLite, ProtoSCTP:
		in.SrcPort, in.DstPort, in.HasPorts = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:]), true
	case ProtoICMP, ProtoICMPv6:
		echo := t[0] == 8 || t[0] == 0
		if in.Proto == ProtoICMPv6 {
			echo = t[0] == 128 || t[0] == 129
		}
		if echo && len(t) >= 6 {
			in.EchoID, in.Echo = binary.BigEndian.Uint16(t[4:]), true
		}
	}
	return in, true
}

func (in *Inner) parse4(b []byte) (l4 int, later, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 || int(b[0]&15)*4 < 20 || int(b[0]&15)*4 > len(b) {
		return 0, false, false
	}
	in.Version, in.Proto = 4, b[9]
	in.Src, in.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return int(b[0]&15) * 4, binary.BigEndian.Uint16(b[6:])&0x1fff != 0, true
}

func (in *Inner) parse6(b []byte) (l4 int, later, ok bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return 0, false, false
	}
	in.Version = 6
	in.Src, in.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	walk := Packet{Buf: b}
	proto, at, reached, fault := walk.skipExtensions(b[6], 40)
	in.Proto = proto
	return at, !reached, fault == OK
}

// SetInnerSource rewrites source address and port of a quoted packet to those of the packet as its sender sent it. It
// updates the quoted checksums and that of the error. in must come from p.Inner.
func (p *Packet) SetInnerSource(in *Inner, to netip.AddrPort) bool {
	if !p.setInner(in, 12, 8, to.Addr(), 0, to.Port()) {
		return false
	}
	in.Src = to.Addr()
	if in.HasPorts {
		in.SrcPort = to.Port()
	}
	return true
}

// SetInnerDestination is SetInnerSource for the quoted packet's destination.
func (p *Packet) SetInnerDestination(in *Inner, to netip.AddrPort) bool {
	if !p.setInner(in, 16, 24, to.Addr(), 2, to.Port()) {
		return false
	}
	in.Dst = to.Addr()
	if in.HasPorts {
		in.DstPort = to.Port()
	}
	return true
}

// SetInnerEcho rewrites the identifier of a quoted ICMP echo.
func (p *Packet) SetInnerEcho(in *Inner, id uint16) {
	if !in.Echo {
		return
	}
	var inner, outer delta
	p.innerWord(in.L4+4, id, &inner, &outer)
	p.innerSum(in, inner, &outer)
	p.fixTransport(0, outer)
	in.EchoID = id
}

// setInner rewrites a quoted address and port. Everything that changes in the quotation, its checksums included,
// is payload to the outer ICMP checksum.
func (p *Packet) setInner(in *Inner, at4, at6 int, to netip.Addr, portAt int, port uint16) bool {
	ip := p.Buf[in.IP:]
	addr, ok := putAddr(ip, in.Version, at4, at6, to)
	if !ok {
		return false
	}
	outer := delta(fold32(uint32(addr)))
	inner := outer
	if in.Proto == ProtoICMP {
		inner = 0
	}
	if in.Version == 4 {
		old := binary.BigEndian.Uint16(ip[10:])
		addr.apply(ip[10:])
		outer.word(old, binary.BigEndian.Uint16(ip[10:]))
	}
	if in.HasPorts {
		p.innerWord(in.L4+portAt, port, &inner, &outer)
	}
	p.innerSum(in, inner, &outer)
	p.fixTransport(0, outer)
	return true
}

// innerWord replaces a quoted word and counts it for both checksums.
func (p *Packet) innerWord(at int, v uint16, inner, outer *delta) {
	old := binary.BigEndian.Uint16(p.Buf[at:])
	binary.BigEndian.PutUint16(p.Buf[at:], v)
	inner.word(old, v)
	outer.word(old, v)
}

// innerSum updates the quoted transport checksum if the quotation is long enough to hold it. A quoted checksum was
// complete when its packet was on the wire, whatever offload computed it.
func (p *Packet) innerSum(in *Inner, d delta, outer *delta) {
	off := csumOffset(in.Proto)
	at := in.L4 + off
	if off < 0 || (!in.HasPorts && !in.Echo) || at+2 > len(p.Buf) {
		return
	}
	field := p.Buf[at : at+2]
	old := binary.BigEndian.Uint16(field)
	if old == 0 && in.Proto == ProtoUDP && in.Version == 4 {
		return
	}
	d.apply(field)
	outer.word(old, binary.BigEndian.Uint16(field))
}
