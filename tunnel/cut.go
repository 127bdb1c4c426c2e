package tunnel

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/warrennet/warren/internal/packet"
)

// cutter turns a packet into the segments that go on the wire, one per call, straight into the caller's buffers.
// It can stop after any segment and go on later: the engine drops what does not fit into one Read, so the rest is
// carried over to the next. The packet must stay as it is until more reports false.
type cutter struct {
	p       *packet.Packet
	head    int // bytes repeated in front of each segment
	size    int // payload bytes per segment
	off     int // payload bytes done
	end     int // payload bytes in all
	index   uint16
	id      uint16 // IPv4 identification of the first segment
	seq     uint32 // for IPv6 fragments the identification
	flags   uint8
	whole   bool   // the packet is its own only segment
	pieces  bool   // fragments instead of segments
	gap     int    // bytes of an IPv6 fragment header between the repeated ones and the payload
	addrs   uint16 // sum over addresses and protocol, without the length
	fragOff uint16
}

// start takes a parsed packet. size is the payload per segment; 0 means the packet goes as it is.
func (c *cutter) start(p *packet.Packet, size int) {
	*c = cutter{p: p, end: len(p.Buf)}
	if size <= 0 {
		c.whole = true
		p.CompleteChecksum()
		return
	}
	c.head, c.size = p.HeaderLen(), size
	c.end = len(p.Buf) - c.head
	c.addrs = p.PseudoSum(0)
	if p.Version == 4 {
		c.id = binary.BigEndian.Uint16(p.Buf[4:])
	}
	if p.Proto == packet.ProtoTCP {
		c.seq, c.flags = binary.BigEndian.Uint32(p.Buf[p.L4+4:]), p.Buf[p.L4+13]
	}
}

// The extension header that each IPv6 fragment has (RFC 8200 section 4.5).
const (
	protoFragment  = 44
	fragmentHeader = 8 // bytes
)

// startFragments takes a packet that may be fragmented and cuts it to at most mtu bytes each. An IPv6 packet is one that was put
// together here and has no extension headers.
func (c *cutter) startFragments(p *packet.Packet, mtu int) {
	p.CompleteChecksum()
	if p.Version == 6 {
		*c = cutter{p: p, head: 40, gap: fragmentHeader, size: (mtu - 40 - fragmentHeader) &^ 7, end: len(p.Buf) - 40,
			pieces: true, seq: rand.Uint32()}
		return
	}
	head := int(p.Buf[0]&15) * 4
	*c = cutter{p: p, head: head, size: (mtu - head) &^ 7, end: len(p.Buf) - head, pieces: true,
		fragOff: binary.BigEndian.Uint16(p.Buf[6:])}
}

func (c *cutter) more() bool { return c.p != nil }

func (c *cutter) stop() { c.p = nil }

// next writes one segment into dst and returns its length. A segment that does not fit ends the packet with 0.
func (c *cutter) next(dst []byte) int {
	if c.whole {
		n := copy(dst, c.p.Buf)
		short := n < len(c.p.Buf)
		c.stop()
		if short {
			return 0
		}
		return n
	}
	n := min(c.size, c.end-c.off)
	total := c.head + c.gap + n
	if total > len(dst) {
		c.stop()
		return 0
	}
	dst = dst[:total]
	copy(dst, c.p.Buf[:c.head])
	copy(dst[c.head+c.gap:], c.p.Buf[c.head+c.off:c.head+c.off+n])
	last := c.off+n >= c.end
	c.ip(dst, total, last)
	if !c.pieces {
		c.transport(dst, last)
	}
	c.off += n
	c.index++
	if last {
		c.stop()
	}
	return total
}

// ip gives the segment its length and, for IPv4, its own identification or fragment offset.
func (c *cutter) ip(b []byte, total int, last bool) {
	if c.p.Version == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(total-40))
		if c.pieces {
			c.fragmentHeader(b[40:], last)
			b[6] = protoFragment
		}
		return
	}
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	if c.pieces {
		off := c.fragOff + uint16(c.off/8)
		if !last {
			off |= 0x2000
		}
		binary.BigEndian.PutUint16(b[6:], off)
	} else {
		binary.BigEndian.PutUint16(b[4:], c.id+c.index)
	}
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^packet.Sum(b[:int(b[0]&15)*4], 0))
}

// fragmentHeader writes the extension header of an IPv6 fragment.
func (c *cutter) fragmentHeader(h []byte, last bool) {
	off := uint16(c.off)
	if !last {
		off |= 1
	}
	h[0], h[1] = c.p.Buf[6], 0
	binary.BigEndian.PutUint16(h[2:], off)
	binary.BigEndian.PutUint32(h[4:], c.seq)
}

// transport advances the sequence number, keeps FIN and PSH for the last segment and CWR for the first
// (RFC 3168 6.1.2), and sums.
func (c *cutter) transport(b []byte, last bool) {
	t := b[c.p.L4:]
	at := 16
	if c.p.Proto == packet.ProtoTCP {
		binary.BigEndian.PutUint32(t[4:], c.seq+uint32(c.off))
		flags := c.flags
		if !last {
			flags &^= packet.FIN | packet.PSH
		}
		if c.index > 0 {
			flags &^= packet.CWR
		}
		t[13] = flags
	} else {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
		at = 6
	}
	t[at], t[at+1] = 0, 0
	sum := uint32(c.addrs) + uint32(len(t))
	sum16 := ^packet.Sum(t, uint16(sum>>16+sum&0xffff))
	if sum16 == 0 && at == 6 {
		sum16 = 0xffff
	}
	binary.BigEndian.PutUint16(t[at:], sum16)
}
