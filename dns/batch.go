package dns

import (
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/internal/mmsg"
)

const (
	batchSize = 64
	inSize    = 1536 // longer queries are cut by the kernel and dropped
	ctlSize   = 64
)

// batch receives and sends up to batchSize datagrams per system call. golang.org/x/net/ipv4 wraps the same calls but allocates
// an address per datagram. Here the kernel's own socket address is passed back for the answer.
type batch struct {
	raw      syscall.RawConn
	in, out  [batchSize]mmsg.Header
	iovI     [batchSize]unix.Iovec
	iovO     [batchSize]unix.Iovec
	names    [batchSize]unix.RawSockaddrInet6
	ctl      [batchSize][ctlSize]byte
	bufI     [batchSize][inSize]byte
	bufO     [batchSize][wire.UDPSize]byte
	queued   int // answers in out
	sent     int
	received int
	err      error
	recvFn   func(fd uintptr) bool
	sendFn   func(fd uintptr) bool
}

func newBatch(c *net.UDPConn) (*batch, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &batch{raw: raw}
	for i := range b.in {
		b.iovI[i].Base = &b.bufI[i][0]
		b.iovI[i].SetLen(inSize)
		b.in[i].Iov, b.in[i].Name, b.in[i].Control = &b.iovI[i], (*byte)(unsafe.Pointer(&b.names[i])), &b.ctl[i][0]
		b.in[i].SetIovlen(1)
		b.iovO[i].Base = &b.bufO[i][0]
		b.out[i].Iov = &b.iovO[i]
		b.out[i].SetIovlen(1)
	}
	b.recvFn, b.sendFn = b.tryRecv, b.trySend // bound once: a closure per call would allocate
	return b, nil
}

// recv waits for datagrams and returns their number.
func (b *batch) recv() (int, error) {
	b.prepare()
	if err := b.raw.Read(b.recvFn); err != nil {
		return 0, err
	}
	return b.received, b.err
}

// prepare sets the lengths that the kernel overwrites.
func (b *batch) prepare() {
	for i := range b.in {
		b.in[i].Namelen = unix.SizeofSockaddrInet6
		b.in[i].SetControllen(ctlSize)
	}
}

// poll is recv without waiting. It returns 0 when there is no datagram.
func (b *batch) poll() (int, error) {
	b.prepare()
	b.received, b.err = 0, nil
	if err := b.raw.Control(func(fd uintptr) { b.tryRecv(fd) }); err != nil {
		return 0, err
	}
	return max(b.received, 0), b.err
}

func (b *batch) tryRecv(fd uintptr) bool {
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
	b.received, b.err = int(n), nil
	switch e {
	case 0:
		return true
	case unix.EAGAIN:
		b.received = 0
		return false
	case unix.EINTR:
		b.received = 0
		return true
	}
	b.received, b.err = 0, e
	return true
}

// packet returns datagram i. full is true when the kernel cut it to the size of the buffer.
func (b *batch) packet(i int) (pkt []byte, full bool) {
	return b.bufI[i][:min(int(b.in[i].Len), inSize)], b.in[i].Flags&unix.MSG_TRUNC != 0
}

// source returns the sender of datagram i.
func (b *batch) source(i int) netip.AddrPort {
	n := &b.names[i]
	port := uint16(n.Port)<<8 | uint16(n.Port)>>8
	if n.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(n))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(n.Addr).Unmap(), port)
}

// answer queues the answer to datagram i. Its n bytes are in bufO[queued] already.
func (b *batch) answer(i, n int) {
	o := &b.out[b.queued]
	b.iovO[b.queued].SetLen(n)
	o.Name, o.Namelen = b.in[i].Name, b.in[i].Namelen
	o.Control, o.Controllen = nil, 0
	if c := b.in[i].Controllen; c > 0 {
		anyInterface(b.ctl[i][:c])
		o.Control, o.Controllen = &b.ctl[i][0], c
	}
	b.queued++
}

// control copies the packet information of datagram i, for an answer that is sent later.
func (b *batch) control(i int) []byte {
	c := b.in[i].Controllen
	if c == 0 {
		return nil
	}
	out := append([]byte(nil), b.ctl[i][:c]...)
	anyInterface(out)
	return out
}

// anyInterface clears the interface of a received pktinfo: the answer keeps the queried address as its source, and routing
// selects the interface. A link-local IPv6 address keeps its interface, which is part of the address.
func anyInterface(ctl []byte) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl[0]))
	data := ctl[unix.CmsgLen(0):]
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		clear(data[:4])
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		if !(data[0] == 0xfe && data[1]&0xc0 == 0x80) {
			clear(data[16:20])
		}
	}
}

// flush sends the queued answers and returns how many it could not send. The clients of those query again.
func (b *batch) flush() (lost int) {
	for b.sent = 0; b.sent < b.queued; {
		if err := b.raw.Write(b.sendFn); err != nil {
			lost += b.queued - b.sent
			break
		}
		if b.err != nil {
			b.sent++
			lost++
		}
	}
	b.queued = 0
	return lost
}

func (b *batch) trySend(fd uintptr) bool {
	n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[b.sent])), uintptr(b.queued-b.sent), unix.MSG_DONTWAIT, 0,
		0)
	b.err = nil
	switch e {
	case 0:
		b.sent += int(n)
		return true
	case unix.EAGAIN:
		return false
	}
	b.err = e
	return true
}
