package tundev

import (
	"bytes"
	"encoding/binary"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/limits"
)

// Coalescing (GRO): segments of one flow in one batch from a peer become one super-packet again, so that the hook and the kernel
// process one packet for up to 64 KB. Payloads stay in the buffers of the WireGuard device; only the first segment's header is
// rewritten, and writev gathers the payloads. Segmentation of a super-packet gives exactly the segments that were coalesced: every
// condition here follows from that rule, and the fuzz test checks it.

// none ends a chain of segments.
const none = int16(-1)

// group is one packet to write: the first segment's headers and the chain of all payloads.
type group struct {
	pkt   packet.Packet
	hash  uint32
	seq   uint32 // TCP sequence number that continues the group
	size  int    // payload of each segment but the last
	total int    // IP length of the super-packet
	count int    // segments
	id    uint16 // IPv4 identification of the last segment
	first int16  // index of the first segment in the batch
	last  int16  // index of the last segment in the batch
	open  bool   // more segments may be appended
	push  bool   // a segment carried PSH
}

// coalescer collects the groups of one batch. It is reused; nothing is allocated per packet.
type coalescer struct {
	groups []group
	hashes []uint32
	next   [limits.MaxBatch]int16  // the next segment of the same group
	tail   [limits.MaxBatch][]byte // payload of each segment after the first
	tcp    bool                    // TCP segments may be coalesced
	udp    bool
}

func (j *coalescer) reset(tcp, udp bool) {
	clear(j.groups)
	clear(j.tail[:])
	j.groups, j.hashes, j.tcp, j.udp = j.groups[:0], j.hashes[:0], tcp, udp
}

// add parses segment i of the batch and adds it to a group.
func (j *coalescer) add(i int, b []byte) packet.Fault {
	n := len(j.groups)
	if n < cap(j.groups) {
		j.groups = j.groups[:n+1]
	} else {
		j.groups = append(j.groups, group{})
	}
	g := &j.groups[n]
	*g = group{}
	if fault := g.pkt.Parse(b); fault != packet.OK {
		j.groups = j.groups[:n]
		return fault
	}
	p := &g.pkt
	flow := p.HasL4 && (p.Proto == packet.ProtoTCP || p.Proto == packet.ProtoUDP) && !p.Fragment()
	if flow {
		g.hash = flowHash(p)
	}
	g.first, g.last, g.count, g.total = int16(i), int16(i), 1, p.Length
	j.next[i] = none
	if flow {
		payload := p.Length - p.HeaderLen()
		coalescible := payload > 0 && j.coalescible(p)
		if at := j.find(g); at >= 0 {
			if coalescible && j.append(&j.groups[at], g, i, payload) {
				j.groups = j.groups[:n]
				return packet.OK
			}
			j.groups[at].open = false // later segments of the flow must not overtake this one
		}
		g.open = coalescible && p.TCPFlags&packet.PSH == 0
		g.size, g.push = payload, p.TCPFlags&packet.PSH != 0
		g.id = uint16(p.FragID)
		if p.Proto == packet.ProtoTCP {
			g.seq = binary.BigEndian.Uint32(b[p.L4+4:]) + uint32(payload)
		}
	}
	j.hashes = append(j.hashes, g.hash)
	return packet.OK
}

// coalescible reports whether a segment may be part of a super-packet at all.
func (j *coalescer) coalescible(p *packet.Packet) bool {
	if p.Version == 4 && p.Buf[0] != 0x45 || p.Version == 6 && p.L4 != 40 {
		return false // IP options and extension headers are repeated differently by different kernels
	}
	if p.Proto == packet.ProtoTCP {
		return j.tcp && p.TCPFlags&^(packet.PSH|packet.ECE) == packet.ACK && p.ChecksumOK()
	}
	t := p.Buf[p.L4:]
	return j.udp && (t[6] != 0 || t[7] != 0) && int(binary.BigEndian.Uint16(t[4:])) == len(t) && p.ChecksumOK()
}

// flowHash need not be strong: it avoids comparisons within a batch.
func flowHash(p *packet.Packet) uint32 {
	h := uint32(p.SrcPort)<<16 | uint32(p.DstPort)
	b := p.Buf[8:]
	if p.Version == 4 {
		b = p.Buf[12:20]
	} else {
		b = b[:32]
	}
	for i := 0; i+4 <= len(b); i += 4 {
		h = h*0x9e3779b1 ^ binary.LittleEndian.Uint32(b[i:])
	}
	return (h*0x9e3779b1 ^ uint32(p.Proto)) | 1
}

// find returns the newest group of the same flow if it is open, or -1.
func (j *coalescer) find(g *group) int {
	for i := len(j.hashes) - 1; i >= 0; i-- {
		if j.hashes[i] != g.hash {
			continue
		}
		if p := &j.groups[i].pkt; p.Proto == g.pkt.Proto && p.SrcPort == g.pkt.SrcPort && p.DstPort == g.pkt.DstPort &&
			p.Src == g.pkt.Src && p.Dst == g.pkt.Dst {
			if j.groups[i].open {
				return i
			}
			return -1
		}
	}
	return -1
}

// append adds segment i to the group if segmentation of the group gives exactly its segments.
func (j *coalescer) append(to, s *group, i, payload int) bool {
	p := &s.pkt
	if payload > to.size || to.count >= limits.MaxSegments || to.total+payload > limits.MaxPacket || !sameHeaders(&to.pkt, p) {
		return false
	}
	if p.Version == 4 && uint16(p.FragID) != to.id+1 && !(p.DontFrag && p.FragID == 0 && to.id == 0) {
		return false // the one exception: identifications that are all 0 have no meaning under DF (RFC 6864)
	}
	if p.Proto == packet.ProtoTCP {
		if binary.BigEndian.Uint32(p.Buf[p.L4+4:]) != to.seq {
			return false
		}
		to.push = p.TCPFlags&packet.PSH != 0
	}
	j.next[to.last], to.last = int16(i), int16(i)
	j.tail[i] = p.Buf[p.HeaderLen():]
	to.count++
	to.total += payload
	to.seq += uint32(payload)
	to.id = uint16(p.FragID)
	to.open = payload == to.size && !to.push
	return true
}

// sameHeaders compares all fields that segments of a super-packet share: all but lengths, identification, checksums, sequence
// number and PSH.
func sameHeaders(a, b *packet.Packet) bool {
	x, y := a.Buf, b.Buf
	if a.Version == 4 {
		if x[1] != y[1] || x[6] != y[6] || x[7] != y[7] || x[8] != y[8] {
			return false
		}
	} else if !bytes.Equal(x[:4], y[:4]) || x[7] != y[7] {
		return false
	}
	if a.Proto == packet.ProtoUDP {
		return true
	}
	x, y = x[a.L4:], y[b.L4:]
	return bytes.Equal(x[8:13], y[8:13]) && (x[13]^y[13])&^packet.PSH == 0 && // acknowledgement, data offset, flags
		bytes.Equal(x[14:16], y[14:16]) && // window
		bytes.Equal(x[20:a.HeaderLen()-a.L4], y[20:b.HeaderLen()-b.L4]) // options
}

// finish turns a group of several segments into a super-packet.
func (g *group) finish() {
	if g.count == 1 {
		return
	}
	p := &g.pkt
	b := p.Buf
	p.Length = g.total
	if p.Version == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(g.total))
		p.FixIPChecksum()
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(g.total-40))
	}
	t := b[p.L4:]
	p.Vnet = packet.Vnet{Flags: packet.NeedsCsum, GSOSize: uint16(g.size), HdrLen: uint16(p.HeaderLen()), CsumStart: uint16(p.L4)}
	if p.Proto == packet.ProtoTCP {
		p.Vnet.GSOType, p.Vnet.CsumOffset = packet.GSOTCPv4, 16
		if p.Version == 6 {
			p.Vnet.GSOType = packet.GSOTCPv6
		}
		if g.push {
			t[13] |= packet.PSH
			p.TCPFlags |= packet.PSH
		}
	} else {
		p.Vnet.GSOType, p.Vnet.CsumOffset = packet.GSOUDPL4, 6
		binary.BigEndian.PutUint16(t[4:], uint16(g.total-p.L4))
	}
	binary.BigEndian.PutUint16(t[p.Vnet.CsumOffset:], p.PseudoSum(g.total-p.L4))
}
