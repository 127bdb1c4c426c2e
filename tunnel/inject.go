package tunnel

import (
	"errors"
	"fmt"

	"github.com/warrennet/warren/internal/packet"
)

// ErrFull says that injected packets came faster than the tunnel could take them; the packet was counted and lost.
var ErrFull = errors.New("no buffer free in the tunnel")

// InjectHost writes packets to the host as if peers had sent them: past the hook, through the TUN. Each is one
// complete IP packet with its checksums. It may be called from any goroutine.
func (t *Tunnel) InjectHost(pkts ...[]byte) error { return t.dev.inject(t.dev.injectHost, pkts) }

// InjectPeer sends packets to the peers that own their destinations, past the hook. Each is one complete IP packet
// with its checksums; packets without owner are dropped and counted. It may be called from any goroutine.
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
		pass(f)
	}
	return errs
}

func (d *tunDevice) injectHost(f *frame) {
	d.toHost(f, 0)
	d.frames.put(f)
}

func (d *tunDevice) injectPeer(f *frame) { d.enqueue(f) }

func (d *tunDevice) injectProbe(f *frame) {
	f.ask = true
	d.enqueue(f)
}
