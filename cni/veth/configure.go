package veth

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Configure gives both ends of a created pair all they need and brings them up, the Pod's end last: by then the filter
// stands and the host knows the way back.
func (b *Builder) Configure(s Spec, host, pod int32) error {
	if err := b.host.do(hostEnd(s, host)...); err != nil {
		return err
	}
	return b.ConfigurePod(s, pod)
}

// ConfigurePod does the Pod's end only.
func (b *Builder) ConfigurePod(s Spec, pod int32) error {
	err := b.pod.do(podEnd(s, pod)...)
	if err == nil || !s.has6() || !(errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		return err
	}
	// The Pod's namespace was made with IPv6 switched off, as some runtimes do; it was asked for here.
	if e := inside(b.podNS, func() error { return allow6(s.PodIf) }); e != nil {
		return errors.Join(err, e)
	}
	return b.pod.do(podEnd(s, pod)...)
}

func allow6(ifname string) error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("0"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/"+ifname+"/disable_ipv6", []byte("0"), 0))
}

// hostEnd lists the requests for the node's end: quiet, filtered, up, then the way to the Pod.
func hostEnd(s Spec, index int32) []*message {
	out := []*message{looseFilter(s, index), disableIPv6LinkLocal(s.HostIf, index, s.has6()), newClsact(s.HostIf, index), newFilter(s, index), up(s.HostIf, index)}
	if s.has4() {
		out = append(out, gatewayAddress(s.HostIf, index))
	}
	for _, a := range s.Addresses {
		out = append(out, neighbour(s.HostIf, index, a, s.PodMAC), hostRoute(s, index, a))
	}
	return out
}

// podEnd lists the requests for the Pod's end. Each may be repeated: what is there already counts as made.
func podEnd(s Spec, index int32) []*message {
	out := []*message{disableIPv6LinkLocal(s.PodIf, index, s.has6()), up(s.PodIf, index)}
	for _, a := range s.Addresses {
		out = append(out, newAddress(s.PodIf, index, a), neighbour(s.PodIf, index, Gateway(a), s.HostMAC), defaultRoute(s.PodIf, index, a))
	}
	return out
}

// newAddress gives the Pod an address of its own and nothing on the link. IPv6 skips duplicate address detection: the
// address is the Pod's by the agent's book, and it must be usable at once.
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

// gatewayAddress gives the node's end the address that Pods call their gateway. The kernel's loose reverse path filter
// drops what comes in on an interface without any address when the way back leads elsewhere; and the way back of a
// direct connection to a port of a Service is steered. Its scope keeps the address from becoming anybody's source.
func gatewayAddress(name string, index int32) *message {
	fixed := ifaddr(Gateway4, index, unix.IFA_F_PERMANENT)
	fixed[3] = unix.RT_SCOPE_HOST
	m := request("add address "+Gateway4.String()+" to "+name, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, fixed)
	m.addr(unix.IFA_LOCAL, Gateway4)
	m.addr(unix.IFA_ADDRESS, Gateway4)
	return m
}

func neighbour(name string, index int32, a netip.Addr, mac MAC) *message {
	m := request("add neighbour "+a.String()+" on "+name, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		ndmsg(family(a), index, unix.NUD_PERMANENT))
	m.addr(unix.NDA_DST, a)
	m.attr(unix.NDA_LLADDR, mac[:])
	return m
}

// defaultRoute leads everything to the gateway, which is on the link by decree.
func defaultRoute(name string, index int32, a netip.Addr) *message {
	m := request("add default route via "+Gateway(a).String()+" on "+name, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		rtmsg(family(a), 0, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTNH_F_ONLINK))
	m.u32(unix.RTA_TABLE, unix.RT_TABLE_MAIN)
	m.addr(unix.RTA_GATEWAY, Gateway(a))
	m.u32(unix.RTA_OIF, uint32(index))
	return m
}

// hostRoute leads the node's packets for the Pod to its interface. It is exclusive: another route to the address
// means that somebody else holds it, and taking it over would cut them off.
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

func newFilter(s Spec, index int32) *message {
	prog := spoofFilter(s.Addresses)
	m := request("add the source filter to "+s.HostIf, unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		tcmsg(index, 0, ingressParent, filterPrio<<16|uint32(be16(ethPAll))))
	m.text(unix.TCA_KIND, "bpf")
	m.nest(unix.TCA_OPTIONS, func() {
		m.u16(bpfOpsLen, uint16(len(prog)))
		m.attr(bpfOps, filterBytes(prog))
		m.u32(bpfFlags, bpfActDirect)
	})
	return m
}
