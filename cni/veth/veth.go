// Package veth creates, checks and deletes the kernel objects of one Pod interface: a veth pair, the addresses, routes and
// permanent neighbours on both ends, and the filter on the host's end that drops packets of the Pod with a spoofed source.
//
// It encodes netlink itself and sends requests in batches, because round trips and start-up are most of the time of an ADD
// (message.go has the figures). All objects belong to the host's end: its deletion also deletes the Pod's end, the
// addresses, routes, neighbours and the filter. So an undo is one request.
//
// The package never changes another object of the two network namespaces; the Pod's lo is the runtime's. Its one goroutine
// waits for the last step of a deletion (Kernel.Delete); Kernel.Close joins it.
package veth

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/warrennet/warren/internal/api"
)

// Gateways of the Pods. Every Pod has a permanent neighbour entry for them with the MAC of the host's end, so no ARP or
// neighbour solicitation is sent for them.
var (
	Gateway4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	Gateway6 = netip.MustParseAddr("fe80::1")
)

// Gateway returns the gateway of an address's family.
func Gateway(a netip.Addr) netip.Addr {
	if a.Is4() {
		return Gateway4
	}
	return Gateway6
}

// Default returns the destination of the default route in an address's family.
func Default(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// MAC is a hardware address.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// ParseMAC parses six octets in hexadecimal, separated by colons or hyphens. It refuses multicast addresses and zero.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	const hex = "0123456789abcdef"
	low := strings.ToLower(s)
	if len(low) != 17 {
		return MAC{}, fmt.Errorf("MAC address %q: expected six octets like 02:00:5e:10:00:01", s)
	}
	for i := range m {
		hi, lo := strings.IndexByte(hex, low[3*i]), strings.IndexByte(hex, low[3*i+1])
		if hi < 0 || lo < 0 || (i < 5 && low[3*i+2] != ':' && low[3*i+2] != '-') {
			return MAC{}, fmt.Errorf("MAC address %q: expected six octets like 02:00:5e:10:00:01", s)
		}
		m[i] = byte(hi<<4 | lo)
	}
	if m == (MAC{}) || m[0]&1 != 0 {
		return MAC{}, fmt.Errorf("MAC address %q: expected a unicast address", s)
	}
	return m, nil
}

// Spec describes the interface of one Pod.
type Spec struct {
	HostIf, PodIf   string
	HostMAC, PodMAC MAC
	MTU             int          // bytes; both ends
	Addresses       []netip.Addr // at most one per family
	Table, Protocol int          // of the host routes to the Pod
	Alias           string       // shown by `ip link`; names the attachment when the record is lost
}

func (s Spec) has4() bool {
	for _, a := range s.Addresses {
		if a.Is4() {
			return true
		}
	}
	return false
}

func (s Spec) has6() bool {
	for _, a := range s.Addresses {
		if a.Is6() {
			return true
		}
	}
	return false
}

// maxAlias is IFALIASZ without its zero byte.
const maxAlias = 255

// Alias returns the alias of an attachment's host interface: "warren <container id>/<interface> <namespace>/<name>".
func Alias(at api.Attachment, pod string) string {
	s := "warren " + at.ContainerID + "/" + at.IfName
	if pod != "" && len(s)+1+len(pod) <= maxAlias {
		s += " " + pod
	}
	if len(s) > maxAlias {
		return ""
	}
	return s
}

// ParseAlias parses the text of Alias.
func ParseAlias(s string) (at api.Attachment, pod string, ok bool) {
	rest, ok := strings.CutPrefix(s, "warren ")
	if !ok {
		return at, "", false
	}
	rest, pod, _ = strings.Cut(rest, " ")
	i := strings.LastIndexByte(rest, '/')
	if i <= 0 || i == len(rest)-1 {
		return at, "", false
	}
	return api.Attachment{ContainerID: rest[:i], IfName: rest[i+1:]}, pod, true
}
