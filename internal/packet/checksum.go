package packet

import (
	"encoding/binary"
	"math/bits"
)

// littleEndian is the byte order of the machine. The ones' complement sum does not depend on the byte order of its 16-bit
// words (RFC 1071, section 2B), so the loops load native words and swap once at the end.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// Sum returns the ones' complement sum of b, folded to 16 bits, plus acc. b starts at an even offset of whatever is
// being summed; an odd last byte counts as if a zero followed.
func Sum(b []byte, acc uint16) uint16 {
	s := sumWords(b, 0)
	if littleEndian {
		s = bits.ReverseBytes16(s)
	}
	return add16(s, acc)
}

// sumWords adds b in native order. The eight-fold unrolling with a carry chain runs at memory speed.
func sumWords(b []byte, acc uint64) uint16 {
	var c uint64
	for len(b) >= 64 {
		s := b[:64:64]
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(s[0:]), 0)
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(s[8:]), c)
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(s[16:]), c)
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(s[24:]), c)
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(s[32:]), c)
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(s[40:]), c)
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(s[48:]), c)
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(s[56:]), c)
		acc += c
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(b), 0)
		acc += c
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		acc, c = bits.Add64(acc, binary.NativeEndian.Uint64(last[:]), 0)
		acc += c
	}
	return fold64(acc)
}

func fold64(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	return fold32(uint32(s))
}

func fold32(s uint32) uint16 {
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}

func add16(a, b uint16) uint16 { return fold32(uint32(a) + uint32(b)) }

// delta collects by how much a ones' complement sum changes when words are replaced: for each word the complement
// of the old value and the new one (RFC 1624, equation 3). 32,000 words fit.
type delta uint32

func (d *delta) word(old, new uint16) { *d += delta(^old) + delta(new) }

// bytes counts the replacement of old by new; both have the same even length and start at an even offset.
func (d *delta) bytes(old, new []byte) {
	for i := 0; i+1 < len(old) && i+1 < len(new); i += 2 {
		d.word(binary.BigEndian.Uint16(old[i:]), binary.BigEndian.Uint16(new[i:]))
	}
}

// apply changes a complete (complemented) checksum in place.
func (d delta) apply(field []byte) {
	sum := uint32(^binary.BigEndian.Uint16(field)) + uint32(fold32(uint32(d)))
	binary.BigEndian.PutUint16(field, ^fold32(sum))
}

// applyPartial changes a pseudo-header's sum, which is stored uncomplemented.
func (d delta) applyPartial(field []byte) {
	sum := uint32(binary.BigEndian.Uint16(field)) + uint32(fold32(uint32(d)))
	binary.BigEndian.PutUint16(field, fold32(sum))
}

// csumOffset is the offset of the ones' complement checksum in the transport header, -1 if the protocol has none.
func csumOffset(proto uint8) int {
	switch proto {
	case ProtoTCP:
		return 16
	case ProtoUDP, ProtoUDPLite:
		return 6
	case ProtoICMP, ProtoICMPv6:
		return 2
	}
	return -1
}

// PseudoSum returns the sum over addresses, protocol and transport length (RFC 9293 3.1, RFC 8200 8.1) that TCP,
// UDP and ICMPv6 include in their checksums; length is that of transport header and payload in bytes.
func (p *Packet) PseudoSum(length int) uint16 {
	acc := fold32(uint32(length)>>16 + uint32(length)&0xffff + uint32(p.Proto))
	if p.Version == 4 {
		return Sum(p.Buf[12:20], acc)
	}
	return Sum(p.Buf[8:40], acc)
}

// FixIPChecksum computes the IPv4 header checksum. For IPv6 it does nothing.
func (p *Packet) FixIPChecksum() {
	if p.Version != 4 {
		return
	}
	b := p.Buf[:int(p.Buf[0]&15)*4]
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^Sum(b, 0))
}

// CompleteChecksum completes a partial checksum as the Vnet header requests (NeedsCsum), and clears the request. The whole
// packet must be in Buf. A packet without the request is not changed.
func (p *Packet) CompleteChecksum() {
	if p.Vnet.Flags&NeedsCsum == 0 {
		return
	}
	start, at := int(p.Vnet.CsumStart), int(p.Vnet.CsumStart)+int(p.Vnet.CsumOffset)
	p.Vnet.Flags &^= NeedsCsum
	if at+2 > len(p.Buf) {
		return
	}
	sum := ^Sum(p.Buf[start:], 0) // the field itself holds the pseudo-header's share
	if sum == 0 && p.Proto == ProtoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(p.Buf[at:], sum)
}

// FixChecksum computes the transport checksum of the whole packet, which must be in Buf and unfragmented.
func (p *Packet) FixChecksum() {
	off := csumOffset(p.Proto)
	if !p.HasL4 || off < 0 {
		return
	}
	b := p.Buf[p.L4:]
	b[off], b[off+1] = 0, 0
	sum := ^Sum(b, p.pseudoFor(len(b)))
	if sum == 0 && p.Proto == ProtoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[off:], sum)
}

// ChecksumOK verifies the transport checksum of a whole, unfragmented TCP, UDP or ICMP packet. A UDP/IPv4 checksum
// of zero means that there is none and is fine.
func (p *Packet) ChecksumOK() bool {
	off := csumOffset(p.Proto)
	if !p.HasL4 || off < 0 {
		return false
	}
	b := p.Buf[p.L4:]
	if p.Proto == ProtoUDP && p.Version == 4 && b[6] == 0 && b[7] == 0 {
		return true
	}
	return Sum(b, p.pseudoFor(len(b))) == 0xffff
}

func (p *Packet) pseudoFor(length int) uint16 {
	if p.Proto == ProtoICMP {
		return 0
	}
	return p.PseudoSum(length)
}
