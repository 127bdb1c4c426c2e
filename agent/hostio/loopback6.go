package hostio

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/model"
)

// Loopback6 serves node ports and host ports on ::1, one relay per port (see plan.Relay).
type Loopback6 struct {
	log    *slog.Logger
	open   map[plan.Relay]relay
	failed map[plan.Relay]bool
	conns  conns
}

// relay is the socket of one port. Close does not wait for its goroutines; they are joined by Loopback6.Close.
type relay interface {
	io.Closer
	syscall.Conn
}

// NewLoopback6 opens nothing yet.
func NewLoopback6(log *slog.Logger) *Loopback6 {
	return &Loopback6{log: log, open: map[plan.Relay]relay{}, failed: map[plan.Relay]bool{},
		conns: conns{open: map[net.Conn]bool{}, done: make(chan struct{})}}
}

// Set opens and closes relays until they are those desired. TCP connections of a closed relay continue; those of a deleted Service
// are ended by the balancer. It returns those that it could not open. A failure is logged once per port.
func (l *Loopback6) Set(desired map[plan.Relay]bool) error {
	var errs []error
	for k, c := range l.open {
		if !desired[k] {
			c.Close()
			delete(l.open, k)
		}
	}
	for k := range desired {
		if l.open[k] != nil {
			continue
		}
		c, err := l.conns.openRelay(netip.AddrPortFrom(netip.IPv6Loopback(), k.Port), netip.AddrPortFrom(k.To, k.Port), k.Protocol)
		if err != nil {
			if !l.failed[k] {
				l.log.Warn("cannot serve a node port on ::1", "port", k.Port, "protocol", k.Protocol, "err", err)
			}
			l.failed[k] = true
			errs = append(errs, fmt.Errorf("node port %d/%s on ::1: %w", k.Port, k.Protocol, err))
			continue
		}
		delete(l.failed, k)
		l.open[k] = c
	}
	return errors.Join(errs...)
}

// Close closes all relays, ends their connections and joins their goroutines.
func (l *Loopback6) Close() {
	_ = l.Set(nil) // opens nothing
	l.conns.close()
}

// conns are the open connections of all relays and the goroutines that serve them.
type conns struct {
	all    sync.WaitGroup
	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
	done   chan struct{} // closed by close
}

// close ends every connection. The listeners must be closed already.
func (s *conns) close() {
	s.mu.Lock()
	if !s.closed {
		close(s.done)
	}
	s.closed = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
}

// add registers a connection that close must end; it returns false after close.
func (s *conns) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.open[c] = true
	}
	return !s.closed
}

func (s *conns) remove(c net.Conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	c.Close()
}

func (s *conns) openRelay(at, to netip.AddrPort, proto model.Protocol) (relay, error) {
	if proto == model.UDP {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return nil, err
		}
		u := &udpRelay{UDPConn: c, all: &s.all, done: s.done, to: to, clients: map[netip.AddrPort]*net.UDPConn{}}
		s.all.Go(u.run)
		return u, nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	s.all.Go(func() { s.accept(l, to) })
	return l, nil
}

// dialTimeout bounds the connection from a relay to the node's own address. errorPause is the pause after a failed accept, which
// happens without free file descriptors, and after a failed read of a UDP relay.
const (
	dialTimeout = 5 * time.Second
	errorPause  = 50 * time.Millisecond
)

// pause waits for errorPause. It returns false when done is closed.
func pause(done <-chan struct{}) bool {
	select {
	case <-done:
		return false
	case <-time.After(errorPause):
		return true
	}
}

// accept connects each client to the target until the listener is closed.
func (s *conns) accept(l *net.TCPListener, to netip.AddrPort) {
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !pause(s.done) {
				return
			}
			continue
		}
		s.all.Go(func() { s.serve(c, to) })
	}
}

func (s *conns) serve(c *net.TCPConn, to netip.AddrPort) {
	defer s.remove(c)
	if !s.add(c) {
		return
	}
	d, err := net.DialTimeout("tcp", to.String(), dialTimeout)
	if err != nil {
		_ = c.SetLinger(0) // the client receives a RST, as from the target
		return
	}
	defer s.remove(d)
	if s.add(d) {
		splice(c, d.(*net.TCPConn))
	}
}

// splice copies both directions. The end of one direction is passed on, the other direction continues.
func splice(a, b *net.TCPConn) {
	var both sync.WaitGroup
	one := func(dst, src *net.TCPConn) {
		_, _ = io.Copy(dst, src)
		_ = dst.CloseWrite()
	}
	both.Go(func() { one(a, b) })
	both.Go(func() { one(b, a) })
	both.Wait()
}

// Bounds of a UDP relay.
const (
	relayIdle    = time.Minute
	relayClients = 1024 // at the same time on one port
)

// udpRelay opens for each client a socket of its own towards the target.
type udpRelay struct {
	*net.UDPConn
	to   netip.AddrPort
	all  *sync.WaitGroup
	done <-chan struct{} // closed when all relays end

	mu      sync.Mutex
	closed  bool
	clients map[netip.AddrPort]*net.UDPConn
}

// Close closes the socket and those of all clients.
func (u *udpRelay) Close() error {
	err := u.UDPConn.Close()
	u.mu.Lock()
	u.closed = true
	for _, c := range u.clients {
		c.Close()
	}
	u.mu.Unlock()
	return err
}

func (u *udpRelay) run() {
	buf := make([]byte, 65535)
	for {
		n, client, err := u.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !pause(u.done) {
				return
			}
			continue
		}
		if c := u.client(client); c != nil {
			_, _ = c.Write(buf[:n])
		}
	}
}

// client returns the socket of a client; nil if it cannot have one.
func (u *udpRelay) client(client netip.AddrPort) *net.UDPConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.clients[client]
	if c == nil && len(u.clients) < relayClients && !u.closed {
		var err error
		if c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(u.to)); err != nil {
			return nil
		}
		u.clients[client] = c
		u.all.Go(func() { u.replies(client, c) })
	}
	if c != nil {
		_ = c.SetReadDeadline(time.Now().Add(relayIdle))
	}
	return c
}

// replies forwards what the target sends until the client has sent nothing for relayIdle.
func (u *udpRelay) replies(client netip.AddrPort, c *net.UDPConn) {
	buf := make([]byte, 65535)
	for {
		n, err := c.Read(buf)
		if err != nil {
			u.mu.Lock()
			delete(u.clients, client)
			u.mu.Unlock()
			c.Close()
			return
		}
		_, _ = u.WriteToUDPAddrPort(buf[:n], client)
	}
}
