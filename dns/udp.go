package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/dns/wire"
)

// worker owns one descriptor of a UDP socket, which further workers share. It receives a batch, answers on the hot path, sends the
// answers, and defers the other queries to goroutines.
type worker struct {
	conn *net.UDPConn
	b    *batch
	a    responder
}

func newWorker(s *Server, c *net.UDPConn) (*worker, error) {
	b, err := newBatch(c)
	if err != nil {
		return nil, fmt.Errorf("udp %s: %w", c.LocalAddr(), err)
	}
	return &worker{conn: c, b: b, a: responder{s: s, counters: s.stats.newCounters()}}, nil
}

// run answers until ctx ends, then answers what the socket still holds: without a successor on the same socket those queries would be
// lost.
func (w *worker) run(ctx context.Context) error {
	for {
		n, err := w.b.recv()
		if ctx.Err() != nil {
			return w.drain(n, err)
		}
		if err != nil {
			return fmt.Errorf("dns: receive on udp %s: %w", w.conn.LocalAddr(), err)
		}
		w.serve(n)
	}
}

// drainBatches bounds drain: queries continue to arrive while the socket is open.
const drainBatches = 256

// drain answers what has arrived but was not received. Deferred queries get SERVFAIL, and the client queries again.
func (w *worker) drain(n int, err error) error {
	for range drainBatches {
		if err == nil && n > 0 {
			w.serve(n)
		}
		if n, err = w.b.poll(); err != nil || n == 0 {
			return nil
		}
	}
	return nil
}

// serve answers the n datagrams of one batch.
func (w *worker) serve(n int) {
	w.a.now = w.a.s.cfg.now() // one clock read per batch
	for i := range n {
		pkt, full := w.b.packet(i)
		from := w.b.source(i)
		if full || from.Port() == 0 {
			w.a.counters.malformed.Add(1)
			continue
		}
		out, v := w.a.answer(w.b.bufO[w.b.queued][:0], pkt, from.Addr(), wire.UDPSize)
		switch v {
		case answered:
			w.log(from, out)
			w.b.answer(i, len(out))
		case deferred:
			w.deferToGoroutine(i, pkt, from)
		case dropped:
			w.a.counters.malformed.Add(1)
		}
	}
	answered := w.b.queued
	w.a.counters.sendFailed.Add(uint64(w.b.flush()))
	w.a.counters.observe(w.a.s.cfg.now().Sub(w.a.now), answered)
}

// deferToGoroutine answers datagram i from a goroutine of its own.
func (w *worker) deferToGoroutine(i int, pkt []byte, from netip.AddrPort) {
	pkt, ctl, start := slices.Clone(pkt), w.b.control(i), w.a.now
	reply := func(out []byte) {
		if _, _, err := w.conn.WriteMsgUDPAddrPort(out, ctl, from); err != nil {
			w.a.counters.sendFailed.Add(1)
		}
	}
	ok := w.a.s.tasks.spawnForClient(from.Addr(), func(ctx context.Context) {
		if out := w.a.s.resolvePacket(ctx, pkt, from, wire.UDPSize, w.a.counters); out != nil {
			reply(out)
			w.a.counters.observe(w.a.s.cfg.now().Sub(start), 1)
		}
	})
	if !ok {
		reply(wire.HeaderOnly(pkt, wire.RcodeServfail))
	}
}

func (w *worker) log(from netip.AddrPort, out []byte) {
	if w.a.s.logQueriesOn.Load() {
		w.a.s.logQuery(from, out)
	}
}
