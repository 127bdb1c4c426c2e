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
	maxConns          = 512
	tcpIdleTimeout    = 10 * time.Second
	maxConnsPerClient = 64 // connections of one client
)

// serveTCP answers the connections of one listener. Each costs a goroutine and at most 64 KB; a client beyond its share
// is closed at once.
func (s *Server) serveTCP(ctx context.Context, l net.Listener) error {
	d := &connLimiter{s: s, slots: make(chan struct{}, maxConns), perClient: newClientConns(maxConnsPerClient)}
	for {
		c, err := l.Accept()
		switch {
		case err == nil && ctx.Err() == nil:
			d.accept(c)
		case err == nil:
			c.Close()
			return nil
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("dns: accept on tcp %s: %w", l.Addr(), err)
		default: // out of descriptors, or gone before it was taken
			s.stats.acceptErrors.Add(1)
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// connLimiter lets connections in: allowed clients, so many in all, so many each.
type connLimiter struct {
	s         *Server
	slots     chan struct{}
	perClient *clientConns
}

func (d *connLimiter) accept(c net.Conn) {
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	if !d.s.access.allowed(from.Addr()) || !d.acquire(from.Addr()) {
		d.s.stats.tcpRefused.Add(1)
		c.Close()
		return
	}
	if !d.s.spawn(func(ctx context.Context) {
		defer d.release(from.Addr())
		d.s.serveConn(ctx, c, from)
	}) {
		d.release(from.Addr())
		c.Close()
	}
}

func (d *connLimiter) acquire(a netip.Addr) bool {
	if !d.perClient.acquire(a) {
		return false
	}
	select {
	case d.slots <- struct{}{}:
		return true
	default:
		d.perClient.release(a)
		return false
	}
}

func (d *connLimiter) release(a netip.Addr) {
	<-d.slots
	d.perClient.release(a)
}

// serveConn answers one connection's questions in their order.
func (s *Server) serveConn(ctx context.Context, c net.Conn, from netip.AddrPort) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer c.Close()
	a := responder{s: s, counters: s.stats.sharedCounters()}
	in, out := make([]byte, 0, 1024), make([]byte, 0, 4096)
	for {
		_ = c.SetDeadline(time.Now().Add(tcpIdleTimeout))
		var err error
		if in, err = readFrame(c, in); err != nil || len(in) < headerLen {
			return
		}
		a.now = time.Now()
		body, v := a.answer(out[:0], in, from.Addr(), tcpSize, false)
		if v == deferred {
			body = s.resolvePacket(ctx, in, from, tcpSize, a.counters)
		} else if s.logQueriesOn.Load() && v == answered {
			s.logQuery(from, body)
		}
		if len(body) == 0 {
			return
		}
		a.counters.observe(time.Since(a.now), 1)
		_ = c.SetDeadline(time.Now().Add(tcpIdleTimeout))
		if err := writeFrame(c, body); err != nil {
			return
		}
	}
}

// readFrame reads a message behind its two bytes of length, into buf when it is large enough.
func readFrame(r io.Reader, buf []byte) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > cap(buf) {
		buf = make([]byte, n)
	}
	_, err := io.ReadFull(r, buf[:n])
	return buf[:n], err
}

func writeFrame(w io.Writer, body []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(body)), uint16(len(body))), body...))
	return err
}
