package tundev

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"golang.org/x/sys/unix"
)

// Inbound path: packets of peers. One Write of the WireGuard device is a batch from one peer:
//
//	coalesce  segments of one flow become a super-packet (gro.go)
//	hook      is called once per packet or super-packet
//	write     passes header and payloads to the kernel; if that refuses a super-packet, its segments

// writer is the memory of one Write. Writers are pooled: each peer's goroutine writes by itself.
type writer struct {
	d    *Device
	coal coalescer
	head [packet.VnetLen]byte
	vec  [][]byte
}

func newWriter(d *Device) *writer {
	return &writer{d: d, coal: coalescer{groups: make([]group, 0, limits.MaxBatch), hashes: make([]uint32, 0, limits.MaxBatch)},
		vec: make([][]byte, 0, limits.MaxBatch+1)}
}

// Write passes a batch of packets from a peer to the host. offset must leave room for the virtio header, as WireGuard's transport
// header does. It always takes the whole batch; packets that cannot be passed on are counted.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	if offset < packet.VnetLen {
		return 0, fmt.Errorf("write to %s: offset %d leaves no room for a header of %d bytes", d.cfg.Name, offset, packet.VnetLen)
	}
	w := d.writers.Get().(*writer)
	for start := 0; start < len(bufs); start += limits.MaxBatch {
		w.batch(bufs[start:min(start+limits.MaxBatch, len(bufs))], offset)
	}
	d.writers.Put(w)
	d.cfg.In.Done(len(bufs))
	return len(bufs), nil
}

func (w *writer) batch(bufs [][]byte, offset int) {
	d := w.d
	w.coal.reset(d.has(featTCPGRO), d.has(featUDPGRO))
	for i, b := range bufs {
		if w.coal.add(i, b[offset:]) != packet.OK {
			d.stats.Drop(counters.DropMalformed)
		}
	}
	for i := range w.coal.groups {
		w.pass(&w.coal.groups[i])
	}
	w.coal.reset(false, false)
}

// pass calls the hook for one packet and carries out its verdict.
func (w *writer) pass(g *group) {
	d, p := w.d, &g.pkt
	g.finish()
	if p.TCPFlags&packet.SYN != 0 {
		if owner := d.table.Load().Lookup(p.Src); owner != nil {
			p.ClampMSS(mssFor(p, owner.Limit(d.mtu())))
		}
	}
	if (p.Proto == packet.ProtoICMP || p.Proto == packet.ProtoICMPv6) && d.cfg.Echoes.Answered(p) {
		return
	}
	switch d.hook.Inbound(p) {
	case packet.VerdictReflect:
		w.toHost(g)
	case packet.VerdictPeer:
		w.toPeer(g)
	case packet.VerdictReply:
		d.stats.Replied.Add(1)
		w.toPeer(g)
	}
}

// toHost writes a group through the first queue, so that the kernel sends the answers of the flow there.
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
		for i := w.coal.next[g.first]; i != none; i = w.coal.next[i] {
			w.vec = append(w.vec, w.coal.tail[i])
		}
	}
	err := d.queue(0).Write(w.vec)
	if err == nil {
		d.stats.Writes.Add(1)
		d.stats.Written.Add(uint64(g.count))
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

// gather copies a group into one frame; nil if there is no free frame.
func (w *writer) gather(g *group) *frame {
	f := w.d.frames.get()
	if f == nil {
		return nil
	}
	n := copy(f.room(), g.pkt.Buf)
	if g.pkt.Super() {
		for i := w.coal.next[g.first]; i != none; i = w.coal.next[i] {
			n += copy(f.room()[n:], w.coal.tail[i])
		}
	}
	f.pkt = g.pkt
	f.pkt.Buf = f.room()[:n]
	return f
}

// toPeer sends a group to the peer that owns its destination.
func (w *writer) toPeer(g *group) {
	f := w.gather(g)
	if f == nil {
		w.d.stats.Drop(counters.DropQueueFull)
		return
	}
	w.d.enqueue(f)
}

// toHost writes a frame through a queue; a super-packet is not segmented.
func (d *Device) toHost(f *frame, index int) {
	p := &f.pkt
	p.FixVnet()
	p.Vnet.Encode(f.raw)
	raw := f.raw[:packet.VnetLen+len(p.Buf)]
	if !d.has(featVnet) {
		p.CompleteChecksum()
		raw = p.Buf
	}
	f.vec[0] = raw
	err := d.queue(index).Write(f.vec[:])
	switch {
	case err == nil:
		d.stats.Writes.Add(1)
		d.accepted(p)
	case p.Super():
		d.refused(f, index, err)
	default:
		d.writeFault(err)
	}
}

// refusals counts how often the kernel refused one kind of super-packet.
type refusals struct{ good, bad atomic.Uint32 }

// maxRefusals is how many refusals in a row switch off a feature that has worked before: a single one may be due to the packet.
const maxRefusals = 8

func kindOf(p *packet.Packet) (int, feature) {
	if p.Proto == packet.ProtoUDP {
		return 1, featUDPGRO
	}
	return 0, featTCPGRO
}

// accepted records that the kernel took a super-packet. The loads keep the common case free of writes.
func (d *Device) accepted(p *packet.Packet) {
	if !p.Super() {
		return
	}
	k, _ := kindOf(p)
	if r := &d.refusal[k]; r.good.Load() == 0 || r.bad.Load() != 0 {
		r.good.Store(1)
		r.bad.Store(0)
	}
}

// refused writes the segments of a super-packet that the kernel did not take. If the kernel takes those, the offload was the cause:
// it is switched off at once if the kernel never took this kind of super-packet, else after maxRefusals.
func (d *Device) refused(f *frame, index int, cause error) {
	k, feat := kindOf(&f.pkt)
	var c Segmenter
	c.Start(&f.pkt, int(f.pkt.Vnet.GSOSize))
	seg := newFrame() // only the first refusals allocate it
	sent := 0
	for c.More() {
		n := c.Next(seg.room())
		seg.pkt = packet.Packet{Buf: seg.room()[:n]}
		clear(seg.raw[:packet.VnetLen])
		raw := seg.raw[:packet.VnetLen+n]
		if !d.has(featVnet) {
			raw = seg.pkt.Buf
		}
		seg.vec[0] = raw
		if err := d.queue(index).Write(seg.vec[:]); err != nil {
			d.writeFault(err)
			continue
		}
		sent++
	}
	d.stats.Writes.Add(uint64(sent))
	d.stats.Written.Add(uint64(sent))
	if sent == 0 || !errors.Is(cause, unix.EINVAL) && !errors.Is(cause, unix.EIO) {
		return
	}
	r := &d.refusal[k]
	if bad := r.bad.Add(1); r.good.Load() == 0 || bad >= maxRefusals {
		d.disable(feat, cause)
	}
}

func (d *Device) writeFault(err error) {
	switch {
	case errors.Is(err, unix.EIO): // the result of a TUN that is down
		d.stats.Drop(counters.DropLinkDown)
	default:
		d.stats.Drop(counters.DropWrite)
	}
}
