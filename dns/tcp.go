package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/warrennet/warren/dns/wire"
)

const (
	maxConns          = 512 // per listener
	maxConnsPerClient = 64
	tcpIdleTimeout    = 10 * time.Second
	acceptRetry       = 10 * time.Millisecond
)

// serveTCP answers the connections of one listener. A connection costs a goroutine and at most 64 KB. Connections beyond
// the share of their client are closed at once.
func (s *Server) serveTCP(ctx context.Context, l net.Listener) error {
	conns := newClientConns(maxConns, maxConnsPerClient)
	for {
		c, err := l.Accept()
		switch {
		case err == nil && ctx.Err() == nil:
			s.accept(c, conns)
		case err == nil:
			c.Close()
			return nil
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("dns: accept on tcp %s: %w", l.Addr(), err)
		default: // no file descriptor left, or the client closed the connection
			select {
			case <-time.After(acceptRetry):
			case <-ctx.Done():
			}
		}
	}
}

// accept serves a connection of an allowed client, unless the client has its share of the connections.
func (s *Server) accept(c net.Conn, conns *clientConns) {
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	if !s.access.allowed(from.Addr()) || !conns.add(from.Addr(), c) {
		s.stats.tcpRefused.Add(1)
		c.Close()
		return
	}
	if !s.tasks.spawn(func(ctx context.Context) {
		defer conns.remove(from.Addr(), c)
		s.serveConn(ctx, c, from)
	}) {
		conns.remove(from.Addr(), c)
		c.Close()
	}
}

// serveConn answers the queries of one connection in their order.
func (s *Server) serveConn(ctx context.Context, c net.Conn, from netip.AddrPort) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer c.Close()
	a := responder{s: s, counters: s.stats.sharedCounters()}
	in, out := make([]byte, 0, 1024), make([]byte, 0, 4096)
	for {
		_ = c.SetDeadline(time.Now().Add(tcpIdleTimeout))
		var err error
		if in, err = wire.ReadFrame(c, in); err != nil || len(in) < wire.HeaderLen {
			return
		}
		a.now = s.cfg.now()
		body, v := a.answer(out[:0], in, from.Addr(), wire.TCPSize)
		if v == deferred {
			body = s.resolvePacket(ctx, in, from, wire.TCPSize, a.counters)
		} else if s.logQueriesOn.Load() && v == answered {
			s.logQuery(from, body)
		}
		if len(body) == 0 {
			return
		}
		a.counters.observe(s.cfg.now().Sub(a.now), 1)
		_ = c.SetDeadline(time.Now().Add(tcpIdleTimeout))
		if err := wire.WriteFrame(c, body); err != nil {
			return
		}
	}
}
