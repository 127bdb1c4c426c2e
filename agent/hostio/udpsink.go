package hostio

import (
	"fmt"
	"log/slog"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// UDPSinks are UDP sockets with a filter that drops everything. They exist only to suppress ICMP port unreachable: the kernel
// would send it for a reassembled datagram to a node port, because no socket is bound there, although the agent has forwarded
// that datagram (reassembled.go). A sink is bound to one address and not connected, so that the kernel's early demux does not
// select it for forwarded packets.
type UDPSinks struct {
	log    *slog.Logger
	open   map[netip.AddrPort]int // file descriptors
	failed map[netip.AddrPort]bool
}

// NewUDPSinks opens nothing yet.
func NewUDPSinks(log *slog.Logger) *UDPSinks {
	return &UDPSinks{log: log, open: map[netip.AddrPort]int{}, failed: map[netip.AddrPort]bool{}}
}

// Set opens and closes sinks until they are those desired. A failure is logged once per address.
func (s *UDPSinks) Set(desired map[netip.AddrPort]bool) {
	for at, fd := range s.open {
		if !desired[at] {
			unix.Close(fd)
			delete(s.open, at)
		}
	}
	for at := range desired {
		if _, ok := s.open[at]; ok {
			continue
		}
		fd, err := openUDPSink(at)
		if err != nil {
			if !s.failed[at] {
				s.log.Info("cannot bind UDP sink for node port; clients sending fragments may receive ICMP port unreachable", "address", at,
					"err", err)
			}
			s.failed[at] = true
			continue
		}
		delete(s.failed, at)
		s.open[at] = fd
	}
}

// Close closes all sinks.
func (s *UDPSinks) Close() { s.Set(nil) }

func openUDPSink(at netip.AddrPort) (fd int, err error) {
	family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is6() {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	} else {
		addr.(*unix.SockaddrInet4).Addr = at.Addr().As4()
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	drop, _ := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	filter := unix.SockFilter{Code: drop[0].Op, K: drop[0].K}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &filter})
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", at, err)
	}
	return fd, nil
}
