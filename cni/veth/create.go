package veth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Numbers of linux/*.h that x/sys/unix does not have.
const (
	vethInfoPeer  = 1 // VETH_INFO_PEER
	ipv4RPFilter  = 8 // IPV4_DEVCONF_RP_FILTER
	rpFilterLoose = 2 // a route back through any interface is enough
	genModeNone   = 1 // IN6_ADDR_GEN_MODE_NONE
	skipStats     = 8 // RTEXT_FILTER_SKIP_STATS
	clsact        = "clsact"
	clsactHandle  = 0xffff0000
	clsactParent  = 0xfffffff1 // TC_H_CLSACT
	ingressParent = 0xfffffff2 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
	filterPrio    = 1
	ethPAll       = 0x0003
	bpfOpsLen     = 4 // TCA_BPF_OPS_LEN
	bpfOps        = 5 // TCA_BPF_OPS
	bpfFlags      = 8 // TCA_BPF_FLAGS
	bpfActDirect  = 1 // TCA_BPF_FLAG_ACT_DIRECT
)

// Builder holds a netlink socket at both ends of a Pod's interface.
type Builder struct {
	host, pod *socket
	podNS     *os.File
}

// NewBuilder opens the Pod's network namespace at path and the sockets. The node's namespace is that of the calling
// thread; a caller whose threads stand in several must be locked to one.
func NewBuilder(path string) (*Builder, error) {
	ns, err := openNS(path)
	if err != nil {
		return nil, err
	}
	b := &Builder{podNS: ns}
	if b.host, err = open(); err != nil {
		b.Close()
		return nil, err
	}
	if err := inside(ns, func() (err error) { b.pod, err = open(); return err }); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Close lets go of sockets and namespace.
func (b *Builder) Close() {
	b.podNS.Close()
	if b.host != nil {
		b.host.close()
	}
	if b.pod != nil {
		b.pod.close()
	}
}

// ErrExists says that the interface cannot be made because one of its names is taken.
var ErrExists = errors.New("an interface of that name exists")

// Create makes the pair, both ends down, and returns their indexes. What it made, Delete removes.
func (b *Builder) Create(s Spec) (host, pod int32, err error) {
	look := getLink(s.HostIf)
	err = b.host.do(newPair(s, int(b.podNS.Fd())), look)
	if errors.Is(err, unix.EEXIST) {
		return 0, 0, fmt.Errorf("%w: %s on the node or %s in the Pod: %w", ErrExists, s.HostIf, s.PodIf, err)
	}
	if err != nil {
		return 0, 0, err
	}
	host, pod, err = pairIndexes(look.got)
	if err != nil {
		return 0, 0, errors.Join(fmt.Errorf("create veth %s: %w", s.HostIf, err), b.Delete(s.HostIf))
	}
	return host, pod, nil
}

// pairIndexes reads both ends' indexes from the description of one: IFLA_LINK is the other end's, in its namespace.
func pairIndexes(b []byte) (this, other int32, err error) {
	if len(b) >= unix.SizeofIfInfomsg {
		this = int32(binary.NativeEndian.Uint32(b[4:]))
		attrs(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
			if typ == unix.IFLA_LINK && len(v) == 4 {
				other = int32(binary.NativeEndian.Uint32(v))
			}
		})
	}
	if this <= 0 || other <= 0 {
		return 0, 0, errors.New("the kernel did not say which interface it made")
	}
	return this, other, nil
}

func newPair(s Spec, ns int) *message {
	m := request("create veth "+s.HostIf, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0))
	end := func(name string, mac MAC) {
		m.text(unix.IFLA_IFNAME, name)
		m.u32(unix.IFLA_MTU, uint32(s.MTU))
		// An address given here counts as set by a person, so udev's MACAddressPolicy leaves it alone.
		m.attr(unix.IFLA_ADDRESS, mac[:])
		// One queue each way is what a veth uses anyhow; saying so spares the kernel an allocation and two sysfs
		// objects per possible CPU, which is a fifth of the time this request takes on 2 CPUs.
		m.u32(unix.IFLA_NUM_TX_QUEUES, 1)
		m.u32(unix.IFLA_NUM_RX_QUEUES, 1)
	}
	end(s.HostIf, s.HostMAC)
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attr(unix.IFLA_INFO_KIND, []byte("veth"))
		m.nest(unix.IFLA_INFO_DATA, func() {
			m.nest(vethInfoPeer, func() {
				m.raw(ifinfo(0, 0, 0))
				end(s.PodIf, s.PodMAC)
				m.u32(unix.IFLA_NET_NS_FD, uint32(ns))
			})
		})
	})
	return m
}

func getLink(name string) *message {
	m := request("read link "+name, unix.RTM_GETLINK, 0, ifinfo(0, 0, 0))
	m.text(unix.IFLA_IFNAME, name)
	m.u32(unix.IFLA_EXT_MASK, skipStats)
	return m
}

// up switches an end on.
func up(name string, index int32) *message {
	return request("bring up "+name, unix.RTM_NEWLINK, 0, ifinfo(index, unix.IFF_UP, unix.IFF_UP))
}

// disableIPv6LinkLocal keeps the kernel from making a link-local address: no Pod has an address that was not given to it, no
// duplicate address detection delays anything, and no router solicitation is sent. Where the kernel has no IPv6 (or
// the MTU is too small for it) there is nothing to be kept from.
func disableIPv6LinkLocal(name string, index int32, need bool) *message {
	m := request("switch off IPv6 autoconfiguration of "+name, unix.RTM_NEWLINK, 0, ifinfo(index, 0, 0))
	m.nest(unix.IFLA_AF_SPEC, func() {
		m.nest(unix.AF_INET6, func() { m.u8(unix.IFLA_INET6_ADDR_GEN_MODE, genModeNone) })
	})
	if !need {
		m.tolerate = unix.EAFNOSUPPORT
	}
	return m
}

// looseFilter sets rp_filter=2 on the host's end: replies are steered by port, so the way back of a packet may differ
// from the way it came (DESIGN.md, trap 2). Spoofing is the filter's business.
func looseFilter(s Spec, index int32) *message {
	m := request("set rp_filter and alias of "+s.HostIf, unix.RTM_NEWLINK, 0, ifinfo(index, 0, 0))
	if s.Alias != "" {
		m.attr(unix.IFLA_IFALIAS, []byte(s.Alias))
	}
	m.nest(unix.IFLA_AF_SPEC, func() {
		m.nest(unix.AF_INET, func() {
			m.nest(unix.IFLA_INET_CONF, func() { m.u32(ipv4RPFilter, rpFilterLoose) })
		})
	})
	return m
}

func be16(v uint16) uint16 { return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)}) }
