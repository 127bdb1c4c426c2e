package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrennet/warren/internal/listen"
)

func defaultWorkers() int { return min(runtime.GOMAXPROCS(0), 4) }

// Role is that of the server's sockets.
const Role = "dns"

// sockets are all sockets of a server. The workers of an address have descriptors of one UDP socket, and not a group of sockets
// (SO_REUSEPORT): the kernel would admit sockets of other processes of the same user to the group.
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

// stop ends blocked reads and closes the listeners. UDP descriptors stay open for answers that are not sent yet.
func (k *sockets) stop() {
	for _, c := range k.udp {
		_ = c.SetReadDeadline(time.Unix(1, 0))
	}
	for _, l := range k.tcp {
		l.Close()
	}
}

// listenAll opens every address: one UDP socket with a descriptor per worker, and one TCP listener. An address need not exist yet
// (IP_FREEBIND).
func listenAll(ctx context.Context, from *listen.Sockets, addrs []netip.AddrPort, workers int) (*sockets, error) {
	var all []listen.Socket
	for _, a := range addrs {
		all = append(all, socketOf("udp", a), socketOf("tcp", a))
	}
	from.Keep(Role, all...)
	k := &sockets{}
	for _, a := range addrs {
		if err := k.open(ctx, from, a, workers); err != nil {
			k.close()
			return nil, err
		}
	}
	return k, nil
}

// Hold opens the sockets of a server on these addresses, for its Run.
func Hold(ctx context.Context, from *listen.Sockets, addrs []netip.AddrPort) error {
	k, err := listenAll(ctx, from, addrs, 1)
	if err != nil {
		return err
	}
	k.close()
	return nil
}

func (k *sockets) open(ctx context.Context, from *listen.Sockets, a netip.AddrPort, workers int) error {
	for range workers {
		u, err := from.Packet(ctx, socketOf("udp", a))
		if err != nil {
			return err
		}
		k.udp = append(k.udp, u)
	}
	l, err := from.Listen(ctx, socketOf("tcp", a))
	if err != nil {
		return err
	}
	k.tcp = append(k.tcp, l)
	return nil
}

// socketOf is the socket of a protocol on an address.
func socketOf(protocol string, a netip.AddrPort) listen.Socket {
	network := protocol + "4"
	if a.Addr().Is6() {
		network = protocol + "6"
	}
	k := listen.Socket{Role: Role, Network: network, Address: a.String(),
		Options: func(fd int) error { return addressOptions(fd, a.Addr()) }}
	if protocol == "udp" {
		k.Options = func(fd int) error {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20) // as far as rmem_max allows
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
			return addressOptions(fd, a.Addr())
		}
	}
	return k
}

// addressOptions sets the options of a socket on that address. A socket on an unspecified address also receives the destination
// address of each packet (IP_PKTINFO), so that the answer has that source. A UDP socket has neither SO_REUSEADDR nor SO_REUSEPORT:
// with the same option another process could bind the same port and receive queries.
func addressOptions(fd int, a netip.Addr) error {
	set := func(level, opt int) error { return unix.SetsockoptInt(fd, level, opt, 1) }
	if a.Is4() {
		err := set(unix.IPPROTO_IP, unix.IP_FREEBIND)
		if a.IsUnspecified() {
			err = errors.Join(err, set(unix.IPPROTO_IP, unix.IP_PKTINFO))
		}
		return err
	}
	err := set(unix.IPPROTO_IPV6, unix.IPV6_FREEBIND)
	if only, e := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); e != nil || only == 0 { // fixed once bound
		err = errors.Join(err, set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY))
	}
	if a.IsUnspecified() {
		err = errors.Join(err, set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO))
	}
	if err != nil {
		return fmt.Errorf("set socket options for %s: %w", a, err)
	}
	return nil
}
