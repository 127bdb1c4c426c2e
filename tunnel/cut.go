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
	whole   bool // the packet is its own only segment
	pieces  bool // fragments instead of segments
	gap     int  // bytes of an IPv6 fragment header between the repeated ones and the payload
	fragOff uint16
	ipSum   uint32 // of what all IPv4 headers have in common
	l4Sum   uint32 // of what all transport headers have in common, addresses and protocol included
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
	c.startIP()
	t := p.Buf[p.L4:c.head]
	c.l4Sum = uint32(p.PseudoSum(0)) + uint32(packet.Sum(t, 0))
	if p.Proto == packet.ProtoTCP {
		c.seq, c.flags = binary.BigEndian.Uint32(t[4:]), t[13]
		c.l4Sum += without(t, 4, 6, 16) + uint32(^uint16(c.flags))
	} else {
		c.l4Sum += without(t, 4, 6)
	}
}

// A checksum is never computed from a header that was just written: the processor has the new fields in its store buffer,
// behind a whole segment on its way to memory that is not in the cache, and a load that spans several of them waits for
// all of it. That took half of the time of all checksums, a fifth of that of the cut. So the part that does not change is
// summed once, from the original, and the fields are added as numbers.

// startIP prepares what ip needs.
func (c *cutter) startIP() {
	if c.p.Version == 4 {
		h := c.p.Buf[:int(c.p.Buf[0]&15)*4]
		c.id, c.fragOff = binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:])
		c.ipSum = uint32(packet.Sum(h, 0)) + without(h, 2, 4, 6, 10)
	}
}

// without takes the 16-bit fields at those places out of b's sum, when it is added to it.
func without(b []byte, at ...int) (sum uint32) {
	for _, i := range at {
		sum += uint32(^binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}

// fold makes a ones' complement sum of up to 65,536 words one word.
func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
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
	*c = cutter{p: p, head: head, size: (mtu - head) &^ 7, end: len(p.Buf) - head, pieces: true}
	c.startIP()
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
	payload := c.p.Buf[c.head+c.off : c.head+c.off+n]
	copy(dst, c.p.Buf[:c.head])
	copy(dst[c.head+c.gap:], payload)
	last := c.off+n >= c.end
	c.ip(dst, total, last)
	if !c.pieces {
		c.transport(dst[c.p.L4:], payload, last)
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
	id, off := c.id+c.index, c.fragOff
	if c.pieces {
		id, off = c.id, c.fragOff+uint16(c.off/8)
		if !last {
			off |= 0x2000
		}
	}
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], off)
	binary.BigEndian.PutUint16(b[10:], ^fold(c.ipSum+uint32(total)+uint32(id)+uint32(off)))
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
// (RFC 3168 6.1.2), and writes the checksum over t, the transport header and a copy of payload.
func (c *cutter) transport(t, payload []byte, last bool) {
	length := uint32(len(t))
	if c.p.Proto != packet.ProtoTCP {
		binary.BigEndian.PutUint16(t[4:], uint16(length))
		sum := ^packet.Sum(payload, fold(c.l4Sum+2*length)) // once in the header, once beside the addresses
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(t[6:], sum)
		return
	}
	seq, flags := c.seq+uint32(c.off), c.flags
	if !last {
		flags &^= packet.FIN | packet.PSH
	}
	if c.index > 0 {
		flags &^= packet.CWR
	}
	binary.BigEndian.PutUint32(t[4:], seq)
	t[13] = flags
	sum := c.l4Sum + length + seq>>16 + seq&0xffff + uint32(flags)
	binary.BigEndian.PutUint16(t[16:], ^packet.Sum(payload, fold(sum)))
}
