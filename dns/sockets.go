package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func defaultWorkers() int { return min(runtime.GOMAXPROCS(0), 4) }

// sockets are all sockets of a server.
type sockets struct {
	udp []*net.UDPConn
	tcp []net.Listener
}

func (k *sockets) close() {
	for _, c := range k.udp {
		c.Close()
	}
	for _, l := range k.tcp {
		l.Close()
	}
}

// stop ends blocked reads and closes the listeners. UDP sockets stay open for answers that are not sent yet.
func (k *sockets) stop() {
	for _, c := range k.udp {
		_ = c.SetReadDeadline(time.Unix(1, 0))
	}
	for _, l := range k.tcp {
		l.Close()
	}
}

// listenAll binds every address: one UDP socket per worker, which share the address (SO_REUSEPORT), and one TCP listener. An
// address need not exist yet (IP_FREEBIND). During an upgrade the successor binds the same addresses while this process
// still answers, so no query is lost.
func listenAll(ctx context.Context, addrs []netip.AddrPort, workers int) (*sockets, error) {
	k := &sockets{}
	for _, a := range addrs {
		if err := k.bind(ctx, a, workers); err != nil {
			k.close()
			return nil, err
		}
	}
	return k, nil
}

func (k *sockets) bind(ctx context.Context, a netip.AddrPort, workers int) error {
	family := "4"
	if a.Addr().Is6() {
		family = "6"
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = setSocketOptions(int(fd), a.Addr()) }), err)
	}}
	for range workers {
		pc, err := lc.ListenPacket(ctx, "udp"+family, a.String())
		if err != nil {
			return fmt.Errorf("listen on udp %s: %w", a, err)
		}
		u := pc.(*net.UDPConn)
		_ = u.SetReadBuffer(4 << 20) // as far as rmem_max allows
		_ = u.SetWriteBuffer(1 << 20)
		k.udp = append(k.udp, u)
	}
	l, err := lc.Listen(ctx, "tcp"+family, a.String())
	if err != nil {
		return fmt.Errorf("listen on tcp %s: %w", a, err)
	}
	k.tcp = append(k.tcp, l)
	return nil
}

// setSocketOptions sets the options that must precede bind. A socket on an unspecified address also receives the destination
// address of each packet (IP_PKTINFO), so that the answer has that source.
func setSocketOptions(fd int, a netip.Addr) error {
	set := func(level, opt int) error { return unix.SetsockoptInt(fd, level, opt, 1) }
	err := errors.Join(set(unix.SOL_SOCKET, unix.SO_REUSEADDR), set(unix.SOL_SOCKET, unix.SO_REUSEPORT))
	if a.Is4() {
		err = errors.Join(err, set(unix.IPPROTO_IP, unix.IP_FREEBIND))
		if a.IsUnspecified() {
			err = errors.Join(err, set(unix.IPPROTO_IP, unix.IP_PKTINFO))
		}
		return err
	}
	err = errors.Join(err, set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY), set(unix.IPPROTO_IPV6, unix.IPV6_FREEBIND))
	if a.IsUnspecified() {
		err = errors.Join(err, set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO))
	}
	return err
}
