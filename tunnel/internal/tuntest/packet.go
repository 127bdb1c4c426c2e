// Package tuntest has test packets, a fake kernel and a slow segmentation for the tests of the tunnel's packages.
package tuntest

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/limits"
)

// Spec describes a test packet.
type Spec struct {
	Src, Dst    string // "10.0.0.1:80" or "[fd00::1]:80"
	Proto       uint8
	Flags       uint8
	Seq, Ack    uint32
	ID          uint16
	DF          bool
	TTL, TOS    uint8
	Window      uint16
	Opts        []byte
	Payload     []byte
	NoUDPSum    bool
	BadChecksum bool
	IPOptions   []byte
}

// Bytes returns the packet with complete checksums.
func (s Spec) Bytes() []byte {
	src, dst := netip.MustParseAddrPort(s.Src), netip.MustParseAddrPort(s.Dst)
	l4 := s.transport(src.Port(), dst.Port())
	b := append(s.ip(src.Addr(), dst.Addr(), len(l4)), l4...)
	var p packet.Packet
	if f := p.Parse(b); f != packet.OK {
		panic(f)
	}
	p.FixIPChecksum()
	p.FixChecksum()
	if s.NoUDPSum {
		p.Buf[p.L4+6], p.Buf[p.L4+7] = 0, 0
	}
	if s.BadChecksum {
		p.Buf[len(p.Buf)-1] ^= 0xff
	}
	return b
}

func (s Spec) transport(sport, dport uint16) []byte {
	if s.Proto == packet.ProtoUDP {
		b := binary.BigEndian.AppendUint16(nil, sport)
		b = binary.BigEndian.AppendUint16(b, dport)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(s.Payload)))
		return append(append(b, 0, 0), s.Payload...)
	}
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint32(b, s.Seq)
	b = binary.BigEndian.AppendUint32(b, s.Ack)
	b = append(b, byte(20+len(s.Opts))/4<<4, s.Flags)
	b = binary.BigEndian.AppendUint16(b, s.Window)
	b = append(b, 0, 0, 0, 0)
	return append(append(b, s.Opts...), s.Payload...)
}

func (s Spec) ip(src, dst netip.Addr, size int) []byte {
	ttl := s.TTL
	if ttl == 0 {
		ttl = 64
	}
	if src.Is4() {
		head := 20 + len(s.IPOptions)
		b := []byte{0x40 | byte(head/4), s.TOS}
		b = binary.BigEndian.AppendUint16(b, uint16(head+size))
		b = binary.BigEndian.AppendUint16(b, s.ID)
		off := uint16(0)
		if s.DF {
			off = 0x4000
		}
		b = binary.BigEndian.AppendUint16(b, off)
		b = append(b, ttl, s.Proto, 0, 0)
		b = append(b, src.AsSlice()...)
		b = append(b, dst.AsSlice()...)
		return append(b, s.IPOptions...)
	}
	b := []byte{0x60 | s.TOS>>4, s.TOS << 4, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, s.Proto, ttl)
	b = append(b, src.AsSlice()...)
	return append(b, dst.AsSlice()...)
}

// Super returns a super-packet as a kernel passes it: one header, a partial checksum, a virtio header.
func (s Spec) Super(chunk int) (packet.Vnet, []byte) {
	b := s.Bytes()
	var p packet.Packet
	p.Parse(b)
	v := packet.Vnet{Flags: packet.NeedsCsum, GSOSize: uint16(chunk), HdrLen: uint16(p.HeaderLen()), CsumStart: uint16(p.L4)}
	switch {
	case s.Proto == packet.ProtoUDP:
		v.GSOType, v.CsumOffset = packet.GSOUDPL4, 6
	case p.Version == 4:
		v.GSOType, v.CsumOffset = packet.GSOTCPv4, 16
	default:
		v.GSOType, v.CsumOffset = packet.GSOTCPv6, 16
	}
	if s.Flags&packet.CWR != 0 {
		v.GSOType |= packet.GSOECN
	}
	binary.BigEndian.PutUint16(b[p.L4+int(v.CsumOffset):], p.PseudoSum(len(b)-p.L4))
	return v, b
}

// Pattern returns n bytes that differ from each other.
func Pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

var ends = map[uint8][2]string{4: {"10.42.0.9:4242", "10.42.1.7:80"}, 6: {"[fd42::9]:4242", "[fd42:0:0:1::7]:80"}}

// TCP returns a data segment of the family.
func TCP(version uint8, seq uint32, payload []byte) Spec {
	return Spec{Src: ends[version][0], Dst: ends[version][1], Proto: packet.ProtoTCP, Flags: packet.ACK, Seq: seq, Ack: 77,
		Window: 512, DF: true, Opts: []byte{1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8}, Payload: payload}
}

// UDP returns a datagram of the family.
func UDP(version uint8, id uint16, payload []byte) Spec {
	return Spec{Src: ends[version][0], Dst: ends[version][1], Proto: packet.ProtoUDP, ID: id, Payload: payload}
}

// Segments is an independent, slow segmentation: it builds each segment from the description, field by field.
func (s Spec) Segments(chunk int) (out [][]byte) {
	for i, off := uint16(0), 0; off < len(s.Payload); i, off = i+1, off+chunk {
		t := s
		end := min(off+chunk, len(s.Payload))
		t.Payload, t.ID, t.Seq = s.Payload[off:end], s.ID+i, s.Seq+uint32(off)
		if end < len(s.Payload) {
			t.Flags &^= packet.FIN | packet.PSH
		}
		if off > 0 {
			t.Flags &^= packet.CWR
		}
		out = append(out, t.Bytes())
	}
	return out
}

// Same reports whether both lists have the same packets in the same order.
func Same(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// Buffers returns n buffers for a Read or a receive function, and their sizes.
func Buffers(n int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, limits.MaxPacket)
	}
	return bufs, make([]int, n)
}
