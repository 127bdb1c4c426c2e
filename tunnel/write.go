package tunnel

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/warrennet/warren/internal/packet"
	"golang.org/x/sys/unix"
)

// The way into the host. One Write of the engine is a batch from one peer:
//
//	join    segments of one flow become a super-packet (join.go)
//	hook    sees each of them once
//	write   gathers header and payloads into the kernel; on refusal cuts it and writes the segments

// writer is what one Write needs; they are pooled, since each peer's goroutine writes by itself.
type writer struct {
	d    *tunDevice
	join joiner
	head [packet.VnetLen]byte
	vec  [][]byte
}

func newWriter(d *tunDevice) *writer {
	return &writer{d: d, join: joiner{groups: make([]group, 0, maxBatch), hashes: make([]uint32, 0, maxBatch)},
		vec: make([][]byte, 0, maxBatch+1)}
}

// Write passes a batch of packets from a peer to the host. offset must leave room for the virtio header, as the
// engine's transport header does. It always takes the whole batch; what cannot be passed is counted.
func (d *tunDevice) Write(bufs [][]byte, offset int) (int, error) {
	if offset < packet.VnetLen {
		return 0, fmt.Errorf("write to %s: offset %d leaves no room for a header of %d bytes", d.name, offset, packet.VnetLen)
	}
	w := d.writers.Get().(*writer)
	for start := 0; start < len(bufs); start += maxBatch {
		w.batch(bufs[start:min(start+maxBatch, len(bufs))], offset)
	}
	d.writers.Put(w)
	d.in.sub(len(bufs))
	return len(bufs), nil
}

func (w *writer) batch(bufs [][]byte, offset int) {
	d := w.d
	w.join.reset(d.has(featTCPGRO), d.has(featUDPGRO))
	for i, b := range bufs {
		if w.join.add(i, b[offset:]) != packet.OK {
			d.stats.drop(DropMalformed)
		}
	}
	for i := range w.join.groups {
		w.pass(&w.join.groups[i])
	}
	w.join.reset(false, false)
}

// pass asks the hook about one packet and does as it says.
func (w *writer) pass(g *group) {
	d, p := w.d, &g.pkt
	g.finish()
	if p.TCPFlags&packet.SYN != 0 {
		if owner := d.table.Load().lookup(p.Src); owner != nil {
			p.ClampMSS(mssFor(p, owner.limit(d)))
		}
	}
	if (p.Proto == packet.ProtoICMP || p.Proto == packet.ProtoICMPv6) && d.probes.answered(p) {
		return
	}
	switch d.hook.Inbound(p) {
	case packet.VerdictReflect:
		w.toHost(g)
	case packet.VerdictPeer:
		w.toLine(g)
	case packet.VerdictReply:
		d.stats.replied.Add(1)
		w.toLine(g)
	}
}

// toHost writes a group through the first queue, so that the kernel learns to send the flow's answers there.
func (w *writer) toHost(g *group) {
	d, p := w.d, &g.pkt
	w.vec = w.vec[:0]
	if d.has(featVnet) {
		p.FixVnet()
		p.Vnet.Encode(w.head[:])
		w.vec = append(w.vec, w.head[:])
	}
	w.vec = append(w.vec, p.Buf)
	if p.Super() {
		for i := w.join.next[g.first]; i != none; i = w.join.next[i] {
			w.vec = append(w.vec, w.join.tail[i])
		}
	}
	err := d.queue(0).write(w.vec)
	if err == nil {
		d.stats.writes.Add(1)
		d.stats.written.Add(uint64(g.count))
		d.accepted(p)
		return
	}
	if p.Super() {
		if f := w.gather(g); f != nil {
			d.refused(f, 0, err)
			d.frames.put(f)
			return
		}
	}
	d.writeFault(err)
}

// gather copies a group into one piece; nil if there is no frame for it.
func (w *writer) gather(g *group) *frame {
	f := w.d.frames.get()
	if f == nil {
		return nil
	}
	n := copy(f.room(), g.pkt.Buf)
	if g.pkt.Super() {
		for i := w.join.next[g.first]; i != none; i = w.join.next[i] {
			n += copy(f.room()[n:], w.join.tail[i])
		}
	}
	f.pkt = g.pkt
	f.pkt.Buf = f.room()[:n]
	return f
}

// toLine sends a group to the peer that owns its destination.
func (w *writer) toLine(g *group) {
	f := w.gather(g)
	if f == nil {
		w.d.stats.drop(DropQueueFull)
		return
	}
	w.d.enqueue(f)
}

// toHost writes a frame through a queue: a super-packet goes whole.
func (d *tunDevice) toHost(f *frame, index int) {
	p := &f.pkt
	p.FixVnet()
	p.Vnet.Encode(f.raw)
	raw := f.raw[:packet.VnetLen+len(p.Buf)]
	if !d.has(featVnet) {
		p.CompleteChecksum()
		raw = p.Buf
	}
	f.vec[0] = raw
	err := d.queue(index).write(f.vec[:])
	switch {
	case err == nil:
		d.stats.writes.Add(1)
		d.accepted(p)
	case p.Super():
		d.refused(f, index, err)
	default:
		d.writeFault(err)
	}
}

// refusals remembers how the kernel takes one kind of super-packet.
type refusals struct{ good, bad atomic.Uint32 }

// patience is how many refusals in a row end a feature that has worked before: a single one may be due to the
// packet.
const patience = 8

func kindOf(p *packet.Packet) (int, feature) {
	if p.Proto == packet.ProtoUDP {
		return 1, featUDPGRO
	}
	return 0, featTCPGRO
}

// accepted notes that a super-packet went through. The loads keep the common case free of writes.
func (d *tunDevice) accepted(p *packet.Packet) {
	if !p.Super() {
		return
	}
	k, _ := kindOf(p)
	if r := &d.refusal[k]; r.good.Load() == 0 || r.bad.Load() != 0 {
		r.good.Store(1)
		r.bad.Store(0)
	}
}

// refused cuts a super-packet that the kernel did not take and writes its segments. If those go through, it was
// the offload: a kernel that never took this kind is believed at once, another one after some patience.
func (d *tunDevice) refused(f *frame, index int, cause error) {
	k, feat := kindOf(&f.pkt)
	var c cutter
	c.start(&f.pkt, int(f.pkt.Vnet.GSOSize))
	seg := newFrame() // rare: this is the way of the first refusals only
	sent := 0
	for c.more() {
		n := c.next(seg.room())
		seg.pkt = packet.Packet{Buf: seg.room()[:n]}
		clear(seg.raw[:packet.VnetLen])
		raw := seg.raw[:packet.VnetLen+n]
		if !d.has(featVnet) {
			raw = seg.pkt.Buf
		}
		seg.vec[0] = raw
		if err := d.queue(index).write(seg.vec[:]); err != nil {
			d.writeFault(err)
			continue
		}
		sent++
	}
	d.stats.writes.Add(uint64(sent))
	d.stats.written.Add(uint64(sent))
	if sent == 0 || !errors.Is(cause, unix.EINVAL) && !errors.Is(cause, unix.EIO) {
		return
	}
	r := &d.refusal[k]
	if bad := r.bad.Add(1); r.good.Load() == 0 || bad >= patience {
		d.giveUp(feat, cause)
	}
}

func (d *tunDevice) writeFault(err error) {
	switch {
	case errors.Is(err, unix.EIO): // what a TUN says while it is down
		d.stats.drop(DropLinkDown)
	default:
		d.stats.drop(DropWrite)
	}
}
