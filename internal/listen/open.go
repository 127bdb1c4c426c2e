package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket is one listening socket.
type Socket struct {
	Role    string // of the socket in the agent: lower case letters; sockets of one role are kept or dropped together
	Network string // tcp, tcp4, tcp6, udp4, udp6
	Address string // address:port
	// Options sets socket options before bind, and those that can be set later again on a socket that is already bound. nil: none.
	Options func(fd int) error
}

// name identifies the socket in this process and in the next one. A name of the service manager has no colon (sd_notify(3)).
func (k Socket) name() string {
	return k.Role + "." + k.Network + "." + strings.NewReplacer(":", "_", "%", "_").Replace(k.Address)
}

// Listen returns a TCP listener. It opens the socket, or uses the descriptor that is already open.
func (s *Sockets) Listen(ctx context.Context, k Socket) (net.Listener, error) {
	f, err := s.file(ctx, k)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

// Packet returns a UDP connection on a descriptor of its own. Further calls return further descriptors of the same socket.
func (s *Sockets) Packet(ctx context.Context, k Socket) (*net.UDPConn, error) {
	f, err := s.file(ctx, k)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("socket %s: expected UDP, found %T", k.name(), c)
	}
	return u, nil
}

// Hold opens the socket and keeps it for a later Listen or Packet, so that both do not fail on a port that is in use.
func (s *Sockets) Hold(ctx context.Context, k Socket) error {
	f, err := s.file(ctx, k)
	if err != nil {
		return err
	}
	return f.Close()
}

// file returns a new descriptor of the socket.
func (s *Sockets) file(ctx context.Context, k Socket) (*os.File, error) {
	name := k.name()
	s.mu.Lock()
	defer s.mu.Unlock()
	if fd, ok := s.held[name]; ok {
		if err := k.check(fd); err != nil {
			s.log.Warn("opening a socket again: the descriptor of the last run is unusable", "name", name, "err", err)
			s.drop(name)
		}
	}
	fd, ok := s.held[name]
	if !ok {
		var err error
		if fd, err = k.open(ctx); err != nil {
			return nil, err
		}
		s.held[name] = fd
		if s.keeper != nil {
			if err := s.keeper.Store(name, fd); err != nil {
				s.log.Warn("cannot store a socket in the service manager", "name", name, "err", err)
			}
		}
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate socket %s: %w", name, err)
	}
	return os.NewFile(uintptr(dup), name), nil
}

// check reports whether an existing descriptor is that socket, and sets its options.
func (k Socket) check(fd int) error {
	want := unix.SOCK_DGRAM
	if strings.HasPrefix(k.Network, "tcp") {
		want = unix.SOCK_STREAM
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("read the socket's type: %w", err)
	}
	if kind != want {
		return fmt.Errorf("socket type %d: expected %d", kind, want)
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return fmt.Errorf("read whether the socket listens: %w", err)
	}
	if (listens == 1) != (want == unix.SOCK_STREAM) {
		return errors.New("the socket does not listen")
	}
	if k.Options == nil {
		return nil
	}
	return k.Options(fd)
}

// open binds the socket and returns a descriptor.
func (k Socket) open(ctx context.Context) (int, error) {
	lc := net.ListenConfig{}
	if k.Options != nil {
		lc.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) { err = k.Options(int(fd)) }), err)
		}
	}
	if strings.HasPrefix(k.Network, "tcp") {
		l, err := lc.Listen(ctx, k.Network, k.Address)
		if err != nil {
			return -1, err
		}
		defer l.Close()
		return duplicate(l)
	}
	c, err := lc.ListenPacket(ctx, k.Network, k.Address)
	if err != nil {
		return -1, err
	}
	defer c.Close()
	return duplicate(c)
}

// duplicate returns a further descriptor of a listener or a packet connection.
func duplicate(conn any) (fd int, err error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("%T has no descriptor", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	err = raw.Control(func(n uintptr) { fd, dupErr = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, dupErr); err != nil {
		return -1, err
	}
	return fd, nil
}

// inodes are those of the open sockets. The caller holds mu.
func (s *Sockets) inodes() map[uint64]bool {
	out := map[uint64]bool{}
	for _, fd := range s.held {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			out[st.Ino] = true
		}
	}
	return out
}
