package tunnel

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// Sending: a batch for one peer becomes as few UDP messages as possible. Datagrams of one size share a message
// (UDP_SEGMENT) that points at them where they lie; all messages go in one sendmmsg.

const (
	maxUDP4   = 65535 - 20 - 8
	maxUDP6   = 65535 - 8
	skipSends = 4096 // sends without segmentation before a size that was refused is tried again
)

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// controlLen holds the larger source message and the segment size.
const controlLen = 64

// batch is one Send's memory, pooled.
type batch struct {
	iov     [maxBatch]unix.Iovec
	msgs    [maxBatch]mmsghdr
	control [maxBatch][controlLen]byte
	first   [maxBatch]int // index of each message's first datagram
	pieces  [maxBatch]int // datagrams in it
	count   int           // messages
	used    int           // datagrams

	from  int // first message not sent yet
	done  int // messages taken by the last system call
	errno syscall.Errno
	now   func(fd uintptr)
	wait  func(fd uintptr) bool
}

func newBatch() *batch {
	m := &batch{}
	m.now = m.call
	m.wait = func(fd uintptr) bool { m.call(fd); return m.errno != unix.EAGAIN }
	return m
}

// call is one sendmmsg of what is left. It is a raw system call, as in readOnce: the socket does not block. But it does take
// longer than the 20 us after which the runtime takes a processor away from a system call, wakes a thread for it, and goes on
// looking every 20 us whether there is another one to take away: that was 7 to 8 % of all CPU time.
func (m *batch) call(fd uintptr) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&m.msgs[m.from])), uintptr(m.count-m.from), 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		m.done, m.errno = int(n), errno
		if errno != 0 {
			m.done = 0
		}
		return
	}
}

// push sends what is left, waiting for room in the socket's buffer, and steps over what was sent.
func (m *batch) push(s *socket) error {
	m.done = 0
	err := s.raw.Control(m.now)
	if err == nil && m.errno == unix.EAGAIN {
		err = s.raw.Write(m.wait)
	}
	for range m.done {
		if m.pieces[m.from] > 1 && !s.good.Load() {
			s.good.Store(true)
		}
		m.from++
	}
	if err == nil && m.errno != 0 {
		err = m.errno
	}
	return err
}

// forget drops the pointers into the engine's buffers.
func (m *batch) forget() {
	clear(m.iov[:m.used])
	clear(m.msgs[:m.count])
	m.count, m.used, m.from = 0, 0, 0
}

// build lays out messages for datagrams. With join, datagrams of one size share a message; a shorter one may be
// the last of it. The kernel demands no more.
func (m *batch) build(bufs [][]byte, e *endpoint, join bool) {
	m.count, m.used, m.from = 0, 0, 0
	limit := maxUDP4
	if e.dst.Addr().Is6() {
		limit = maxUDP6
	}
	size, total, open := 0, 0, false
	for _, d := range bufs {
		if open && len(d) <= size && total+len(d) <= limit && m.pieces[m.count-1] < maxSegments {
			total += len(d)
			open = len(d) == size
			m.add(d, false)
			continue
		}
		size, total, open = len(d), len(d), join && len(d) > 0
		m.add(d, true)
	}
	for i := range m.count {
		m.address(i, e)
	}
}

// add puts a datagram into the last message or a fresh one.
func (m *batch) add(d []byte, fresh bool) {
	m.iov[m.used].Base = unsafe.SliceData(d)
	m.iov[m.used].SetLen(len(d))
	if fresh {
		m.first[m.count], m.pieces[m.count] = m.used, 0
		m.msgs[m.count].hdr.Iov = &m.iov[m.used]
		m.count++
	}
	m.pieces[m.count-1]++
	m.msgs[m.count-1].hdr.SetIovlen(m.pieces[m.count-1])
	m.used++
}

// address gives a message its destination and control data.
func (m *batch) address(i int, e *endpoint) {
	h := &m.msgs[i].hdr
	h.Name, h.Namelen = &e.sa[0], e.salen
	c := sourceControl(m.control[i][:0], e.source.Load())
	if m.pieces[i] > 1 {
		c = segmentControl(c, uint16(m.iov[m.first[i]].Len))
	}
	h.Control = nil
	if len(c) > 0 {
		h.Control = &m.control[i][0]
	}
	h.SetControllen(len(c))
}

// Send sends datagrams to an endpoint. Datagrams that the underlay refuses are counted; the others go on.
func (b *bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	defer b.out.sub(len(bufs))
	e, ok := ep.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	s := b.socketFor(e.dst.Addr())
	if s == nil {
		b.stats.drops[DropSend].Add(uint64(len(bufs)))
		return fmt.Errorf("send to %v: %w", e.dst, unix.EAFNOSUPPORT)
	}
	if b.whole != nil {
		if w := b.whole.Load(); w != nil {
			bufs = b.takeWhole(s, e, bufs, w)
		}
	}
	m := b.pool.Get().(*batch)
	var errs error
	for len(bufs) > 0 {
		n := min(len(bufs), maxBatch)
		if err := b.transmit(m, s, e, bufs[:n]); err != nil && errs == nil {
			errs = err
		}
		m.forget()
		bufs = bufs[n:]
	}
	b.pool.Put(m)
	return errs
}

// takeWhole sends the datagram in buffer w by itself, not to be fragmented by anybody, and returns the others. That the
// path refuses it is what it was sent to find out.
func (b *bind) takeWhole(s *socket, e *endpoint, bufs [][]byte, w *byte) [][]byte {
	i := slices.IndexFunc(bufs, func(d []byte) bool { return unsafe.SliceData(d) == w })
	if i < 0 || !b.whole.CompareAndSwap(w, nil) {
		return bufs
	}
	if err := s.fragmenting(false); err != nil {
		b.log.Debug("cannot send a probe unfragmented; it will say nothing of the path", "err", err)
	}
	_ = b.singly(s, e, bufs[i:i+1])
	if err := s.fragmenting(true); err != nil {
		b.log.Error("cannot let the tunnel's datagrams be fragmented again", "err", err)
	}
	return slices.Concat(bufs[:i], bufs[i+1:])
}

// fragmenting says whether datagrams may be fragmented: as bind's comment has it, or by nobody, with no regard to a path MTU
// that the kernel has heard of. Datagrams that other goroutines send in between go without, too: one may be lost.
func (s *socket) fragmenting(may bool) error {
	level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	switch {
	case s.six && may:
		level, option, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_WANT
	case s.six:
		level, option, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	case may:
		value = unix.IP_PMTUDISC_DONT
	}
	var err error
	cerr := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), level, option, value)
		if s.six {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, map[bool]int{false: 1}[may]))
		}
	})
	return errors.Join(err, cerr)
}

// transmit builds the messages and sends them all, repairing what can be repaired.
func (b *bind) transmit(m *batch, s *socket, e *endpoint, bufs [][]byte) error {
	m.build(bufs, e, s.gso.Load() && e.mayJoin(bufs))
	b.stats.sends.Add(uint64(m.count))
	b.stats.datagrams.Add(uint64(len(bufs)))
	var lost error
	for m.from < m.count {
		err := m.push(s)
		if err == nil {
			continue
		}
		if e.source.Load() != nil && wrongSource(err) {
			// Most likely that local address is gone from this host; the kernel shall choose.
			e.ClearSrc()
			for i := m.from; i < m.count; i++ {
				m.address(i, e)
			}
			continue
		}
		i := m.from
		m.from++
		mine := bufs[m.first[i] : m.first[i]+m.pieces[i]]
		if len(mine) > 1 && b.mayRepeat(s, e, len(mine[0]), err) {
			err = b.singly(s, e, mine)
		} else {
			b.stats.drops[DropSend].Add(uint64(len(mine)))
		}
		if err != nil && lost == nil {
			lost = fmt.Errorf("send to %v: %w", e.dst, err)
		}
	}
	return lost
}

// wrongSource is what kernels answer when the local address asked for does not exist or has no way to the peer.
func wrongSource(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// mayRepeat decides what the refusal of a segmented message means, and whether its datagrams are worth sending
// one by one.
func (b *bind) mayRepeat(s *socket, e *endpoint, size int, err error) bool {
	switch {
	case errors.Is(err, unix.EIO):
		b.giveUp(s, err) // the device cannot checksum, which UDP_SEGMENT needs; it will not learn it
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMSGSIZE):
		if !s.good.Load() {
			b.giveUp(s, err)
			break
		}
		// It has worked, so the path got narrower than the datagrams: the kernel will fragment them one by one.
		e.tooBig.Store(uint32(size))
		e.skip.Store(skipSends)
	default:
		return false
	}
	b.stats.fallbacks.Add(1)
	return true
}

func (b *bind) giveUp(s *socket, err error) {
	if s.gso.CompareAndSwap(true, false) {
		b.stats.downgrades.Add(1)
		b.log.Warn("offload refused by the kernel, going on without", "offload", "udp-segment", "ipv6", s.six, "err", err)
	}
}

// singly sends datagrams each as a message of its own.
func (b *bind) singly(s *socket, e *endpoint, bufs [][]byte) (lost error) {
	m := b.pool.Get().(*batch)
	m.build(bufs, e, false)
	for m.from < m.count {
		if err := m.push(s); err != nil {
			b.stats.drop(DropSend)
			m.from++
			lost = err
		}
	}
	m.forget()
	b.pool.Put(m)
	return lost
}

// mayJoin says whether this path takes segmented messages of that datagram size now; after a refusal it counts
// down to the next try, since paths get wider again.
func (e *endpoint) mayJoin(bufs [][]byte) bool {
	limit := e.tooBig.Load()
	if limit == 0 || len(bufs) == 0 || uint32(len(bufs[0])) < limit {
		return true
	}
	if e.skip.Load() == 0 {
		return true
	}
	e.skip.Add(^uint32(0))
	return false
}

// sourceControl appends the message that asks for a local address.
func sourceControl(c []byte, s *source) []byte {
	if s == nil {
		return c
	}
	if s.addr.Is4() {
		info := unix.Inet4Pktinfo{Ifindex: int32(s.ifindex), Spec_dst: s.addr.As4()}
		return appendControl(c, unix.IPPROTO_IP, unix.IP_PKTINFO, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)))
	}
	info := unix.Inet6Pktinfo{Addr: s.addr.As16(), Ifindex: s.ifindex}
	return appendControl(c, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)))
}

// segmentControl appends the message that asks for segmentation (udp(7), UDP_SEGMENT).
func segmentControl(c []byte, size uint16) []byte {
	return appendControl(c, unix.SOL_UDP, unix.UDP_SEGMENT, unsafe.Slice((*byte)(unsafe.Pointer(&size)), 2))
}

func appendControl(c []byte, level, typ int32, data []byte) []byte {
	at := len(c)
	c = c[:at+unix.CmsgSpace(len(data))]
	clear(c[at:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c[at]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(len(data)))
	copy(c[at+unix.CmsgLen(0):], data)
	return c
}
