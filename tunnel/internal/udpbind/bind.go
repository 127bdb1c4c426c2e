// Package udpbind sends and receives the tunnel's UDP datagrams in batches, with UDP_SEGMENT and UDP_GRO: it is the conn.Bind of
// the WireGuard device. It owns a descriptor of one UDP socket per address family, either of which may be missing, and starts no
// goroutine.
//
// Fragmentation of the datagrams: IPv4 goes out without DF (IP_PMTUDISC_DONT, as the kernel's own WireGuard does), so that a path
// narrower than configured fragments them instead of losing them, even where ICMP is filtered. IPv6 routers cannot fragment, so
// there the kernel fragments to the path MTU it has learned (IPV6_PMTUDISC_WANT). Fragmentation is a safety net: the tunnel's MTU
// is derived from the path. The one datagram that is never fragmented is a path MTU probe.
package udpbind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/backpressure"
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// Config is what a Bind needs.
type Config struct {
	SegmentationOffload bool // use UDP_SEGMENT and UDP_GRO
	// Sockets keep the sockets open while the Bind is closed. nil: they end with Close, and port 0 is allowed.
	Sockets *listen.Sockets
	Log     *slog.Logger
	Stats   *counters.Set
	// Probe has the buffer of a datagram that must be sent with DF: the TUN device stores the buffer that it cut a path MTU probe
	// into, and the WireGuard device passes the same buffer to Send. nil: there are no probes.
	Probe *atomic.Pointer[byte]
	// Out and In count the packets that the WireGuard device holds; the TUN device shares them. nil: no limit.
	Out, In *backpressure.Gate
}

// Bind is the network of the WireGuard device.
type Bind struct {
	sockets *listen.Sockets
	log     *slog.Logger
	stats   *counters.Set
	gso     bool // UDP_SEGMENT and UDP_GRO are allowed by the configuration
	probe   *atomic.Pointer[byte]
	out, in *backpressure.Gate

	mu   sync.RWMutex // guards the sockets against reopening
	v4   *socket
	v6   *socket
	mark uint32
	pool sync.Pool // of *batch
}

var _ conn.Bind = (*Bind)(nil)

// socket is one UDP socket with the state of its offloads.
type socket struct {
	conn   *net.UDPConn
	raw    syscall.RawConn
	family model.Family
	gro    bool        // UDP_GRO is enabled
	gso    atomic.Bool // UDP_SEGMENT is in use
	good   atomic.Bool // and has worked
}

// New returns a Bind; Open makes its sockets.
func New(c Config) *Bind {
	b := &Bind{sockets: c.Sockets, gso: c.SegmentationOffload, log: c.Log, stats: c.Stats, probe: c.Probe, out: c.Out, in: c.In}
	b.pool.New = func() any { return newBatch() }
	return b
}

// socketBuffer holds about 10 ms at 5 Gbit/s; the kernel's default of 200 KB overflows in one scheduling delay.
const socketBuffer = 7 << 20

// Open binds both families to one port; port 0 chooses one that is free in both.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.v4 != nil || b.v6 != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	var err error
	for range 100 {
		var got uint16
		if got, err = b.openBoth(port); err == nil {
			return b.receivers(), got, nil
		}
		if port != 0 || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return nil, 0, err
}

func (b *Bind) openBoth(port uint16) (uint16, error) {
	v4, err4 := b.listen(model.IPv4, port)
	if err4 != nil && !absent(err4) {
		return 0, err4
	}
	if v4 != nil {
		port = v4.port()
	}
	v6, err6 := b.listen(model.IPv6, port)
	if err6 != nil && (v4 == nil || !absent(err6)) {
		if v4 != nil {
			v4.conn.Close()
		}
		return 0, err6
	}
	if v6 != nil {
		port = v6.port()
	}
	b.v4, b.v6 = v4, v6
	return port, nil
}

// absent reports whether the host does not support the address family.
func absent(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// missing names the UDP offloads that are not in use.
func (s *socket) missing() string {
	var names []string
	if !s.gso.Load() {
		names = append(names, network(s.family)+"-segment")
	}
	if !s.gro {
		names = append(names, network(s.family)+"-gro")
	}
	return strings.Join(names, ",")
}

// network is the name of the socket's network in package net.
func network(f model.Family) string {
	return [...]string{model.IPv4: "udp4", model.IPv6: "udp6"}[f]
}

func (s *socket) port() uint16 { return uint16(s.conn.LocalAddr().(*net.UDPAddr).Port) }

// Role is that of the tunnel's sockets.
const Role = "wireguard"

// Hold opens the sockets of a port and keeps them for Open, which then does not fail on a port that is in use.
func (b *Bind) Hold(ctx context.Context, port uint16) error {
	if b.sockets == nil {
		return nil
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	v4, v6 := b.socket(&socket{family: model.IPv4}, port), b.socket(&socket{family: model.IPv6}, port)
	b.sockets.Keep(Role, v4, v6)
	err4, err6 := b.sockets.Hold(ctx, v4), b.sockets.Hold(ctx, v6)
	if err4 != nil && !absent(err4) {
		return err4
	}
	if err6 != nil && (err4 != nil || !absent(err6)) {
		return err6
	}
	return nil
}

// socket is how the socket of a family and port is opened.
func (b *Bind) socket(s *socket, port uint16) listen.Socket {
	return listen.Socket{Role: Role, Network: network(s.family), Address: ":" + strconv.Itoa(int(port)),
		Options: func(fd int) error { return b.options(fd, s) }}
}

func (b *Bind) listen(f model.Family, port uint16) (*socket, error) {
	s := &socket{family: f}
	from := b.sockets
	if from == nil {
		from = listen.New(listen.Config{Log: b.log})
		defer from.Close()
	}
	var err error
	if s.conn, err = from.Packet(context.Background(), b.socket(s, port)); err != nil {
		return nil, fmt.Errorf("listen on UDP port %d: %w", port, err)
	}
	s.raw, err = s.conn.SyscallConn()
	return s, err
}

// options sets the options of a socket. Buffer sizes and offloads are best effort; the other options are mandatory.
func (b *Bind) options(fd int, s *socket) error {
	for _, o := range []int{unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, socketBuffer)
	}
	if b.mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(b.mark)); err != nil {
			return fmt.Errorf("set mark: %w", err)
		}
	}
	if b.gso {
		_, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
		s.gso.Store(err == nil)
		s.gro = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
		if !s.gso.Load() || !s.gro {
			b.stats.Downgrades.Add(1)
			b.log.Warn("kernel lacks a UDP offload; sending or receiving single datagrams", "name", s.missing())
		}
	}
	if s.family == model.IPv6 {
		var err error
		if only, e := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); e != nil || only == 0 { // fixed once bound
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		}
		return errors.Join(err,
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_WANT))
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT))
}

func (b *Bind) receivers() (fns []conn.ReceiveFunc) {
	for _, s := range []*socket{b.v4, b.v6} {
		if s != nil {
			r := newReceiver(s, b.stats, b.in)
			fns = append(fns, r.receive)
		}
	}
	return fns
}

// Close closes the sockets; receive functions then return net.ErrClosed.
func (b *Bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	for _, s := range []*socket{b.v4, b.v6} {
		if s != nil {
			err = errors.Join(err, s.conn.Close())
		}
	}
	b.v4, b.v6 = nil, nil
	return err
}

// SetMark sets SO_MARK on the sockets, now and when they are opened again.
func (b *Bind) SetMark(mark uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mark = mark
	var err error
	for _, s := range []*socket{b.v4, b.v6} {
		if s != nil {
			cerr := s.raw.Control(func(fd uintptr) {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
			})
			err = errors.Join(err, cerr)
		}
	}
	return err
}

// ParseEndpoint reads "address:port".
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return NewEndpoint(ap), nil
}

// BatchSize is constant.
func (b *Bind) BatchSize() int { return limits.MaxBatch }

// socketFor returns the socket of the address's family; nil when the host does not support it or the Bind is closed.
func (b *Bind) socketFor(a netip.Addr) *socket {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if a.Is4() {
		return b.v4
	}
	return b.v6
}

// zoneIndex returns the interface index of a zone; 0 for a name that does not exist, with which the send fails.
func zoneIndex(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}

// Offloads names the offloads in use.
func (b *Bind) Offloads() (names []string) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, s := range []*socket{b.v4, b.v6} {
		if s == nil {
			continue
		}
		if s.gso.Load() {
			names = append(names, network(s.family)+"-segment")
		}
		if s.gro {
			names = append(names, network(s.family)+"-gro")
		}
	}
	return names
}
