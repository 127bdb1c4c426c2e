package tundev

import (
	"errors"
	"fmt"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/tunfd"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// Open attaches all queues. It creates the device, or adopts the one that an earlier process left, and sets its MTU in bytes.
// Header size and offloads belong to the device and may have been changed, so each attach sets them again.
func (d *Device) Open(mtu int) error {
	feat := d.allowed
	queues, err := d.attach(&feat)
	if err != nil {
		return err
	}
	d.queues.Store(&queues)
	d.feat.Store(uint32(feat))
	if err := d.SetMTU(mtu); err != nil {
		return errors.Join(err, d.closeQueues())
	}
	if err := d.cfg.Kernel.SetUp(d.cfg.Name); err != nil {
		return errors.Join(fmt.Errorf("set link %s up: %w", d.cfg.Name, err), d.closeQueues())
	}
	return nil
}

func (d *Device) closeQueues() (err error) {
	for _, q := range *d.queues.Load() {
		err = errors.Join(err, q.Close())
	}
	return err
}

func (d *Device) attach(feat *feature) (queues []tunfd.Queue, err error) {
	defer func() {
		if err != nil {
			for _, q := range queues {
				q.Close()
			}
			queues = nil
		}
	}()
	for i := range d.cfg.Queues {
		q, err := d.cfg.Kernel.Attach(d.cfg.Name, *feat&featVnet != 0)
		if i == 0 && *feat&featVnet != 0 && errors.Is(err, unix.EINVAL) {
			// Either an old kernel, or a device of that name that is no multi-queue TUN: the second attempt distinguishes them.
			if q, err = d.cfg.Kernel.Attach(d.cfg.Name, false); err == nil {
				*feat = 0
				d.logDowngrade("vnet", unix.EINVAL)
			}
		}
		if err != nil {
			return queues, AttachError(d.cfg.Name, err)
		}
		queues = append(queues, q)
		if err := d.prepare(q, feat); err != nil {
			return queues, err
		}
	}
	return queues, nil
}

// AttachError explains an error of Kernel.Attach.
func AttachError(name string, err error) error {
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("attach %s: the existing device is no multi-queue TUN; delete it first: %w", name, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("attach %s: another process holds all of its queues: %w", name, err)
	}
	return fmt.Errorf("attach %s: %w", name, err)
}

// prepare sets up one queue. It switches off the offloads that the kernel refuses.
func (d *Device) prepare(q tunfd.Queue, feat *feature) error {
	if err := q.SetPersist(true); err != nil {
		return fmt.Errorf("make %s persistent: %w", d.cfg.Name, err)
	}
	if *feat&featVnet == 0 {
		return nil
	}
	if err := q.SetVnetLen(packet.VnetLen); err != nil {
		return fmt.Errorf("set virtio header of %s to %d bytes: %w", d.cfg.Name, packet.VnetLen, err)
	}
	for {
		err := q.SetOffload(feat.tunFlags())
		if err == nil {
			return nil
		}
		step := feat.weakest()
		if step == 0 {
			return fmt.Errorf("set offloads of %s to none: %w", d.cfg.Name, err)
		}
		*feat &^= step
		d.logDowngrade(step.names()[0], err)
	}
}

// logDowngrade counts and logs that an offload is switched off.
func (d *Device) logDowngrade(what string, err error) {
	d.stats.Downgrades.Add(1)
	d.log.Warn("kernel refused a TUN offload; it is switched off", "interface", d.cfg.Name, "name", what, "err", err)
}

// disable switches features off at run time, on all queues.
func (d *Device) disable(f feature, err error) {
	for {
		old := d.feat.Load()
		if feature(old)&f == 0 {
			return
		}
		if d.feat.CompareAndSwap(old, old&^uint32(f)) {
			d.logDowngrade((feature(old) & f).names()[0], err)
			break
		}
	}
	now := feature(d.feat.Load())
	for _, q := range *d.queues.Load() {
		if err := q.SetOffload(now.tunFlags()); err != nil {
			d.log.Warn("cannot set the offloads of a TUN queue", "interface", d.cfg.Name, "err", err)
		}
	}
}

// SetMTU changes the MTU in bytes, and notifies the WireGuard device.
func (d *Device) SetMTU(mtu int) error {
	if err := d.cfg.Kernel.SetMTU(d.cfg.Name, mtu); err != nil {
		return fmt.Errorf("set MTU %d on %s: %w", mtu, d.cfg.Name, err)
	}
	d.mtuNow.Store(int32(mtu))
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed() {
		select {
		case d.events <- tun.EventMTUUpdate:
		default: // an event that waits has the same effect
		}
	}
	return nil
}

// reopen recreates the device after another process deleted it, once for all readers that noticed it.
func (d *Device) reopen(gone tunfd.Queue, i int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed() {
		return ErrClosed
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
	d.stats.Reopens.Add(1)
	d.log.Warn("TUN device was deleted by another process; recreated it", "interface", d.cfg.Name)
	return errors.Join(d.cfg.Kernel.SetMTU(d.cfg.Name, int(d.mtuNow.Load())), d.cfg.Kernel.SetUp(d.cfg.Name))
}
