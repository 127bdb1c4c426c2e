package tundev

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/warrennet/warren/internal/packet"
)

// Segmenter cuts a packet into segments or fragments, one per call of Next, directly into the caller's buffers (GSO). It can stop
// after any segment and continue later: the WireGuard device takes a limited number per Read, so the remaining segments are
// returned by the next Read. The packet must not change until More reports false.
type Segmenter struct {
	p       *packet.Packet
	head    int // bytes repeated in front of each segment
	size    int // payload bytes per segment
	off     int // payload bytes done
	end     int // payload bytes in all
	index   uint16
	id      uint16 // IPv4 identification of the first segment
	seq     uint32 // for IPv6 fragments the identification
	flags   uint8
	single  bool // the packet is its own only segment
	frags   bool // fragments instead of segments
	gap     int  // bytes of an IPv6 fragment header between the repeated headers and the payload
	fragOff uint16
	ipSum   uint32 // of the fields that all IPv4 headers share
	l4Sum   uint32 // of the fields that all transport headers share, addresses and protocol included
}

// Start begins with a parsed packet. size is the payload per segment in bytes; 0: the packet is its only segment.
func (c *Segmenter) Start(p *packet.Packet, size int) {
	*c = Segmenter{p: p, end: len(p.Buf)}
	if size <= 0 {
		c.single = true
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

// A checksum is never computed from a header that was just written. The processor has the new fields in its store buffer, behind a
// segment that it still writes to uncached memory, and a load that spans several of those fields waits for all of it. That took half
// of the time of all checksums, a fifth of the time of segmentation. So the constant part is summed once, from the original, and
// the fields are added as numbers.

// startIP prepares the sums and fields that ip uses.
func (c *Segmenter) startIP() {
	if c.p.Version == 4 {
		h := c.p.Buf[:int(c.p.Buf[0]&15)*4]
		c.id, c.fragOff = binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:])
		c.ipSum = uint32(packet.Sum(h, 0)) + without(h, 2, 4, 6, 10)
	}
}

// without returns a value that removes the 16-bit fields at those offsets from the sum of b when it is added.
func without(b []byte, at ...int) (sum uint32) {
	for _, i := range at {
		sum += uint32(^binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}

// fold reduces a ones' complement sum of up to 65,536 words to one word.
func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}

// The extension header that each IPv6 fragment has (RFC 8200 section 4.5).
const (
	protoFragment  = 44
	fragmentHeader = 8 // bytes
)

// StartFragments begins with a packet that may be fragmented, into fragments of at most mtu bytes. An IPv6 packet is one that the
// balancer has reassembled; it has no extension headers.
func (c *Segmenter) StartFragments(p *packet.Packet, mtu int) {
	p.CompleteChecksum()
	if p.Version == 6 {
		*c = Segmenter{p: p, head: 40, gap: fragmentHeader, size: (mtu - 40 - fragmentHeader) &^ 7, end: len(p.Buf) - 40,
			frags: true, seq: rand.Uint32()}
		return
	}
	head := int(p.Buf[0]&15) * 4
	*c = Segmenter{p: p, head: head, size: (mtu - head) &^ 7, end: len(p.Buf) - head, frags: true}
	c.startIP()
}

// More reports whether Next has another segment.
func (c *Segmenter) More() bool { return c.p != nil }

func (c *Segmenter) stop() { c.p = nil }

// Next writes one segment to dst and returns its length. A segment that does not fit ends the packet with 0.
func (c *Segmenter) Next(dst []byte) int {
	if c.single {
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
	if !c.frags {
		c.transport(dst[c.p.L4:], payload, last)
	}
	c.off += n
	c.index++
	if last {
		c.stop()
	}
	return total
}

// ip sets the length of the segment and, for IPv4, its identification or fragment offset.
func (c *Segmenter) ip(b []byte, total int, last bool) {
	if c.p.Version == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(total-40))
		if c.frags {
			c.fragmentHeader(b[40:], last)
			b[6] = protoFragment
		}
		return
	}
	id, off := c.id+c.index, c.fragOff
	if c.frags {
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
func (c *Segmenter) fragmentHeader(h []byte, last bool) {
	off := uint16(c.off)
	if !last {
		off |= 1
	}
	h[0], h[1] = c.p.Buf[6], 0
	binary.BigEndian.PutUint16(h[2:], off)
	binary.BigEndian.PutUint32(h[4:], c.seq)
}

// transport advances the sequence number, keeps FIN and PSH for the last segment and CWR for the first (RFC 3168 section 6.1.2),
// and writes the checksum over t, which is the transport header with a copy of payload.
func (c *Segmenter) transport(t, payload []byte, last bool) {
	length := uint32(len(t))
	if c.p.Proto != packet.ProtoTCP {
		binary.BigEndian.PutUint16(t[4:], uint16(length))
		sum := ^packet.Sum(payload, fold(c.l4Sum+2*length)) // once in the header, once in the pseudo-header
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
