package tunnel

import (
	"errors"
	"fmt"

	"github.com/warrennet/warren/internal/packet"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// open attaches all queues, making the device or adopting the one that an earlier process left. Header size and
// offloads belong to the device and may be anybody's, so each attach sets them again.
func (d *tunDevice) open(mtu int) error {
	feat := d.want
	queues, err := d.attach(&feat)
	if err != nil {
		return err
	}
	d.queues.Store(&queues)
	d.feat.Store(uint32(feat))
	if err := d.setMTU(mtu); err != nil {
		return errors.Join(err, d.closeQueues())
	}
	if err := d.kernel.setUp(d.name); err != nil {
		return errors.Join(fmt.Errorf("set %s up: %w", d.name, err), d.closeQueues())
	}
	return nil
}

func (d *tunDevice) closeQueues() (err error) {
	for _, q := range *d.queues.Load() {
		err = errors.Join(err, q.close())
	}
	return err
}

func (d *tunDevice) attach(feat *feature) (queues []queue, err error) {
	defer func() {
		if err != nil {
			for _, q := range queues {
				q.close()
			}
			queues = nil
		}
	}()
	for i := range d.nqueues {
		q, err := d.kernel.attach(d.name, *feat&featVnet != 0)
		if i == 0 && *feat&featVnet != 0 && errors.Is(err, unix.EINVAL) {
			// Either an ancient kernel, or a device of that name that is no multi-queue TUN: the second try tells.
			if q, err = d.kernel.attach(d.name, false); err == nil {
				*feat = 0
				d.lost("vnet", unix.EINVAL)
			}
		}
		if err != nil {
			return queues, attachError(d.name, err)
		}
		queues = append(queues, q)
		if err := d.prepare(q, feat); err != nil {
			return queues, err
		}
	}
	return queues, nil
}

func attachError(name string, err error) error {
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("attach %s: a device of that name exists that is no multi-queue TUN; delete it first: %w", name, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("attach %s: somebody else holds all of its queues: %w", name, err)
	}
	return fmt.Errorf("attach %s: %w", name, err)
}

// prepare sets up one queue, stepping down where the kernel refuses.
func (d *tunDevice) prepare(q queue, feat *feature) error {
	if err := q.setPersist(true); err != nil {
		return fmt.Errorf("make %s persistent: %w", d.name, err)
	}
	if *feat&featVnet == 0 {
		return nil
	}
	if err := q.setVnetLen(packet.VnetLen); err != nil {
		return fmt.Errorf("set virtio header of %s to %d bytes: %w", d.name, packet.VnetLen, err)
	}
	for {
		err := q.setOffload(feat.tunFlags())
		if err == nil {
			return nil
		}
		step := feat.weakest()
		if step == 0 {
			return fmt.Errorf("set offloads of %s to none: %w", d.name, err)
		}
		*feat &^= step
		d.lost(step.names()[0], err)
	}
}

// tunFlags is what TUNSETOFFLOAD is told: what the kernel may give us.
func (f feature) tunFlags() int {
	flags := 0
	if f&featCsum != 0 {
		flags |= unix.TUN_F_CSUM
	}
	if f&featTSO != 0 {
		flags |= unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	}
	if f&featECN != 0 {
		flags |= unix.TUN_F_TSO_ECN
	}
	if f&featUSO != 0 {
		flags |= unix.TUN_F_USO4 | unix.TUN_F_USO6
	}
	return flags
}

// weakest names the feature that kernels got last: the one to give up first.
func (f feature) weakest() feature {
	for _, s := range []feature{featUSO, featECN, featTSO, featCsum} {
		if f&s != 0 {
			return s
		}
	}
	return 0
}

// lost says once that an offload is not used and why.
func (d *tunDevice) lost(what string, err error) {
	d.stats.downgrades.Add(1)
	d.log.Warn("offload refused by the kernel, going on without", "device", d.name, "offload", what, "err", err)
}

// giveUp switches features off at run time and tells all queues.
func (d *tunDevice) giveUp(f feature, err error) {
	for {
		old := d.feat.Load()
		if feature(old)&f == 0 {
			return
		}
		if d.feat.CompareAndSwap(old, old&^uint32(f)) {
			d.lost((feature(old) & f).names()[0], err)
			break
		}
	}
	now := feature(d.feat.Load())
	for _, q := range *d.queues.Load() {
		if err := q.setOffload(now.tunFlags()); err != nil {
			d.log.Warn("set offloads", "device", d.name, "err", err)
		}
	}
}

// setMTU changes the device and tells the engine.
func (d *tunDevice) setMTU(mtu int) error {
	if err := d.kernel.setMTU(d.name, mtu); err != nil {
		return fmt.Errorf("set MTU %d on %s: %w", mtu, d.name, err)
	}
	d.mtuNow.Store(int32(mtu))
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed() {
		select {
		case d.events <- tun.EventMTUUpdate:
		default: // one that waits says the same
		}
	}
	return nil
}

// reopen makes the device anew after somebody deleted it, once for all readers that found out.
func (d *tunDevice) reopen(gone queue, i int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed() {
		return errClosed
	}
	if d.queue(i) != gone {
		return nil
	}
	d.closeQueues()
	feat := feature(d.feat.Load())
	queues, err := d.attach(&feat)
	if err != nil {
		return err
	}
	d.feat.Store(uint32(feat))
	d.queues.Store(&queues)
	d.stats.reopens.Add(1)
	d.log.Warn("TUN device was deleted, made it anew", "device", d.name)
	return errors.Join(d.kernel.setMTU(d.name, int(d.mtuNow.Load())), d.kernel.setUp(d.name))
}
