package conntrack

import (
	"hash/crc32"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/warrennet/warren/internal/packet"
)

// Entry is one flow as it lies in the flow file: no pointers, the same in every process. The two tuples are the whole
// translation. They, proto, flags and created are written before the entry is linked and never change while it is;
// check covers them. The atomic fields change with every packet. The fields of the index have no meaning in the next
// process. Times are seconds of CLOCK_BOOTTIME.
type Entry struct {
	tuples  [2]Tuple // Original: client to Service, as sent; Reply: backend to translated client, as received
	proto   uint8
	flags   Flags
	client  Client // written before the entry is linked
	check   uint32
	created uint32
	seen    atomic.Uint32
	status  atomic.Uint32    // a Status
	gen     atomic.Uint32    // generation of the table of Services that has last confirmed the flow
	sent    [2]atomic.Uint32 // sequence number after the newest TCP data of each direction; 0: unknown
	acks    [2]atomic.Uint32 // newest TCP acknowledgement of each direction; 0: unknown
	next    [2]uint32        // index chains, guarded by their shards
	traffic [2]traffic       // of each direction since TakeCounters, guarded likewise
}

// traffic counts packets in its highest byte and their bytes below it.
type traffic uint32

const (
	onePacket = 1 << 24
	byteMask  = onePacket - 1
)

func (c traffic) packets() uint32 { return uint32(c) / onePacket }
func (c traffic) bytes() uint32   { return uint32(c) & byteMask }

// halfFull is early enough: one more packet has fewer than 2^17 bytes.
func (c traffic) halfFull() bool { return c.packets() >= 1<<7 || c.bytes() >= 1<<23 }

const entrySize = unsafe.Sizeof(Entry{})

// maxEntrySize is two cache lines: a million flows take 128 MiB. The next line does not compile if an Entry is larger.
const maxEntrySize = 128

const _ = uint(maxEntrySize - entrySize)

// Flags are how a flow is translated and which backends it may have.
type Flags uint8

// The flags. They are stored in the flow file: their values are part of its layout.
const (
	FlagMasquerade Flags = 1 << iota // egress of a Pod to an external network; there is no Service
	FlagOutside                      // the client is outside of the cluster: the external pool applies
	FlagSNAT                         // the backend sees the node's SNAT address
	FlagNodeSource                   // the backend sees a node address, with a masquerade port
	allFlags       = 1<<iota - 1
)

var checkTable = crc32.MakeTable(crc32.Castagnoli)

// checkSalt makes the checksum of an entry differ from a plain CRC-32C of the same bytes, so that only memory that this
// program has written as an entry passes. The value is arbitrary. Another value makes every existing flow file
// unreadable, like another layoutVersion.
const checkSalt = 0x57a99e2d

// checksum computes what check must be.
func (e *Entry) checksum() uint32 {
	c := crc32.Update(e.created, checkTable, unsafe.Slice((*byte)(unsafe.Pointer(&e.tuples)), unsafe.Sizeof(e.tuples)))
	return c ^ uint32(e.proto)<<8 ^ uint32(e.flags) ^ checkSalt
}

func (e *Entry) key(d Direction) Key { return Key{Tuple: e.tuples[d], Proto: e.proto} }

// Tuple returns the tuple of one direction.
func (e *Entry) Tuple(d Direction) Tuple { return e.tuples[d] }

// Tuples returns both tuples.
func (e *Entry) Tuples() [2]Tuple { return e.tuples }

// Proto returns the IP protocol number.
func (e *Entry) Proto() uint8 { return e.proto }

// Flags returns all flags.
func (e *Entry) Flags() Flags { return e.flags }

// Has reports whether any of the flags is set.
func (e *Entry) Has(f Flags) bool { return e.flags&f != 0 }

// Service returns the address and port that the client sent the first packet to.
func (e *Entry) Service() netip.AddrPort { return e.tuples[Original].Destination() }

// Backend returns the address and port that the flow's packets are sent to.
func (e *Entry) Backend() netip.AddrPort { return e.tuples[Reply].Source() }

// SourceAtBackend returns the client's address and port as the backend sees them.
func (e *Entry) SourceAtBackend() netip.AddrPort { return e.tuples[Reply].Destination() }

// Created returns when the flow began.
func (e *Entry) Created() uint32 { return e.created }

// Seen returns when the last packet was seen.
func (e *Entry) Seen() uint32 { return e.seen.Load() }

// Touch records that a packet was seen. It writes only when the second changes.
func (e *Entry) Touch(now uint32) {
	if e.seen.Load() != now {
		e.seen.Store(now)
	}
}

// Generation returns which table of Services has last confirmed the flow.
func (e *Entry) Generation() uint32 { return e.gen.Load() }

// Confirm records that a table of Services confirms the flow.
func (e *Entry) Confirm(generation uint32) { e.gen.Store(generation) }

// Status returns the current status.
func (e *Entry) Status() Status { return Status(e.status.Load()) }

// Client returns who the flow is accounted to. The flow is locked, or has ended.
func (e *Entry) Client() Client { return e.client }

// Ack returns the newest TCP acknowledgement of a direction; 0: unknown.
func (e *Entry) Ack(d Direction) uint32 { return e.acks[d].Load() }

// SetAck records an acknowledgement that the offload has seen. What it acknowledges was sent.
func (e *Entry) SetAck(d Direction, ack uint32) {
	e.acks[d].Store(ack)
	if sent := &e.sent[d.Opposite()]; int32(ack-sent.Load()) > 0 {
		sent.Store(ack)
	}
}

// Count counts a packet of one direction. It reports whether the counters are half full, so that TakeCounters is due.
// The direction's shard is locked.
func (e *Entry) Count(d Direction, size int) (halfFull bool) {
	e.traffic[d] += onePacket + traffic(size)
	return e.traffic[d].halfFull()
}

// TakeCounters returns and resets the counters of one direction. The direction's shard is locked, or the entry has
// ended and belongs to the caller.
func (e *Entry) TakeCounters(d Direction) (packets, bytes uint32) {
	c := e.traffic[d]
	e.traffic[d] = 0
	return c.packets(), c.bytes()
}

// isDNS reports whether the flow is an exchange of DNS over UDP, which ends with its answer.
func (e *Entry) isDNS() bool {
	return e.proto == packet.ProtoUDP && (e.tuples[Original].DstPort == 53 || e.tuples[Reply].SrcPort == 53)
}
