package tundev

import (
	"errors"
	"fmt"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/limits"
)

// ErrFull means that packets were injected faster than the tunnel takes them; the packet was dropped and counted.
var ErrFull = errors.New("no buffer free in the tunnel")

// InjectHost writes packets to the host as if peers had sent them, without the hook. See Tunnel.InjectHost.
func (d *Device) InjectHost(pkts ...[]byte) error { return d.inject(d.injectHost, pkts) }

// InjectPeer sends packets to the peers that own their destinations, without the hook. See Tunnel.InjectPeer.
func (d *Device) InjectPeer(pkts ...[]byte) error { return d.inject(d.enqueue, pkts) }

// InjectProbe sends a path MTU probe to the peer that owns its destination: whatever its size, it is sent unchanged and with DF.
// Only one probe may be outstanding; EndProbe ends it.
func (d *Device) InjectProbe(pkt []byte) error { return d.inject(d.injectProbe, [][]byte{pkt}) }

// EndProbe forgets the buffer of the last probe.
func (d *Device) EndProbe() { d.cfg.Probe.Store(nil) }

func (d *Device) inject(pass func(*frame), pkts [][]byte) (errs error) {
	if d.queues.Load() == nil || d.closed() {
		return ErrClosed
	}
	for _, b := range pkts {
		f := d.frames.get()
		if f == nil {
			d.stats.Drop(counters.DropQueueFull)
			errs = errors.Join(errs, ErrFull)
			continue
		}
		n := copy(f.room(), b)
		f.pkt.Vnet = packet.Vnet{}
		if fault := f.pkt.Parse(f.room()[:n]); fault != packet.OK || n < len(b) {
			d.frames.put(f)
			d.stats.Drop(counters.DropMalformed)
			errs = errors.Join(errs, fmt.Errorf("inject packet of %d bytes: %v", len(b), fault))
			continue
		}
		d.stats.Injected.Add(1)
		f.refragment = f.pkt.Version == 6 && f.pkt.L4 == 40
		pass(f)
	}
	return errs
}

// injectHost writes a frame to the host. The kernel fragments IPv4 to the MTU of the outgoing link. No router fragments IPv6, so
// IPv6 fragments are made here, of a size that every link carries.
func (d *Device) injectHost(f *frame) {
	if f.refragment && f.pkt.Length > limits.MinMTU6 {
		d.hostFragments(f)
	} else {
		d.toHost(f, 0)
	}
	d.frames.put(f)
}

func (d *Device) hostFragments(f *frame) {
	fragment := d.frames.get()
	if fragment == nil {
		d.stats.Drop(counters.DropQueueFull)
		return
	}
	var c Segmenter
	for c.StartFragments(&f.pkt, limits.MinMTU6); c.More(); {
		n := c.Next(fragment.room())
		fragment.pkt.Vnet = packet.Vnet{}
		if fragment.pkt.Parse(fragment.room()[:n]) != packet.OK {
			d.stats.Drop(counters.DropMalformed)
			break
		}
		d.toHost(fragment, 0)
	}
	d.frames.put(fragment)
}

func (d *Device) injectProbe(f *frame) {
	f.probe = true
	d.enqueue(f)
}
