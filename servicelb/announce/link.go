package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// link is a network link with its packet sockets open: one for ARP, one for neighbour messages, and one that holds the
// memberships of groups, so that the kernel lets their frames in and reports them (MLD) to switches that listen.
type link struct {
	lan
	index  int
	files  []*os.File // ARP, then neighbour messages
	groups int        // a datagram socket
	joined map[netip.Addr]int
}

// openLink opens a link's sockets; each needs CAP_NET_RAW.
func openLink(l lan, index int) (*link, error) {
	out := &link{lan: l, index: index, joined: map[netip.Addr]int{}, groups: -1}
	var err error
	for _, kind := range []uint16{etherARP, etherIPv6} {
		f, e := packetSocket(index, kind)
		if err = e; err != nil {
			break
		}
		out.files = append(out.files, f)
	}
	if err == nil {
		// No IPv6 on this machine: there will be no IPv6 address to announce either.
		if out.groups, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); errors.Is(err, unix.EAFNOSUPPORT) {
			err = nil
		}
	}
	if err != nil {
		out.close()
		return nil, fmt.Errorf("link %s: %w", l.name, err)
	}
	return out, nil
}

// packetSocket opens a packet socket on a link for one EtherType; of IPv6 it gets neighbour messages alone.
func packetSocket(index int, kind uint16) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // silent until bound
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	if kind == etherIPv6 {
		err = attach(fd, neighbourFilter)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap(kind), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

func swap(v uint16) uint16 { return v<<8 | v>>8 }

// neighbourFilter passes neighbour solicitations and advertisements without extension headers (RFC 6980 forbids the one
// that would make sense).
var neighbourFilter = []bpf.Instruction{
	bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoICMP6, SkipTrue: 4},
	bpf.LoadAbsolute{Off: etherLen + ipv6Len, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: ndSolicit, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ndAdvert, SkipTrue: 1},
	bpf.RetConstant{Val: 2048},
	bpf.RetConstant{Val: 0},
}

func attach(fd int, prog []bpf.Instruction) error {
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

// send writes a frame; its EtherType says by which socket.
func (l *link) send(frame []byte) error {
	f := l.files[0]
	if binary.BigEndian.Uint16(frame[12:]) == etherIPv6 {
		f = l.files[1]
	}
	if _, err := f.Write(frame); err != nil {
		return fmt.Errorf("send on %s: %w", l.name, err)
	}
	return nil
}

// join and leave count how many of our addresses need a group: several may share one.
func (l *link) join(a netip.Addr) error {
	if a.Is4() {
		return nil
	}
	g := solicitedNode(a)
	if l.joined[g]++; l.joined[g] > 1 {
		return nil
	}
	return l.membership(unix.IPV6_JOIN_GROUP, "join", g)
}

func (l *link) leave(a netip.Addr) error {
	g := solicitedNode(a)
	if a.Is4() || l.joined[g] == 0 {
		return nil
	}
	if l.joined[g]--; l.joined[g] > 0 {
		return nil
	}
	delete(l.joined, g)
	return l.membership(unix.IPV6_LEAVE_GROUP, "leave", g)
}

func (l *link) membership(opt int, verb string, g netip.Addr) error {
	if err := unix.SetsockoptIPv6Mreq(l.groups, unix.IPPROTO_IPV6, opt, &unix.IPv6Mreq{Multiaddr: g.As16(), Interface: uint32(l.index)}); err != nil {
		return fmt.Errorf("%s group %s on %s: %w", verb, g, l.name, err)
	}
	return nil
}

// close ends the sockets, and with them the memberships; readers return.
func (l *link) close() {
	for _, f := range l.files {
		f.Close()
	}
	if l.groups >= 0 {
		unix.Close(l.groups)
	}
}

// read hands on what is said on one of the link's sockets until it is closed.
func (l *link) read(f *os.File, on func(sighting)) {
	buf := make([]byte, 2048)
	for {
		n, err := f.Read(buf)
		switch {
		case err == nil:
			if s, ok := parseFrame(buf[:n]); ok {
				on(s)
			}
		case errors.Is(err, unix.ENETDOWN): // told once when the link goes down; it may come back
		default:
			return
		}
	}
}

// parseMAC converts a link's hardware address; ok is false for one that is not Ethernet's.
func parseMAC(h net.HardwareAddr) (m mac, ok bool) {
	if len(h) != len(m) {
		return m, false
	}
	copy(m[:], h)
	return m, m != nobody
}
