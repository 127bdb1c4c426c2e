package servicelb

import (
	"hash/crc32"
	"sync/atomic"
	"unsafe"

	"github.com/warrennet/warren/internal/packet"
)

// entry is a flow as it lies in the flow file: no pointers, the same in every process. The two tuples say everything
// about the translation. They, proto, flags and created are written before the entry is linked and never change
// while it is; check covers them. The atomics change with every packet. The links belong to the index and mean
// nothing in the next process.
type entry struct {
	way     [2]tuple // orig: client to service, as sent; reply: backend to translated client, as received
	proto   uint8
	flags   uint8
	_       [2]byte
	check   uint32
	created uint32           // seconds of CLOCK_BOOTTIME
	seen    atomic.Uint32    // likewise
	status  atomic.Uint32    // state, bits and incarnation, see state.go
	gen     atomic.Uint32    // the table that has last confirmed the backend
	source  atomic.Uint32    // the client's bucket in fairness accounts
	acks    [2]atomic.Uint32 // newest acknowledgement of each direction, 0 while unknown
	next    [2]uint32        // index chains, guarded by their shards
	packets [2]uint16        // of each way since they were last brought to the Service, guarded likewise
	bytes   [2]uint32
}

// Two cache lines, so that a million flows stay affordable.
const _ = uint(128 - entrySize)

const entrySize = unsafe.Sizeof(entry{})

// The ways of a flow.
const (
	orig  = 0
	reply = 1
)

// entry.flags
const (
	flagMasquerade = 1 << iota // no Service: a Pod that talks to the world
	flagOutside                // the client stands outside the cluster: the external pool is its
	flagSNAT                   // the source is the node's SNAT address
	flagNodeSource             // the source is a node address, with a port of the masquerade range
	flagsKnown     = 1<<iota - 1
)

var checkTable = crc32.MakeTable(crc32.Castagnoli)

// sum computes what check must be.
func (e *entry) sum() uint32 {
	c := crc32.Update(e.created, checkTable, unsafe.Slice((*byte)(unsafe.Pointer(&e.way)), unsafe.Sizeof(e.way)))
	return c ^ uint32(e.proto)<<8 ^ uint32(e.flags) ^ 0x57a99e2d
}

func (e *entry) key(way int) key { return key{tuple: e.way[way], proto: e.proto} }

// front is the Service address the flow was opened to.
func (e *entry) front() frontKey {
	d := e.way[orig].destination()
	return frontKey{d.Addr(), d.Port(), e.proto}
}

// dns tells flows that end with one answer.
func (e *entry) dns() bool {
	return e.proto == packet.ProtoUDP && (e.way[orig].dport == 53 || e.way[reply].sport == 53)
}
