package tunfd

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/warrennet/warren/tunnel/internal/limits"
	"golang.org/x/sys/unix"
)

// Linux opens /dev/net/tun of the namespace that the calling thread is in.
type Linux struct{}

// Attach is part of Kernel.
func (Linux) Attach(name string, vnet bool) (Queue, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
		if vnet {
			flags |= unix.IFF_VNET_HDR
		}
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return newTunQueue(fd)
}

// withSocket runs an interface ioctl on a socket made for it.
func withSocket(name string, do func(fd int, ifr *unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return do(fd, ifr)
}

// SetMTU is part of Kernel.
func (Linux) SetMTU(name string, mtu int) error {
	return withSocket(name, func(fd int, ifr *unix.Ifreq) error {
		ifr.SetUint32(uint32(mtu))
		return unix.IoctlIfreq(fd, unix.SIOCSIFMTU, ifr)
	})
}

// MTU is part of Kernel.
func (Linux) MTU(name string) (mtu int, err error) {
	err = withSocket(name, func(fd int, ifr *unix.Ifreq) error {
		err := unix.IoctlIfreq(fd, unix.SIOCGIFMTU, ifr)
		mtu = int(ifr.Uint32())
		return err
	})
	return mtu, err
}

// SetUp is part of Kernel.
func (Linux) SetUp(name string) error {
	return withSocket(name, func(fd int, ifr *unix.Ifreq) error {
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return err
		}
		if ifr.Uint16()&unix.IFF_UP != 0 {
			return nil
		}
		ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	})
}

// tunQueue waits in the Go runtime's poller, so that closing it ends a waiting read. The read's arguments travel in
// fields and its function is bound once: a closure per call would allocate.
type tunQueue struct {
	file *os.File
	raw  syscall.RawConn

	buf   []byte
	wait  bool
	n     int
	errno syscall.Errno
	fn    func(fd uintptr) bool
}

func newTunQueue(fd int) (*tunQueue, error) {
	q := &tunQueue{file: os.NewFile(uintptr(fd), "/dev/net/tun")}
	raw, err := q.file.SyscallConn()
	if err != nil {
		q.file.Close()
		return nil, err
	}
	q.raw, q.fn = raw, q.readOnce
	return q, nil
}

func (q *tunQueue) control(do func(fd int) error) error {
	var err error
	if cerr := q.raw.Control(func(fd uintptr) { err = do(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

func (q *tunQueue) SetVnetLen(n int) error {
	return q.control(func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, n) })
}

func (q *tunQueue) SetOffload(flags int) error {
	return q.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags) })
}

func (q *tunQueue) SetPersist(on bool) error {
	v := 0
	if on {
		v = 1
	}
	return q.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, v) })
}

// readOnce uses a raw system call: the descriptor does not block and the copy takes microseconds, so a
// notification of the scheduler would cost more than it gains.
func (q *tunQueue) readOnce(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&q.buf[0])), uintptr(len(q.buf)))
		if errno == unix.EINTR {
			continue
		}
		q.n, q.errno = int(n), errno
		return errno != unix.EAGAIN || !q.wait
	}
}

// Read is part of Queue.
func (q *tunQueue) Read(b []byte, wait bool) (int, error) {
	q.buf, q.wait = b, wait
	if err := q.raw.Read(q.fn); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			q.file.SetReadDeadline(time.Time{})
			return 0, ErrWoken
		}
		return 0, err
	}
	switch q.errno {
	case 0:
		return q.n, nil
	case unix.EAGAIN:
		return 0, ErrAgain
	}
	return 0, q.errno
}

// Wake uses the poller's deadline: the only means to end a wait without a second descriptor.
func (q *tunQueue) Wake() { q.file.SetReadDeadline(time.Unix(1, 0)) }

func (q *tunQueue) Close() error { return q.file.Close() }

// scatter is one writev. A TUN accepts the packet at once or refuses it, so there is nothing to wait for, and
// Control (unlike Write) lets several goroutines write at the same time.
type scatter struct {
	iov   []unix.Iovec
	errno syscall.Errno
	fn    func(fd uintptr)
}

var scatters = sync.Pool{New: func() any {
	s := &scatter{iov: make([]unix.Iovec, 0, limits.MaxBatch+1)}
	s.fn = s.run
	return s
}}

// run is a raw system call for the reason given at call in udpbind/send.go: it takes the packet as far as a Pod's socket.
func (s *scatter) run(fd uintptr) {
	for {
		_, _, s.errno = syscall.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&s.iov[0])), uintptr(len(s.iov)))
		if s.errno != unix.EINTR {
			return
		}
	}
}

// Write is part of Queue.
func (q *tunQueue) Write(v [][]byte) error {
	s := scatters.Get().(*scatter)
	s.iov = s.iov[:0]
	for _, b := range v {
		if len(b) > 0 {
			s.iov = append(s.iov, unix.Iovec{Base: &b[0], Len: uint64(len(b))})
		}
	}
	err := q.raw.Control(s.fn)
	errno := s.errno
	clear(s.iov)
	scatters.Put(s)
	if err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}
