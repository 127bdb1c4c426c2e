package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	tcpClients = 512
	tcpIdle    = 10 * time.Second
	tcpPerson  = 64 // connections of one client
)

// serveTCP answers the connections of one listener. Each costs a goroutine and at most 64 KB; a client beyond its share
// is closed at once.
func (s *Server) serveTCP(ctx context.Context, l net.Listener) error {
	slots := make(chan struct{}, tcpClients)
	shares := newShares(tcpPerson)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		var ne net.Error
		if errors.As(err, &ne) && !errors.Is(err, net.ErrClosed) {
			s.stats.acceptErrors.Add(1) // out of descriptors, or gone before it was taken
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("dns: accept on tcp %s: %w", l.Addr(), err)
		}
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if !s.access.allowed(from.Addr()) || !shares.take(from.Addr()) {
			s.stats.tcpRefused.Add(1)
			c.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			s.stats.tcpRefused.Add(1)
			shares.give(from.Addr())
			c.Close()
			continue
		}
		if !s.spawn(func(ctx context.Context) {
			defer func() { <-slots; shares.give(from.Addr()) }()
			s.serveConn(ctx, c, from)
		}) {
			c.Close()
		}
	}
}

// serveConn answers one connection's questions in their order.
func (s *Server) serveConn(ctx context.Context, c net.Conn, from netip.AddrPort) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer c.Close()
	a := asker{s: s, tally: s.stats.tcp()}
	in, out := make([]byte, 2, 4096), make([]byte, 0, 4096)
	for {
		_ = c.SetDeadline(time.Now().Add(tcpIdle))
		in = in[:2]
		if _, err := io.ReadFull(c, in); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(in))
		if n < headerLen {
			return
		}
		if n > cap(in) {
			in = make([]byte, n)
		}
		in = in[:n]
		if _, err := io.ReadFull(c, in); err != nil {
			return
		}
		a.now = time.Now()
		body, v := a.answer(out[:0], in, from.Addr(), tcpSize, false)
		if v == slow {
			body = s.slow(ctx, in, from, tcpSize, a.tally)
		} else if s.queries.Load() && v == sent {
			s.logQuery(from, body)
		}
		if len(body) == 0 {
			return
		}
		a.tally.took(time.Since(a.now), 1)
		frame := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(body)), uint16(len(body))), body...)
		_ = c.SetDeadline(time.Now().Add(tcpIdle))
		if _, err := c.Write(frame); err != nil {
			return
		}
	}
}
