package agent

import (
	"errors"
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

// relays serve node ports and host ports on ::1. The kernel takes no packet from ::1 on another link than lo, so what the
// hook does for 127.0.0.1 cannot be done here: a socket of the agent takes the connection and makes another one to the
// same port of the node's own address. Only the apply loop uses it.
type relays struct {
	log  *slog.Logger
	open map[plan.Relay]relay
	said map[plan.Relay]bool // a port that could not be opened, reported once
}

// relay is the socket of one.
type relay interface {
	io.Closer
	syscall.Conn
}

// set opens and closes sockets so that they are those wanted.
func (r *relays) set(want map[plan.Relay]bool) {
	if r.open == nil {
		r.open, r.said = map[plan.Relay]relay{}, map[plan.Relay]bool{}
	}
	for k, c := range r.open {
		if !want[k] {
			c.Close()
			delete(r.open, k)
		}
	}
	for k := range want {
		if r.open[k] != nil {
			continue
		}
		c, err := openRelay(netip.AddrPortFrom(netip.IPv6Loopback(), k.Port), netip.AddrPortFrom(k.To, k.Port), k.Protocol)
		if err != nil {
			if !r.said[k] {
				r.log.Warn("a node port cannot be served on ::1", "port", k.Port, "protocol", k.Protocol, "err", err)
			}
			r.said[k] = true
			continue
		}
		delete(r.said, k)
		r.open[k] = c
	}
}

func (r *relays) close() { r.set(nil) }

func openRelay(at, to netip.AddrPort, proto model.Protocol) (relay, error) {
	if proto == model.UDP {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return nil, err
		}
		u := &udpRelay{from: c, to: to, peers: map[netip.AddrPort]*net.UDPConn{}}
		go u.run()
		return c, nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	go relayTCP(l, to)
	return l, nil
}

// relayTCP serves until the listener is closed; connections that were made live on.
func relayTCP(l net.Listener, to netip.AddrPort) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, for instance
			time.Sleep(50 * time.Millisecond)
			continue
		}
		go func() {
			defer c.Close()
			d, err := net.DialTimeout("tcp", to.String(), 5*time.Second)
			if err != nil {
				_ = c.(*net.TCPConn).SetLinger(0) // a refusal there is one here
				return
			}
			defer d.Close()
			splice(c.(*net.TCPConn), d.(*net.TCPConn))
		}()
	}
}

// splice copies both ways; an end of one direction is passed on, the other goes on.
func splice(a, b *net.TCPConn) {
	var wg sync.WaitGroup
	one := func(dst, src *net.TCPConn) {
		_, _ = io.Copy(dst, src)
		_ = dst.CloseWrite()
	}
	wg.Go(func() { one(a, b) })
	wg.Go(func() { one(b, a) })
	wg.Wait()
}

// Bounds of a UDP relay.
const (
	relayIdle  = time.Minute
	relayPeers = 1024 // clients at once on one port
)

// udpRelay gives each client a socket of its own towards the target.
type udpRelay struct {
	from *net.UDPConn
	to   netip.AddrPort

	mu    sync.Mutex
	peers map[netip.AddrPort]*net.UDPConn
}

func (u *udpRelay) run() {
	buf := make([]byte, 65535)
	for {
		n, client, err := u.from.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			u.mu.Lock()
			for _, c := range u.peers {
				c.Close()
			}
			u.mu.Unlock()
			return
		}
		if err != nil {
			continue // an ICMP error of a datagram before
		}
		if c := u.peer(client); c != nil {
			_, _ = c.Write(buf[:n])
		}
	}
}

func (u *udpRelay) peer(client netip.AddrPort) *net.UDPConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.peers[client]
	if c == nil && len(u.peers) < relayPeers {
		var err error
		if c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(u.to)); err != nil {
			return nil
		}
		u.peers[client] = c
		go u.back(client, c)
	}
	if c != nil {
		_ = c.SetReadDeadline(time.Now().Add(relayIdle))
	}
	return c
}

// back carries answers until the client has been silent for relayIdle.
func (u *udpRelay) back(client netip.AddrPort, c *net.UDPConn) {
	buf := make([]byte, 65535)
	for {
		n, err := c.Read(buf)
		if err != nil {
			u.mu.Lock()
			delete(u.peers, client)
			u.mu.Unlock()
			c.Close()
			return
		}
		_, _ = u.from.WriteToUDPAddrPort(buf[:n], client)
	}
}
