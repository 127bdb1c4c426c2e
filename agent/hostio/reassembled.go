package hostio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Reassembled reads UDP datagrams to the node's own addresses that the kernel has reassembled from fragments.
//
// Fragments to the node's own addresses are not redirected to the TUN, whatever port their datagram is for: a rule with ports does
// not match them, and a rule without ports would take the host's own fragments, those of the tunnel among them. So the kernel
// reassembles them for itself. Datagrams to a node port, a host port or a masquerade port are then read from a raw socket.
// Unfragmented datagrams to those ports never reach it, because they are redirected.
type Reassembled struct {
	mu    sync.Mutex
	ports []hostnet.Ports
	open  map[model.Family]*rawUDP
}

// rawUDP is the raw socket of one family.
type rawUDP struct {
	conn *net.IPConn
	v6   *ipv6.PacketConn // nil for IPv4
}

// NewReassembled reads nothing until Set names ports and Run runs.
func NewReassembled() *Reassembled { return &Reassembled{open: map[model.Family]*rawUDP{}} }

// Set changes which ports are read. It may be called while Run runs.
func (r *Reassembled) Set(ports []hostnet.Ports) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(ports, r.ports) {
		return nil
	}
	var errs []error
	for _, c := range r.open {
		errs = append(errs, c.filter(ports))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("filter raw UDP sockets: %w", err)
	}
	r.ports = slices.Clone(ports)
	return nil
}

// Run passes the datagrams of one family to h, as IP packets, until ctx ends.
func (r *Reassembled) Run(ctx context.Context, family model.Family, h RawHandler) error {
	c, err := r.listen(family)
	if err != nil {
		return fmt.Errorf("open raw UDP socket: %w", err)
	}
	defer r.close(family)
	defer context.AfterFunc(ctx, func() { c.conn.Close() })()
	h.Opened()
	buf := make([]byte, headroom+maxMessage)
	for {
		b, err := c.read(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err == nil { // a datagram that cannot be read is dropped
			h.Deliver(b)
		}
	}
}

// rawBuffer is the receive buffer in bytes.
const rawBuffer = 1 << 20

func (r *Reassembled) listen(family model.Family) (*rawUDP, error) {
	network := "ip4:udp"
	if family == model.IPv6 {
		network = "ip6:udp"
	}
	c, err := net.ListenIP(network, &net.IPAddr{IP: family.Unspecified().AsSlice()})
	if err != nil {
		return nil, err
	}
	u := &rawUDP{conn: c}
	if family == model.IPv6 {
		u.v6 = ipv6.NewPacketConn(c)
		err = u.v6.SetControlMessage(ipv6.FlagDst, true)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err = errors.Join(err, c.SetReadBuffer(rawBuffer), u.filter(r.ports)); err != nil {
		c.Close()
		return nil, err
	}
	r.open[family] = u
	return u, nil
}

func (r *Reassembled) close(family model.Family) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[family].conn.Close()
	delete(r.open, family)
}

// filter lets datagrams to the ports pass. The filter of an IPv4 socket starts at the IP header, that of an IPv6 socket at the UDP
// header.
func (u *rawUDP) filter(ports []hostnet.Ports) error {
	loadPort := []bpf.Instruction{bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: 2, Size: 2}}
	if u.v6 != nil {
		loadPort = []bpf.Instruction{bpf.LoadAbsolute{Off: 2, Size: 2}}
	}
	prog, err := bpf.Assemble(append(loadPort, passPorts(ports)...))
	if err != nil {
		return err
	}
	if u.v6 != nil {
		return u.v6.SetBPF(prog)
	}
	return ipv4.NewPacketConn(u.conn).SetBPF(prog)
}

// maxPassed bounds the ranges, three instructions each: a filter has 4,096 at most (BPF_MAXINSNS).
const maxPassed = 1000

func passPorts(ports []hostnet.Ports) (out []bpf.Instruction) {
	for _, r := range ports[:min(len(ports), maxPassed)] {
		out = append(out,
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(r.Lo), SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(r.Hi), SkipTrue: 1},
			bpf.RetConstant{Val: 1 << 18})
	}
	return append(out, bpf.RetConstant{Val: 0})
}

// read returns one datagram as a packet without fragmentation fields.
func (u *rawUDP) read(buf []byte) ([]byte, error) {
	if u.v6 == nil {
		n, _, _, _, err := u.conn.ReadMsgIP(buf, nil) // with its header
		if err == nil && n < 20 {
			err = errors.New("packet without an IP header")
		}
		if err != nil {
			return nil, err
		}
		buf[6], buf[7] = 0, 0
		q := packet.Packet{Buf: buf[:n], Version: 4}
		q.FixIPChecksum()
		return buf[:n], nil
	}
	n, cm, from, err := u.v6.ReadFrom(buf[headroom:])
	if err != nil {
		return nil, err
	}
	if cm == nil {
		return nil, errNoAddresses
	}
	src, dst, err := addresses(from, cm.Dst)
	if err != nil {
		return nil, err
	}
	return rebuild(buf, n, packet.ProtoUDP, src, dst), nil
}
