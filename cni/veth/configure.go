package veth

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Configure configures both ends of a created pair and brings them up. The Pod's end comes last: by then the filter is
// attached and the node has a route to the Pod.
func (b *Builder) Configure(s Spec, host, pod int32) error {
	filter, err := spoofFilter(s.Addresses)
	if err != nil {
		return err
	}
	if err := b.host.do(hostEnd(s, host, filter)...); err != nil {
		return err
	}
	return b.ConfigurePod(s, pod)
}

// ConfigurePod configures the Pod's end only.
func (b *Builder) ConfigurePod(s Spec, pod int32) error {
	err := b.pod.do(podEnd(s, pod)...)
	if err == nil || !s.has6() || !(errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		return err
	}
	// Some runtimes create the Pod's namespace with IPv6 disabled. The Pod has an IPv6 address, so it is enabled.
	if e := inside(b.podNS, func() error { return enableIPv6(s.PodIf) }); e != nil {
		return errors.Join(err, e)
	}
	return b.pod.do(podEnd(s, pod)...)
}

func enableIPv6(ifname string) error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("0"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/"+ifname+"/disable_ipv6", []byte("0"), 0))
}

// hostEnd lists the requests for the host's end. The filter is attached before the link is up; the route to the Pod is
// last.
func hostEnd(s Spec, index int32, filter []bpf.RawInstruction) []*message {
	out := []*message{setRPFilter(s, index), disableIPv6LinkLocal(s.HostIf, index, s.has6()), newClsact(s.HostIf, index),
		newFilter(s.HostIf, index, filter), up(s.HostIf, index)}
	if s.has4() {
		out = append(out, gatewayAddress(s.HostIf, index))
	}
	for _, a := range s.Addresses {
		out = append(out, neighbour(s.HostIf, index, a, s.PodMAC), hostRoute(s, index, a))
	}
	return out
}

// podEnd lists the requests for the Pod's end. Each may be repeated: an object that exists already is replaced.
func podEnd(s Spec, index int32) []*message {
	out := []*message{disableIPv6LinkLocal(s.PodIf, index, s.has6()), up(s.PodIf, index)}
	for _, a := range s.Addresses {
		out = append(out, newAddress(s.PodIf, index, a), neighbour(s.PodIf, index, Gateway(a), s.HostMAC), defaultRoute(s.PodIf, index, a))
	}
	return out
}

// newAddress adds an address of the Pod as /32 or /128, so without a route to a subnet. IPv6 skips duplicate address
// detection: IPAM guarantees that the address is unique, and the Pod uses it at once.
func newAddress(name string, index int32, a netip.Addr) *message {
	flags := uint8(unix.IFA_F_PERMANENT)
	if a.Is6() {
		flags |= unix.IFA_F_NODAD
	}
	m := request("add address "+a.String()+" to "+name, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, ifaddr(a, index, flags))
	m.addr(unix.IFA_LOCAL, a)
	m.addr(unix.IFA_ADDRESS, a)
	return m
}

// gatewayAddress adds the IPv4 gateway of the Pods to the host's end. Even a loose reverse path filter drops packets that
// enter through an interface without any address, when the route to their source is over another interface
// (fib_validate_source). Policy rules redirect replies from ports of Services to warren0, so this case is common. Scope
// host prevents that the kernel selects the address as a source.
func gatewayAddress(name string, index int32) *message {
	fixed := ifaddr(Gateway4, index, unix.IFA_F_PERMANENT)
	fixed[3] = unix.RT_SCOPE_HOST
	m := request("add address "+Gateway4.String()+" to "+name, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, fixed)
	m.addr(unix.IFA_LOCAL, Gateway4)
	m.addr(unix.IFA_ADDRESS, Gateway4)
	return m
}

// neighbour adds a permanent neighbour entry, so that the address is never resolved by ARP or neighbour solicitation.
func neighbour(name string, index int32, a netip.Addr, mac MAC) *message {
	m := request("add neighbour "+a.String()+" on "+name, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		ndmsg(family(a), index, unix.NUD_PERMANENT))
	m.addr(unix.NDA_DST, a)
	m.attr(unix.NDA_LLADDR, mac[:])
	return m
}

// defaultRoute adds the default Pod route. Its gateway is in no subnet of the interface, hence the flag onlink
// (RTNH_F_ONLINK).
func defaultRoute(name string, index int32, a netip.Addr) *message {
	m := request("add default route via "+Gateway(a).String()+" on "+name, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		rtmsg(family(a), 0, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTNH_F_ONLINK))
	m.u32(unix.RTA_TABLE, unix.RT_TABLE_MAIN)
	m.addr(unix.RTA_GATEWAY, Gateway(a))
	m.u32(unix.RTA_OIF, uint32(index))
	return m
}

// hostRoute adds the node's route to the Pod. It is exclusive (NLM_F_EXCL): an existing route to the address belongs to
// another Pod, and replacing it would disconnect that Pod.
func hostRoute(s Spec, index int32, a netip.Addr) *message {
	scope := uint8(unix.RT_SCOPE_LINK)
	if a.Is6() {
		scope = unix.RT_SCOPE_UNIVERSE // IPv6 routes have no scope
	}
	m := request("add route "+a.String()+" dev "+s.HostIf, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		rtmsg(family(a), uint8(a.BitLen()), uint8(s.Protocol), scope, 0))
	m.u32(unix.RTA_TABLE, uint32(s.Table))
	m.addr(unix.RTA_DST, a)
	m.u32(unix.RTA_OIF, uint32(index))
	return m
}

func newClsact(name string, index int32) *message {
	m := request("add clsact to "+name, unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tcmsg(index, clsactHandle, clsactParent, 0))
	m.text(unix.TCA_KIND, clsact)
	return m
}

func newFilter(name string, index int32, filter []bpf.RawInstruction) *message {
	m := request("add source filter to "+name, unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		tcmsg(index, 0, ingressParent, filterPrio<<16|uint32(be16(ethPAll))))
	m.text(unix.TCA_KIND, "bpf")
	m.nest(unix.TCA_OPTIONS, func() {
		m.u16(bpfOpsLen, uint16(len(filter)))
		m.attr(bpfOps, filterBytes(filter))
		m.u32(bpfFlags, bpfActDirect)
	})
	return m
}
