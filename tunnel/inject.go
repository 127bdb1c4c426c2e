package tunnel

import (
	"errors"
	"fmt"

	"github.com/warrennet/warren/internal/packet"
)

// ErrFull says that injected packets came faster than the tunnel could take them; the packet was counted and lost.
var ErrFull = errors.New("no buffer free in the tunnel")

// InjectHost writes packets to the host as if peers had sent them: past the hook, through the TUN. Each is one
// complete IP packet with its checksums; a large one goes on in fragments. It may be called from any goroutine.
func (t *Tunnel) InjectHost(pkts ...[]byte) error { return t.dev.inject(t.dev.injectHost, pkts) }

// InjectPeer sends packets to the peers that own their destinations, past the hook. Each is one complete IP packet
// with its checksums; packets without owner are dropped and counted, and what is larger than the path goes in fragments. It
// may be called from any goroutine.
func (t *Tunnel) InjectPeer(pkts ...[]byte) error { return t.dev.inject(t.dev.injectPeer, pkts) }

func (d *tunDevice) inject(pass func(*frame), pkts [][]byte) (errs error) {
	if d.queues.Load() == nil || d.closed() {
		return errClosed
	}
	for _, b := range pkts {
		f := d.frames.get()
		if f == nil {
			d.stats.drop(DropQueueFull)
			errs = errors.Join(errs, ErrFull)
			continue
		}
		n := copy(f.room(), b)
		f.pkt.Vnet = packet.Vnet{}
		if fault := f.pkt.Parse(f.room()[:n]); fault != packet.OK || n < len(b) {
			d.frames.put(f)
			d.stats.drop(DropMalformed)
			errs = errors.Join(errs, fmt.Errorf("inject a packet of %d bytes: %v", len(b), fault))
			continue
		}
		d.stats.injected.Add(1)
		f.cut = f.pkt.Version == 6 && f.pkt.L4 == 40
		pass(f)
	}
	return errs
}

// injectHost leaves it to the kernel to cut IPv4 to the links it goes out by; IPv6 is never cut on its way, so its fragments
// are of a size that every link carries.
func (d *tunDevice) injectHost(f *frame) {
	if f.cut && f.pkt.Length > minMTU6 {
		d.hostFragments(f)
	} else {
		d.toHost(f, 0)
	}
	d.frames.put(f)
}

// minMTU6 is what every link carries of IPv6 (RFC 8200 section 5).
const minMTU6 = 1280

func (d *tunDevice) hostFragments(f *frame) {
	piece := d.frames.get()
	if piece == nil {
		d.stats.drop(DropQueueFull)
		return
	}
	var c cutter
	for c.startFragments(&f.pkt, minMTU6); c.more(); {
		n := c.next(piece.room())
		piece.pkt.Vnet = packet.Vnet{}
		if piece.pkt.Parse(piece.room()[:n]) != packet.OK {
			d.stats.drop(DropMalformed)
			break
		}
		d.toHost(piece, 0)
	}
	d.frames.put(piece)
}

func (d *tunDevice) injectPeer(f *frame) { d.enqueue(f) }

func (d *tunDevice) injectProbe(f *frame) {
	f.ask = true
	d.enqueue(f)
}
