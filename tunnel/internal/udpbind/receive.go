package udpbind

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/backpressure"
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// Receive path: the kernel coalesces datagrams of one size into one message (UDP_GRO). Each message is read into a vector with one
// element per datagram, of the datagram size of the last message. So datagrams usually land in separate buffers of the WireGuard
// device. They are moved only when the predicted size was wrong.

// maxEndpoints bounds the memory that datagrams from forged addresses can take.
const maxEndpoints = 4096

type receiver struct {
	s     *socket
	stats *counters.Set
	in    *backpressure.Gate
	known map[netip.AddrPort]*Endpoint // one object per address, or every datagram would allocate one
	guess int                          // predicted datagram size in bytes
	spare []byte                       // memory for moving datagrams

	iov     [limits.MaxBatch]unix.Iovec
	msg     unix.Msghdr
	name    [unix.SizeofSockaddrInet6]byte
	control [128]byte
	wait    bool
	n       int
	errno   syscall.Errno
	fn      func(fd uintptr) bool
}

func newReceiver(s *socket, stats *counters.Set, in *backpressure.Gate) *receiver {
	r := &receiver{s: s, stats: stats, in: in, known: map[netip.AddrPort]*Endpoint{}, guess: limits.MaxPacket}
	r.fn = r.call
	return r
}

func (r *receiver) call(fd uintptr) bool {
	for {
		r.msg.Name, r.msg.Namelen = &r.name[0], uint32(len(r.name))
		r.msg.Control = &r.control[0]
		r.msg.SetControllen(len(r.control))
		n, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), 0)
		if errno == unix.EINTR {
			continue
		}
		r.n, r.errno = int(n), errno
		return errno != unix.EAGAIN || !r.wait
	}
}

// receive is a conn.ReceiveFunc. It waits for one message, and reads more that are available while a whole message of coalesced
// datagrams still fits. Buffers that a message did not need stay empty (size 0), which the WireGuard device skips.
func (r *receiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	bufs = bufs[:min(len(bufs), limits.MaxBatch)]
	at, messages := 0, uint64(0)
	runtime.Gosched() // decryption of the last batch first, as in tundev.Device.Read
	r.in.Wait()
	for at == 0 || len(bufs)-at >= limits.MaxSegments {
		span := min(len(bufs)-at, limits.MaxSegments)
		r.lay(bufs[at : at+span])
		r.wait = at == 0
		if err := r.s.raw.Read(r.fn); err != nil {
			return 0, net.ErrClosed
		}
		if r.errno == unix.EAGAIN {
			break
		}
		if r.errno != 0 {
			if at > 0 {
				break
			}
			return 0, r.errno
		}
		messages++
		at += r.spread(bufs[at:at+span], sizes[at:], eps[at:])
	}
	r.stats.Receives.Add(messages)
	r.stats.Received.Add(uint64(at))
	r.in.Add(carrying(sizes[:at]))
	return at, nil
}

// carrying counts the datagrams that are neither empty nor a keepalive, which never leaves the WireGuard device.
func carrying(sizes []int) (n int) {
	for _, size := range sizes {
		if size > device.MessageKeepaliveSize {
			n++
		}
	}
	return n
}

// lay points the vector at the buffers; the last element takes the remainder of a message.
func (r *receiver) lay(bufs [][]byte) {
	for i, b := range bufs {
		r.iov[i].Base = unsafe.SliceData(b)
		r.iov[i].SetLen(min(r.guess, len(b)))
	}
	last := len(bufs) - 1
	r.iov[last].SetLen(len(bufs[last]))
	r.msg.Iov = &r.iov[0]
	r.msg.SetIovlen(len(bufs))
}

// spread fills in sizes and endpoints of the datagrams of the message just read. It moves them if the predicted size was wrong, and
// returns the number of buffers that they occupy.
func (r *receiver) spread(bufs [][]byte, sizes []int, eps []conn.Endpoint) int {
	e, size := r.origin()
	n := r.n
	if size <= 0 || size > n {
		size = n
	}
	if n == 0 {
		sizes[0], eps[0] = 0, e
		return 1
	}
	count := (n + size - 1) / size
	if r.msg.Flags&unix.MSG_TRUNC != 0 || count > len(bufs) {
		r.stats.Drops[counters.DropReceive].Add(uint64(count))
		sizes[0], eps[0] = 0, e
		return 1
	}
	if size != r.guess && n > int(r.iov[0].Len) || count > 1 && size != int(r.iov[0].Len) {
		r.move(bufs, n, size)
	}
	for i := range count {
		sizes[i] = min(size, n-i*size)
		eps[i] = e
	}
	return count
}

// move copies a message that was read with the wrong size to one datagram per buffer.
func (r *receiver) move(bufs [][]byte, n, size int) {
	if r.spare == nil {
		r.spare = make([]byte, limits.MaxPacket+1)
	}
	all := r.spare[:0]
	for i := 0; len(all) < n; i++ {
		all = append(all, bufs[i][:min(int(r.iov[i].Len), n-len(all))]...)
	}
	for i := 0; len(all) > 0; i++ {
		k := copy(bufs[i], all[:min(size, len(all))])
		all = all[k:]
		r.stats.Copied.Add(1)
	}
	r.guess = size
}

// origin reads the sender, the local address and the datagram size (0: a single datagram) of the message.
func (r *receiver) origin() (*Endpoint, int) {
	var from netip.AddrPort
	if r.s.family == model.IPv6 {
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&r.name))
		a := netip.AddrFrom16(sa.Addr)
		if sa.Scope_id != 0 && a.IsLinkLocalUnicast() {
			a = a.WithZone(strconv.FormatUint(uint64(sa.Scope_id), 10))
		}
		from = netip.AddrPortFrom(a, binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:]))
	} else {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.name))
		from = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:]))
	}
	e := r.known[from]
	if e == nil {
		if len(r.known) >= maxEndpoints {
			clear(r.known)
		}
		e = NewEndpoint(from)
		r.known[from] = e
	}
	return e, r.readControl(e)
}

// readControl walks the control messages.
func (r *receiver) readControl(e *Endpoint) (size int) {
	c := r.control[:min(int(r.msg.Controllen), len(r.control))]
	for len(c) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
		n := int(h.Len)
		if n < unix.CmsgLen(0) || n > len(c) {
			return size
		}
		data := c[unix.CmsgLen(0):n]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			e.stick(source{addr: netip.AddrFrom4(info.Spec_dst)})
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			s := source{addr: netip.AddrFrom16(info.Addr)}
			if s.addr.IsLinkLocalUnicast() {
				s.ifindex = info.Ifindex
			}
			e.stick(s)
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 2:
			size = int(binary.NativeEndian.Uint16(data))
		}
		c = c[min(len(c), unix.CmsgSpace(n-unix.CmsgLen(0))):]
	}
	return size
}
