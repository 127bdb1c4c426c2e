package agent

import (
	"fmt"
	"log/slog"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// deaf are sockets that never hear anything. The kernel answers a datagram that it has put together and that no socket is for
// with an error, although the agent has passed it on (datagrams.go); and a client that is told so may give up. A socket at the
// node's UDP ports keeps the kernel quiet. It is bound to one address and connected to none, so that early demux does not
// find it for what is only forwarded. Only the apply loop uses it.
type deaf struct {
	log  *slog.Logger
	open map[netip.AddrPort]int // file descriptors
	said map[netip.AddrPort]bool
}

// set opens and closes sockets so that they are those wanted.
func (d *deaf) set(want map[netip.AddrPort]bool) {
	if d.open == nil {
		d.open, d.said = map[netip.AddrPort]int{}, map[netip.AddrPort]bool{}
	}
	for at, fd := range d.open {
		if !want[at] {
			unix.Close(fd)
			delete(d.open, at)
		}
	}
	for at := range want {
		if _, ok := d.open[at]; ok {
			continue
		}
		fd, err := openDeaf(at)
		if err != nil {
			if !d.said[at] {
				d.log.Info("no socket at a node port: clients that send it fragments may be told that nobody is there", "at", at, "err", err)
			}
			d.said[at] = true
			continue
		}
		delete(d.said, at)
		d.open[at] = fd
	}
}

func (d *deaf) close() { d.set(nil) }

func openDeaf(at netip.AddrPort) (fd int, err error) {
	family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is6() {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	} else {
		addr.(*unix.SockaddrInet4).Addr = at.Addr().As4()
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	nothing, _ := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	filter := unix.SockFilter{Code: nothing[0].Op, K: nothing[0].K}
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
