package packet

import (
	"encoding/binary"
	"net/netip"
)

// SetSource replaces the source address and, if the protocol has ports, the source port. It updates all checksums: IPv4
// header, TCP, UDP, UDP-Lite, ICMPv6 and SCTP, complete or partial, of whole packets, super-packets and fragments. If the
// address is of the other family it reports false and changes nothing.
func (p *Packet) SetSource(to netip.AddrPort) bool {
	if !p.setAddr(&p.Src, 12, 8, to.Addr(), 0, to.Port()) {
		return false
	}
	if p.HasPorts() {
		p.SrcPort = to.Port()
	}
	return true
}

// SetDestination is SetSource for destination address and port.
func (p *Packet) SetDestination(to netip.AddrPort) bool {
	if !p.setAddr(&p.Dst, 16, 24, to.Addr(), 2, to.Port()) {
		return false
	}
	if p.HasPorts() {
		p.DstPort = to.Port()
	}
	return true
}

// setAddr writes an address (at at4 or at6 of the IP header) and a port (at portAt of the transport header).
func (p *Packet) setAddr(field *netip.Addr, at4, at6 int, to netip.Addr, portAt int, port uint16) bool {
	addr, ok := putAddr(p.Buf, p.Version, at4, at6, to)
	if !ok {
		return false
	}
	*field = to
	if p.Version == 4 {
		addr.apply(p.Buf[10:])
	}
	var ports delta
	if p.HasPorts() {
		b := p.Buf[p.L4+portAt:]
		ports.word(binary.BigEndian.Uint16(b), port)
		binary.BigEndian.PutUint16(b, port)
	}
	p.fixTransport(addr, ports)
	return true
}

// putAddr writes an address into an IP header and returns the difference in its sum.
func putAddr(ip []byte, version uint8, at4, at6 int, to netip.Addr) (d delta, ok bool) {
	if version == 4 {
		if !to.Is4() {
			return 0, false
		}
		a := to.As4()
		d.bytes(ip[at4:at4+4], a[:])
		copy(ip[at4:], a[:])
		return d, true
	}
	if !to.Is6() || to.Is4In6() {
		return 0, false
	}
	a := to.As16()
	d.bytes(ip[at6:at6+16], a[:])
	copy(ip[at6:], a[:])
	return d, true
}

// fixTransport updates the transport checksum. addr is the change of the pseudo-header, body that of header and payload.
// A partial checksum sums the pseudo-header only, so body does not matter for it.
func (p *Packet) fixTransport(addr, body delta) {
	if !p.HasL4 {
		return
	}
	off := csumOffset(p.Proto)
	switch {
	case p.Proto == ProtoSCTP:
		if body != 0 {
			p.fixSCTP()
		}
		return
	case off < 0:
		return
	case p.Proto == ProtoICMP:
		addr = 0 // RFC 792: no pseudo-header
	}
	field := p.Buf[p.L4+off : p.L4+off+2]
	if p.Partial() {
		addr.applyPartial(field)
		return
	}
	if p.Proto == ProtoUDP && p.Version == 4 && field[0] == 0 && field[1] == 0 {
		return // the sender computed none (RFC 768)
	}
	addr = delta(fold32(uint32(addr))) + delta(fold32(uint32(body)))
	addr.apply(field)
	if p.Proto == ProtoUDP && field[0] == 0 && field[1] == 0 {
		field[0], field[1] = 0xff, 0xff
	}
}

// set16 replaces the word at an offset from the transport header, with the checksum.
func (p *Packet) set16(off int, v uint16) {
	b := p.Buf[p.L4+off:]
	var d delta
	d.word(binary.BigEndian.Uint16(b), v)
	binary.BigEndian.PutUint16(b, v)
	p.fixTransport(0, d)
}

// SetTTL replaces time to live or hop limit.
func (p *Packet) SetTTL(ttl uint8) {
	if p.Version == 6 {
		p.Buf[7] = ttl
		return
	}
	var d delta
	old := binary.BigEndian.Uint16(p.Buf[8:])
	p.Buf[8] = ttl
	d.word(old, binary.BigEndian.Uint16(p.Buf[8:]))
	d.apply(p.Buf[10:])
}

// DecrementTTL lowers time to live or hop limit by one, as a node does that forwards the packet. It reports false, and changes
// nothing, if the packet may not be forwarded any further (RFC 1812 5.3.1, RFC 8200 section 3).
func (p *Packet) DecrementTTL() bool {
	ttl := p.TTL()
	if ttl <= 1 {
		return false
	}
	p.SetTTL(ttl - 1)
	return true
}

// ClampMSS lowers the maximum segment size option of a SYN or SYN-ACK to at most max bytes and reports whether it
// changed anything. A SYN without the option is not changed: the peer then assumes 536 (RFC 9293, 3.7.1).
func (p *Packet) ClampMSS(max uint16) bool {
	if p.Proto != ProtoTCP || !p.HasL4 || p.TCPFlags&SYN == 0 {
		return false
	}
	end := p.HeaderLen()
	for at := p.L4 + 20; at < end; {
		kind := p.Buf[at]
		if kind == 0 {
			return false
		}
		if kind == 1 {
			at++
			continue
		}
		if at+1 >= end {
			return false
		}
		size := int(p.Buf[at+1])
		if size < 2 || at+size > end {
			return false
		}
		if kind == 2 && size == 4 {
			return p.lowerMSS(at+2, max)
		}
		at += size
	}
	return false
}

// lowerMSS writes the option's value at an absolute offset. Behind an odd number of padding bytes the value
// straddles two words of the sum; the difference then counts byte-swapped.
func (p *Packet) lowerMSS(at int, max uint16) bool {
	old := binary.BigEndian.Uint16(p.Buf[at:])
	if old <= max {
		return false
	}
	binary.BigEndian.PutUint16(p.Buf[at:], max)
	var d delta
	if (at-p.L4)%2 == 0 {
		d.word(old, max)
	} else {
		d.word(old>>8|old<<8, max>>8|max<<8)
	}
	p.fixTransport(0, d)
	return true
}
