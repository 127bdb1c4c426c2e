package conntrack

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"unsafe"
)

// portCounts counts the flows with a masquerade port: of each destination, and of each client at each destination. They are
// counted by hash, so the memory is fixed; counters that two share read a little too high.
type portCounts [1 << 16]atomic.Int32

// anyClient stands for all clients: no client has this value.
const anyClient = 1 << 16

// portKey is what a counter counts for. It has no padding.
type portKey struct {
	addr   [16]byte
	client uint32 // a Client, or anyClient
	port   uint16
	proto  uint16
}

func (t *Table) portCount(addr [16]byte, port uint16, proto uint8, client uint32) *atomic.Int32 {
	k := portKey{addr, client, port, uint16(proto)}
	h := maphash.Bytes(t.seed, unsafe.Slice((*byte)(unsafe.Pointer(&k)), unsafe.Sizeof(k)))
	return &t.ports[h%uint64(len(t.ports))]
}

// addPort counts a flow with a masquerade port.
func (t *Table) addPort(e *Entry, by int32) {
	to := &e.tuples[Reply]
	t.portCount(to.Src, to.SrcPort, e.proto, anyClient).Add(by)
	t.portCount(to.Src, to.SrcPort, e.proto, uint32(e.client)).Add(by)
}

// PortsHeld returns how many masquerade ports are in use at a destination, and how many of them by one client.
func (t *Table) PortsHeld(proto uint8, to netip.AddrPort, client Client) (all, own int32) {
	a := to.Addr().As16()
	return t.portCount(a, to.Port(), proto, anyClient).Load(), t.portCount(a, to.Port(), proto, uint32(client)).Load()
}

// SeizePort ends the flow that a reply tuple belongs to, if its client has more ports at this destination than c. It
// reports whether it has.
func (t *Table) SeizePort(reply *Tuple, proto uint8, c Client) bool {
	if !c.verified() {
		return false
	}
	l, ok := t.Lookup(&Key{Tuple: *reply, Proto: proto})
	if !ok {
		return false
	}
	status, holder, masqueraded := l.Status(), l.Client(), l.Dir == Reply && l.Has(FlagNodeSource)
	l.Unlock()
	if !masqueraded {
		return false
	}
	theirs := t.portCount(reply.Src, reply.SrcPort, proto, uint32(holder)).Load()
	own := t.portCount(reply.Src, reply.SrcPort, proto, uint32(c)).Load()
	return holdsMore(theirs, own) && t.End(l.Slot, status)
}
