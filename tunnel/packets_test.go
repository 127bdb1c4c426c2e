package tunnel

import (
	"encoding/binary"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// spec describes a test packet; bytes makes it with complete checksums.
type spec struct {
	src, dst    string // "10.0.0.1:80" or "[fd00::1]:80"
	proto       uint8
	flags       uint8
	seq, ack    uint32
	id          uint16
	df          bool
	ttl, tos    uint8
	window      uint16
	opts        []byte
	payload     []byte
	noUDPSum    bool
	badChecksum bool
	ipOptions   []byte
}

func (s spec) bytes() []byte {
	src, dst := netip.MustParseAddrPort(s.src), netip.MustParseAddrPort(s.dst)
	l4 := s.transport(src.Port(), dst.Port())
	b := append(s.ip(src.Addr(), dst.Addr(), len(l4)), l4...)
	var p packet.Packet
	if f := p.Parse(b); f != packet.OK {
		panic(f)
	}
	p.FixIPChecksum()
	p.FixChecksum()
	if s.noUDPSum {
		p.Buf[p.L4+6], p.Buf[p.L4+7] = 0, 0
	}
	if s.badChecksum {
		p.Buf[len(p.Buf)-1] ^= 0xff
	}
	return b
}

func (s spec) transport(sport, dport uint16) []byte {
	if s.proto == packet.ProtoUDP {
		b := binary.BigEndian.AppendUint16(nil, sport)
		b = binary.BigEndian.AppendUint16(b, dport)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(s.payload)))
		return append(append(b, 0, 0), s.payload...)
	}
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	b = append(b, byte(20+len(s.opts))/4<<4, s.flags)
	b = binary.BigEndian.AppendUint16(b, s.window)
	b = append(b, 0, 0, 0, 0)
	return append(append(b, s.opts...), s.payload...)
}

func (s spec) ip(src, dst netip.Addr, size int) []byte {
	ttl := s.ttl
	if ttl == 0 {
		ttl = 64
	}
	if src.Is4() {
		head := 20 + len(s.ipOptions)
		b := []byte{0x40 | byte(head/4), s.tos}
		b = binary.BigEndian.AppendUint16(b, uint16(head+size))
		b = binary.BigEndian.AppendUint16(b, s.id)
		off := uint16(0)
		if s.df {
			off = 0x4000
		}
		b = binary.BigEndian.AppendUint16(b, off)
		b = append(b, ttl, s.proto, 0, 0)
		b = append(b, src.AsSlice()...)
		b = append(b, dst.AsSlice()...)
		return append(b, s.ipOptions...)
	}
	b := []byte{0x60 | s.tos>>4, s.tos << 4, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, s.proto, ttl)
	b = append(b, src.AsSlice()...)
	return append(b, dst.AsSlice()...)
}

// super makes a super-packet as a kernel gives it: one header, a partial checksum, a virtio header.
func (s spec) super(chunk int) (packet.Vnet, []byte) {
	b := s.bytes()
	var p packet.Packet
	p.Parse(b)
	v := packet.Vnet{Flags: packet.NeedsCsum, GSOSize: uint16(chunk), HdrLen: uint16(p.HeaderLen()), CsumStart: uint16(p.L4)}
	switch {
	case s.proto == packet.ProtoUDP:
		v.GSOType, v.CsumOffset = packet.GSOUDPL4, 6
	case p.Version == 4:
		v.GSOType, v.CsumOffset = packet.GSOTCPv4, 16
	default:
		v.GSOType, v.CsumOffset = packet.GSOTCPv6, 16
	}
	if s.flags&packet.CWR != 0 {
		v.GSOType |= packet.GSOECN
	}
	binary.BigEndian.PutUint16(b[p.L4+int(v.CsumOffset):], p.PseudoSum(len(b)-p.L4))
	return v, b
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

var ends = map[uint8][2]string{4: {"10.42.0.9:4242", "10.42.1.7:80"}, 6: {"[fd42::9]:4242", "[fd42:0:0:1::7]:80"}}

// tcpSpec is a data segment of the family.
func tcpSpec(version uint8, seq uint32, payload []byte) spec {
	return spec{src: ends[version][0], dst: ends[version][1], proto: packet.ProtoTCP, flags: packet.ACK, seq: seq, ack: 77,
		window: 512, df: true, opts: []byte{1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8}, payload: payload}
}

func udpSpec(version uint8, id uint16, payload []byte) spec {
	return spec{src: ends[version][0], dst: ends[version][1], proto: packet.ProtoUDP, id: id, payload: payload}
}
