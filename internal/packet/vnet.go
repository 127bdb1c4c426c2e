package packet

import "encoding/binary"

// VnetLen is the size in bytes of struct virtio_net_hdr without the num_buffers field.
const VnetLen = 10

// Vnet.Flags and Vnet.GSOType values (virtio 1.2, section 5.1.6).
const (
	NeedsCsum = 1 // the checksum at CsumStart+CsumOffset holds the pseudo-header's sum only
	DataValid = 2

	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDPL4 = 5
	GSOECN   = 0x80 // or'ed to a TCP type: the first segment carries CWR
)

// Vnet is the virtio-net header in front of a packet on a TUN device.
type Vnet struct {
	Flags, GSOType        uint8
	HdrLen, GSOSize       uint16
	CsumStart, CsumOffset uint16
}

// Decode reads the header from the first VnetLen bytes of b, in the machine's byte order as a TUN device writes it.
func (v *Vnet) Decode(b []byte) {
	_ = b[VnetLen-1]
	v.Flags, v.GSOType = b[0], b[1]
	v.HdrLen = binary.NativeEndian.Uint16(b[2:])
	v.GSOSize = binary.NativeEndian.Uint16(b[4:])
	v.CsumStart = binary.NativeEndian.Uint16(b[6:])
	v.CsumOffset = binary.NativeEndian.Uint16(b[8:])
}

// Encode writes the header into the first VnetLen bytes of b.
func (v *Vnet) Encode(b []byte) {
	_ = b[VnetLen-1]
	b[0], b[1] = v.Flags, v.GSOType
	binary.NativeEndian.PutUint16(b[2:], v.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], v.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], v.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], v.CsumOffset)
}

// Super reports whether the packet stands for several segments.
func (p *Packet) Super() bool { return p.Vnet.GSOType&^GSOECN != GSONone }

// Partial reports whether the transport checksum is only the sum of the pseudo-header, uncomplemented. Segmentation or the
// sending device completes it over header and payload.
func (p *Packet) Partial() bool {
	return p.Vnet.Flags&NeedsCsum != 0 && p.HasL4 &&
		int(p.Vnet.CsumStart) == p.L4 && int(p.Vnet.CsumOffset) == csumOffset(p.Proto)
}

// FixVnet recomputes the fields of the header that depend on the packet. The HdrLen that the kernel sets must not be
// written back: for forwarded packets it may be as long as the first segment.
func (p *Packet) FixVnet() {
	if p.Super() || p.Vnet.Flags&NeedsCsum != 0 {
		if n := p.HeaderLen(); n != 0 {
			p.Vnet.HdrLen = uint16(n)
		}
	}
}

// VnetFault reports whether the virtio-net header is consistent with the packet: offsets inside of it, type and protocol
// equal. Parse must have succeeded.
func (p *Packet) VnetFault() Fault {
	v := &p.Vnet
	if v.Flags&NeedsCsum != 0 && int(v.CsumStart)+int(v.CsumOffset)+2 > len(p.Buf) {
		return BadVnet
	}
	var proto uint8
	switch v.GSOType &^ GSOECN {
	case GSONone:
		return OK
	case GSOTCPv4, GSOTCPv6:
		proto = ProtoTCP
		if (v.GSOType&^GSOECN == GSOTCPv4) != (p.Version == 4) {
			return BadVnet
		}
	case GSOUDPL4:
		proto = ProtoUDP
	default:
		return BadVnet
	}
	if !p.HasL4 || p.Proto != proto || v.GSOSize == 0 || !p.Partial() || p.Fragment() || p.HeaderLen() >= p.Length {
		return BadVnet
	}
	return OK
}
