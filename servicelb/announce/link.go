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

// link is a network link with its sockets: a packet socket for ARP, one for neighbor messages, and a datagram socket that
// holds the memberships of multicast groups. With a membership the kernel receives the frames of the group and reports it
// to snooping switches (MLD).
type link struct {
	localLink
	index  int
	files  []*os.File // ARP, then neighbor messages
	groups int        // the datagram socket, -1 without IPv6
	joined map[netip.Addr]int
}

// openLink opens the sockets of a link. It needs CAP_NET_RAW.
func openLink(l localLink, index int) (*link, error) {
	out := &link{localLink: l, index: index, joined: map[netip.Addr]int{}, groups: -1}
	var err error
	for _, kind := range []uint16{etherARP, etherIPv6} {
		f, e := openPacketSocket(index, kind)
		if err = e; err != nil {
			break
		}
		out.files = append(out.files, f)
	}
	if err == nil {
		// Without IPv6 on this machine there is no IPv6 address to announce either.
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

// openPacketSocket opens a packet socket on a link for one EtherType. Of IPv6 it receives neighbor messages only.
func openPacketSocket(index int, kind uint16) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // receives nothing until bind
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	if kind == etherIPv6 {
		err = attachFilter(fd, neighborFilter)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(kind), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// neighborFilter passes neighbor solicitations and advertisements without extension headers (RFC 6980 section 5 requires
// hosts to ignore fragmented ones).
var neighborFilter = []bpf.Instruction{
	bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoICMP6, SkipTrue: 4},
	bpf.LoadAbsolute{Off: etherLen + ipv6Len, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: ndSolicitation, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ndAdvertisement, SkipTrue: 1},
	bpf.RetConstant{Val: 2048},
	bpf.RetConstant{Val: 0},
}

func attachFilter(fd int, prog []bpf.Instruction) error {
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	fprog := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, fprog); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

// send sends a frame on the socket of its EtherType.
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

// join joins the solicited-node group of an IPv6 address. Several addresses may share a group, so memberships are counted.
func (l *link) join(a netip.Addr) error {
	if a.Is4() {
		return nil
	}
	g := solicitedNode(a)
	if l.joined[g] == 0 {
		if err := l.membership(unix.IPV6_JOIN_GROUP, "join", g); err != nil {
			return err
		}
	}
	l.joined[g]++
	return nil
}

// leave undoes join.
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
	mreq := &unix.IPv6Mreq{Multiaddr: g.As16(), Interface: uint32(l.index)}
	if err := unix.SetsockoptIPv6Mreq(l.groups, unix.IPPROTO_IPV6, opt, mreq); err != nil {
		return fmt.Errorf("%s group %s on %s: %w", verb, g, l.name, err)
	}
	return nil
}

// close closes the sockets, which ends the memberships and the readers.
func (l *link) close() {
	for _, f := range l.files {
		f.Close()
	}
	if l.groups >= 0 {
		unix.Close(l.groups)
	}
}

// read passes on the observations of one socket until the socket is closed.
func (l *link) read(f *os.File, deliver func(observation)) {
	buf := make([]byte, 2048)
	for {
		n, err := f.Read(buf)
		switch {
		case err == nil:
			if o, ok := parseFrame(buf[:n]); ok {
				deliver(o)
			}
		case errors.Is(err, unix.ENETDOWN): // returned once when the link goes down; it may come up again
		default:
			return
		}
	}
}

// parseMAC converts the hardware address of a link. ok is false for one that is not an Ethernet address.
func parseMAC(h net.HardwareAddr) (m mac, ok bool) {
	if len(h) != len(m) {
		return m, false
	}
	copy(m[:], h)
	return m, m != zeroMAC
}
