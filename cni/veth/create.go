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
	rpFilterLoose = 2 // a route to the source over any interface is enough
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

// Builder creates and configures one Pod's interface. It holds a netlink socket in the node's and in the Pod's namespace.
type Builder struct {
	host, pod *socket
	podNS     *os.File
}

// NewBuilder opens the Pod's network namespace at path and both sockets. The node's namespace is that of the calling
// thread: a process with threads in several namespaces must lock the goroutine to a thread.
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

// Close closes the sockets and the namespace.
func (b *Builder) Close() {
	b.podNS.Close()
	if b.host != nil {
		b.host.close()
	}
	if b.pod != nil {
		b.pod.close()
	}
}

// ErrExists means that the pair cannot be created because an interface with one of its names exists.
var ErrExists = errors.New("an interface of that name exists")

// Create creates the pair with both ends down and returns their interface indexes. Delete undoes it.
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

// pairIndexes returns the indexes of both ends from the description of one end: IFLA_LINK is the index of the other end in
// its own namespace.
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
		return 0, 0, errors.New("the kernel's reply has no interface indexes")
	}
	return this, other, nil
}

func newPair(s Spec, ns int) *message {
	m := request("create veth "+s.HostIf, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0))
	end := func(name string, mac MAC) {
		m.text(unix.IFLA_IFNAME, name)
		m.u32(unix.IFLA_MTU, uint32(s.MTU))
		// An address that is set at creation has the type NET_ADDR_SET, so udev's MACAddressPolicy does not change it.
		m.attr(unix.IFLA_ADDRESS, mac[:])
		// A veth uses one queue per direction. Without these attributes the kernel allocates one queue and two sysfs
		// objects per possible CPU, which is a fifth of the time of this request on 2 CPUs.
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

// up sets a link up.
func up(name string, index int32) *message {
	return request("bring up "+name, unix.RTM_NEWLINK, 0, ifinfo(index, unix.IFF_UP, unix.IFF_UP))
}

// disableIPv6LinkLocal prevents that the kernel generates a link-local address (addr_gen_mode none). So a Pod has only the
// addresses that it was given, duplicate address detection delays nothing, and no router solicitation is sent. need is
// false for a Pod without IPv6; the request may then fail on a kernel without IPv6.
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

// setRPFilter sets rp_filter=2 (loose) and the alias of the host's end.
//
// Policy rules redirect replies of local backends to warren0 by source port. Strict reverse path filtering looks up the
// route to a packet's source with the ports swapped, so the lookup matches those rules, returns warren0 instead of the
// host's end, and the kernel drops good packets from these ports. This holds also for rules that are bound to another
// interface by iif. IPv6 has no reverse path filter. Spoofed sources are dropped by the BPF filter (spoofFilter).
func setRPFilter(s Spec, index int32) *message {
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
