package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Fragments that arrive for the node's own addresses are not steered to the TUN, whatever port their datagram is for: a rule that
// names ports does not match them, and one that does not would take the host's own away, the tunnel's among them. So the
// kernel puts them together for itself. What is for a node port, a host port or a masqueraded one is then read from a raw
// socket beside it, which whole datagrams never come to.

// datagrams says which ports are read. Its zero value reads none.
type datagrams struct {
	mu    sync.Mutex
	ports []hostnet.Ports
	open  map[bool]*rawUDP // true for IPv6
}

// rawUDP is the raw socket of one family.
type rawUDP struct {
	conn *net.IPConn
	v6   *ipv6.PacketConn // nil for IPv4
}

// set changes which ports are read.
func (d *datagrams) set(ports []hostnet.Ports) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Equal(ports, d.ports) {
		return nil
	}
	var errs []error
	for _, c := range d.open {
		errs = append(errs, c.filter(ports))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("filter of raw UDP sockets: %w", err)
	}
	d.ports = ports
	return nil
}

func (d *datagrams) listen(v6 bool) (*rawUDP, error) {
	network, addr := "ip4:udp", net.IPv4zero
	if v6 {
		network, addr = "ip6:udp", net.IPv6zero
	}
	c, err := net.ListenIP(network, &net.IPAddr{IP: addr})
	if err != nil {
		return nil, err
	}
	r := &rawUDP{conn: c}
	if v6 {
		r.v6 = ipv6.NewPacketConn(c)
		err = r.v6.SetControlMessage(ipv6.FlagDst, true)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err = errors.Join(err, c.SetReadBuffer(rawBuffer), r.filter(d.ports)); err != nil {
		c.Close()
		return nil, err
	}
	if d.open == nil {
		d.open = map[bool]*rawUDP{}
	}
	d.open[v6] = r
	return r, nil
}

func (d *datagrams) close(v6 bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[v6].conn.Close()
	delete(d.open, v6)
}

// rawBuffer is the memory in bytes for what was not read yet.
const rawBuffer = 1 << 20

// filter lets datagrams for the steered ports pass. It sees an IPv4 packet from its header on, an IPv6 one from its datagram's.
func (r *rawUDP) filter(ports []hostnet.Ports) error {
	read := []bpf.Instruction{bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: 2, Size: 2}}
	if r.v6 != nil {
		read = []bpf.Instruction{bpf.LoadAbsolute{Off: 2, Size: 2}}
	}
	prog, err := bpf.Assemble(append(read, passPorts(ports)...))
	if err != nil {
		return err
	}
	if r.v6 != nil {
		return r.v6.SetBPF(prog)
	}
	return ipv4.NewPacketConn(r.conn).SetBPF(prog)
}

// maxPassed bounds the ranges, three instructions each: a filter has 4,096 at most.
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

// watchDatagrams feeds what arrives for one family to the balancer until ctx ends.
func (a *Agent) watchDatagrams(ctx context.Context, v6 bool) error {
	r, err := a.datagrams.listen(v6)
	if err != nil {
		return fmt.Errorf("raw UDP socket: %w", err)
	}
	defer context.AfterFunc(ctx, func() { a.datagrams.close(v6) })()
	buf := make([]byte, 40+65535)
	for {
		b, err := r.read(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			continue // one odd datagram is not worth the loop
		}
		a.fromHost(b)
	}
}

// read returns one datagram as a packet that may be fragmented anew.
func (r *rawUDP) read(buf []byte) ([]byte, error) {
	if r.v6 == nil {
		n, _, _, _, err := r.conn.ReadMsgIP(buf, nil) // with its header
		if err == nil && n < 20 {
			err = errors.New("no header")
		}
		if err != nil {
			return nil, err
		}
		buf[6], buf[7] = 0, 0
		q := packet.Packet{Buf: buf[:n], Version: 4}
		q.FixIPChecksum()
		return buf[:n], nil
	}
	n, cm, from, err := r.v6.ReadFrom(buf[40:])
	if err != nil {
		return nil, err
	}
	ip, ok := from.(*net.IPAddr)
	if !ok || cm == nil {
		return nil, errors.New("no addresses")
	}
	src, okSrc := netip.AddrFromSlice(ip.IP)
	dst, okDst := netip.AddrFromSlice(cm.Dst)
	if !okSrc || !okDst {
		return nil, errors.New("no addresses")
	}
	return rebuild(buf, n, packet.ProtoUDP, src, dst), nil
}
