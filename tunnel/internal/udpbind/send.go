package udpbind

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"github.com/warrennet/warren/internal/mmsg"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// Send path: a batch for one peer becomes as few UDP messages as possible. Datagrams of one size share a message (UDP_SEGMENT) whose
// vector points at the buffers of the WireGuard device; all messages go in one sendmmsg.

const (
	maxUDP4   = 65535 - 20 - 8
	maxUDP6   = 65535 - 8
	skipSends = 4096 // sends without segmentation before a refused size is used again
)

// controlLen holds the larger source message and the segment size.
const controlLen = 64

// batch is one Send's memory, pooled.
type batch struct {
	iov     [limits.MaxBatch]unix.Iovec
	msgs    [limits.MaxBatch]mmsg.Header
	control [limits.MaxBatch][controlLen]byte
	first   [limits.MaxBatch]int // index of the first datagram of each message
	inside  [limits.MaxBatch]int // datagrams in each message
	count   int                  // messages
	used    int                  // datagrams

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

// call is one sendmmsg of the remaining messages. It is a raw system call, as in tunfd: the socket does not block. It takes longer
// than the 20 us after which the runtime takes the processor from a system call, wakes a thread for it, and polls every 20 us for
// the next one: that was 7 to 8 % of all CPU time.
func (m *batch) call(fd uintptr) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&m.msgs[m.from])), uintptr(m.count-m.from), 0, 0,
			0)
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

// push sends the remaining messages, waits for room in the socket's buffer, and advances from over the sent ones.
func (m *batch) push(s *socket) error {
	m.done = 0
	err := s.raw.Control(m.now)
	if err == nil && m.errno == unix.EAGAIN {
		err = s.raw.Write(m.wait)
	}
	for range m.done {
		if m.inside[m.from] > 1 && !s.good.Load() {
			s.good.Store(true)
		}
		m.from++
	}
	if err == nil && m.errno != 0 {
		err = m.errno
	}
	return err
}

// forget drops the pointers into the WireGuard device's buffers.
func (m *batch) forget() {
	clear(m.iov[:m.used])
	clear(m.msgs[:m.count])
	m.count, m.used, m.from = 0, 0, 0
}

// build lays out messages for datagrams. With segment, datagrams of one size share a message; a shorter one may be its last.
func (m *batch) build(bufs [][]byte, e *Endpoint, segment bool) {
	m.count, m.used, m.from = 0, 0, 0
	limit := maxUDP4
	if e.dst.Addr().Is6() {
		limit = maxUDP6
	}
	size, total, open := 0, 0, false
	for _, d := range bufs {
		if open && len(d) <= size && total+len(d) <= limit && m.inside[m.count-1] < limits.MaxSegments {
			total += len(d)
			open = len(d) == size
			m.add(d, false)
			continue
		}
		size, total, open = len(d), len(d), segment && len(d) > 0
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
		m.first[m.count], m.inside[m.count] = m.used, 0
		m.msgs[m.count].Iov = &m.iov[m.used]
		m.count++
	}
	m.inside[m.count-1]++
	m.msgs[m.count-1].SetIovlen(m.inside[m.count-1])
	m.used++
}

// address gives a message its destination and control data.
func (m *batch) address(i int, e *Endpoint) {
	h := &m.msgs[i]
	h.Name, h.Namelen = &e.sa[0], e.salen
	c := sourceControl(m.control[i][:0], e.source.Load())
	if m.inside[i] > 1 {
		c = segmentControl(c, uint16(m.iov[m.first[i]].Len))
	}
	h.Control = nil
	if len(c) > 0 {
		h.Control = &m.control[i][0]
	}
	h.SetControllen(len(c))
}

// Send sends datagrams to an endpoint. Datagrams that the underlay refuses are counted; the others are sent.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	defer b.out.Done(len(bufs))
	e, ok := ep.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	s := b.socketFor(e.dst.Addr())
	if s == nil {
		b.stats.Drops[counters.DropSend].Add(uint64(len(bufs)))
		return fmt.Errorf("send to %v: %w", e.dst, unix.EAFNOSUPPORT)
	}
	if b.probe != nil {
		if w := b.probe.Load(); w != nil {
			bufs = b.sendProbe(s, e, bufs, w)
		}
	}
	m := b.pool.Get().(*batch)
	var errs error
	for len(bufs) > 0 {
		n := min(len(bufs), limits.MaxBatch)
		if err := b.transmit(m, s, e, bufs[:n]); err != nil && errs == nil {
			errs = err
		}
		m.forget()
		bufs = bufs[n:]
	}
	b.pool.Put(m)
	return errs
}

// sendProbe sends the datagram in buffer w alone and with DF, and returns the others. An error of that send is a result of the
// probe: the path does not carry the size.
func (b *Bind) sendProbe(s *socket, e *Endpoint, bufs [][]byte, w *byte) [][]byte {
	i := slices.IndexFunc(bufs, func(d []byte) bool { return unsafe.SliceData(d) == w })
	if i < 0 || !b.probe.CompareAndSwap(w, nil) {
		return bufs
	}
	if err := s.forbidFragments(); err != nil {
		b.log.Debug("cannot set DF on a path MTU probe; its result is invalid", "err", err)
	}
	_ = b.singly(s, e, bufs[i:i+1])
	if err := s.allowFragments(); err != nil {
		b.log.Error("cannot allow fragmentation of the tunnel's datagrams again after a path MTU probe", "err", err)
	}
	return slices.Concat(bufs[:i], bufs[i+1:])
}

// forbidFragments sets DF on every datagram of the socket, with no regard to the path MTU that the kernel has learned. A datagram
// that another goroutine sends before allowFragments has DF, too: it may be lost.
func (s *socket) forbidFragments() error {
	if s.family == model.IPv4 {
		return s.setOptions(option{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE})
	}
	return s.setOptions(option{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
		option{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1})
}

// allowFragments undoes forbidFragments: datagrams are fragmented as the package comment states.
func (s *socket) allowFragments() error {
	if s.family == model.IPv4 {
		return s.setOptions(option{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT})
	}
	return s.setOptions(option{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_WANT},
		option{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 0})
}

// option is a socket option with an integer value.
type option struct{ level, name, value int }

func (s *socket) setOptions(options ...option) error {
	var errs []error
	cerr := s.raw.Control(func(fd uintptr) {
		for _, o := range options {
			errs = append(errs, unix.SetsockoptInt(int(fd), o.level, o.name, o.value))
		}
	})
	return errors.Join(append(errs, cerr)...)
}

// transmit builds the messages and sends them all. It repeats a message in a different form where the error allows that.
func (b *Bind) transmit(m *batch, s *socket, e *Endpoint, bufs [][]byte) error {
	m.build(bufs, e, s.gso.Load() && e.maySegment(bufs))
	b.stats.Sends.Add(uint64(m.count))
	b.stats.Datagrams.Add(uint64(len(bufs)))
	var lost error
	for m.from < m.count {
		err := m.push(s)
		if err == nil {
			continue
		}
		if e.source.Load() != nil && wrongSource(err) {
			// Most likely the host has lost that local address: the kernel selects one.
			e.ClearSrc()
			for i := m.from; i < m.count; i++ {
				m.address(i, e)
			}
			continue
		}
		i := m.from
		m.from++
		mine := bufs[m.first[i] : m.first[i]+m.inside[i]]
		if len(mine) > 1 && b.repeatSingly(s, e, len(mine[0]), err) {
			err = b.singly(s, e, mine)
		} else {
			b.stats.Drops[counters.DropSend].Add(uint64(len(mine)))
		}
		if err != nil && lost == nil {
			lost = fmt.Errorf("send to %v: %w", e.dst, err)
		}
	}
	return lost
}

// wrongSource reports whether the kernel refused the requested local address: the host does not have it, or no route from it.
func wrongSource(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENETUNREACH) ||
		errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// repeatSingly decides what the refusal of a segmented message means, and whether to send its datagrams one by one.
func (b *Bind) repeatSingly(s *socket, e *Endpoint, size int, err error) bool {
	switch {
	case errors.Is(err, unix.EIO):
		b.disableGSO(s, err) // the network device has no checksum offload, which UDP_SEGMENT needs
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMSGSIZE):
		if !s.good.Load() {
			b.disableGSO(s, err)
			break
		}
		// It has worked before, so the path became narrower than the datagrams: the kernel fragments single ones.
		e.tooBig.Store(uint32(size))
		e.skip.Store(skipSends)
	default:
		return false
	}
	b.stats.Fallbacks.Add(1)
	return true
}

func (b *Bind) disableGSO(s *socket, err error) {
	if s.gso.CompareAndSwap(true, false) {
		b.stats.Downgrades.Add(1)
		b.log.Warn("kernel refused a UDP offload; sending single datagrams", "name", network(s.family)+"-segment", "err", err)
	}
}

// singly sends each datagram as its own message.
func (b *Bind) singly(s *socket, e *Endpoint, bufs [][]byte) (lost error) {
	m := b.pool.Get().(*batch)
	m.build(bufs, e, false)
	for m.from < m.count {
		if err := m.push(s); err != nil {
			b.stats.Drop(counters.DropSend)
			m.from++
			lost = err
		}
	}
	m.forget()
	b.pool.Put(m)
	return lost
}

// maySegment reports whether the path accepts segmented messages of that datagram size. After a refusal it counts down to the next
// attempt, because a path MTU can rise again.
func (e *Endpoint) maySegment(bufs [][]byte) bool {
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

// sourceControl appends the control message that selects a local address.
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

// segmentControl appends the control message that requests segmentation (udp(7), UDP_SEGMENT).
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
