package lab

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// switchName is the machine that holds the bridge.
const switchName = "switch"

// handle opens netlink in a machine's network namespace.
func (l *Lab) handle(machine string) (*netlink.Handle, netns.NsHandle, error) {
	pid, err := l.hold(machine)
	if err != nil {
		return nil, 0, err
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, 0, fmt.Errorf("network namespace of %s: %w", machine, err)
	}
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		ns.Close()
		return nil, 0, err
	}
	return h, ns, nil
}

// makeSwitch starts the switch: a namespace with one bridge and no other link.
func (l *Lab) makeSwitch() error {
	if err := l.startMachine(switchName); err != nil {
		return err
	}
	h, ns, err := l.handle(switchName)
	if err != nil {
		return err
	}
	defer ns.Close()
	defer h.Close()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", MTU: 65535}}
	if err := h.LinkAdd(br); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	return h.LinkSetUp(br)
}

// connect attaches a machine to the switch: eth0 there, a port with the machine's name here.
func (l *Lab) connect(machine string) error {
	sw, swNS, err := l.handle(switchName)
	if err != nil {
		return err
	}
	defer swNS.Close()
	defer sw.Close()
	h, ns, err := l.handle(machine)
	if err != nil {
		return err
	}
	defer ns.Close()
	defer h.Close()
	mtu := l.Spec.MTU
	if n := l.Spec.Node[machine]; n.MTU != 0 {
		mtu = n.MTU
	}
	br, err := sw.LinkByName("br0")
	if err != nil {
		return err
	}
	port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: machine, MTU: mtu, MasterIndex: br.Attrs().Index},
		PeerName: "eth0", PeerMTU: uint32(mtu), PeerHardwareAddr: mac(machine), PeerNamespace: netlink.NsFd(ns)}
	if err := sw.LinkAdd(port); err != nil {
		return fmt.Errorf("connect %s to the switch: %w", machine, err)
	}
	if err := sw.LinkSetUp(port); err != nil {
		return err
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, p := range l.Spec.underlayAddrs(machine) {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
			Flags: unix.IFA_F_NODAD}
		if err := h.AddrAdd(eth, a); err != nil {
			return fmt.Errorf("add address %s to %s: %w", p, machine, err)
		}
	}
	return h.LinkSetUp(eth)
}
