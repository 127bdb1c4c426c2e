package cni

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/warrennet/warren/cni/internal/sandbox"
	"github.com/warrennet/warren/internal/testutil"
	"golang.org/x/sys/unix"
)

// Sends a megabyte between every two of three Pods, and from the node to each, in both families.
func TestAdd_SeveralPods_ReachEachOther(t *testing.T) {
	r := newRig(t)
	type member struct {
		ns    *sandbox.Namespace
		addrs []netip.Addr
	}
	var pods []member
	for range 3 {
		p := r.pod()
		pods = append(pods, member{p.Namespace, r.mustAdd(p)})
	}
	from := append([]member{{r.Namespace, nil}}, pods...)
	// The node needs a source address of each family.
	err := r.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, s := range []string{"10.42.7.1/32", "fd42:0:0:7::1/128"} {
			a, _ := netlink.ParseAddr(s)
			if err := netlink.AddrAdd(lo, a); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range from {
		for j, b := range pods {
			for _, dst := range b.addrs {
				if i == j+1 {
					continue
				}
				if err := transfer(a.ns, b.ns, dst, a.addrs); err != nil {
					t.Errorf("from %d to Pod %d at %s: %v", i, j, dst, err)
				}
			}
		}
	}
}

// transfer sends 1 MB over TCP and checks that it arrives whole and from one of the sender's own addresses.
func transfer(from, to *sandbox.Namespace, dst netip.Addr, own []netip.Addr) error {
	var l net.Listener
	if err := to.Do(func() (err error) { l, err = net.Listen("tcp", netip.AddrPortFrom(dst, 0).String()); return err }); err != nil {
		return err
	}
	defer l.Close()
	want := bytes.Repeat([]byte("warren "), 150_000)
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err
			return
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		peer := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		switch {
		case err != nil:
		case !bytes.Equal(b, want):
			err = fmt.Errorf("%d bytes arrived of %d", len(b), len(want))
		case own != nil && peer != own[0] && peer != own[len(own)-1]:
			err = fmt.Errorf("the connection has the source %s", peer)
		}
		got <- err
	}()
	err := from.Do(func() error {
		d := net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1}
		c, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(want)
		return err
	})
	if err != nil {
		return err
	}
	return <-got
}

// ether and the functions after it build frames: an Ethernet header, then the body of the case.

func ether(typ uint16, body ...[]byte) []byte {
	b := append(make([]byte, 0, 128), 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)
	b = binary.BigEndian.AppendUint16(b, typ)
	for _, x := range body {
		b = append(b, x...)
	}
	return b
}

func ip4(src, dst string) []byte {
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	b := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0}
	b = append(append(b, s[:]...), d[:]...)
	return append(b, 0, 9, 0, 9, 0, 8, 0, 0)
}

func ip6(src, dst string, next, hops byte, payload []byte) []byte {
	s, d := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
	b := []byte{0x60, 0, 0, 0, 0, byte(len(payload)), next, hops}
	return append(append(append(b, s[:]...), d[:]...), payload...)
}

func nd(typ byte, target string) []byte {
	a := netip.MustParseAddr(target).As16()
	return append([]byte{typ, 0, 0, 0, 0, 0, 0, 0}, a[:]...)
}

func arp(ptype uint16, plen byte, sender string) []byte {
	s := netip.MustParseAddr(sender).As4()
	b := []byte{0, 1}
	b = binary.BigEndian.AppendUint16(b, ptype)
	b = append(b, 6, plen, 0, 1, 2, 0, 0, 0, 0, 2)
	b = append(b, s[:]...)
	return append(b, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1)
}

const (
	own4, own6     = "10.42.7.3", "fd42:0:0:7::3"
	other4, other6 = "10.42.7.4", "fd42:0:0:7::4"
)

var frames = []struct {
	name  string
	frame []byte
	pass  bool
	fam   int // which family the Pod must have for it to pass
}{
	{"IPv4 own", ether(0x0800, ip4(own4, other4)), true, 4},
	{"IPv4 of another Pod", ether(0x0800, ip4(other4, "10.42.7.9")), false, 0},
	{"IPv4 from outside", ether(0x0800, ip4("8.8.8.8", other4)), false, 0},
	{"IPv4 unspecified", ether(0x0800, ip4("0.0.0.0", "255.255.255.255")), false, 0},
	{"IPv4 cut short", ether(0x0800, ip4(own4, other4)[:17]), false, 0},
	{"IPv4 nothing", ether(0x0800), false, 0},
	{"ARP own", ether(0x0806, arp(0x0800, 4, own4)), true, 4},
	{"ARP for another Pod", ether(0x0806, arp(0x0800, 4, other4)), false, 0},
	{"ARP probe", ether(0x0806, arp(0x0800, 4, "0.0.0.0")), false, 0},
	{"ARP with other lengths", ether(0x0806, arp(0x0800, 16, own4)), false, 0},
	{"ARP of another protocol", ether(0x0806, arp(0x86dd, 4, own4)), false, 0},
	{"ARP cut short", ether(0x0806, arp(0x0800, 4, own4)[:20]), false, 0},
	{"IPv6 own", ether(0x86dd, ip6(own6, other6, 17, 64, make([]byte, 8))), true, 6},
	{"IPv6 of another Pod", ether(0x86dd, ip6(other6, "fd42::9", 17, 64, make([]byte, 8))), false, 0},
	{"IPv6 link-local", ether(0x86dd, ip6("fe80::3", other6, 17, 64, make([]byte, 8))), false, 0},
	{"IPv6 unspecified (DAD)", ether(0x86dd, ip6("::", "ff02::1:ff00:4", 58, 255, nd(135, other6))), false, 0},
	{"IPv6 cut short", ether(0x86dd, ip6(own6, other6, 17, 64, nil)[:22]), false, 0},
	{"router advertisement", ether(0x86dd, ip6("fe80::3", "ff02::1", 58, 255, append([]byte{134}, make([]byte, 40)...))), false, 0},
	{"neighbour solicitation for the gateway", ether(0x86dd, ip6("fe80::3", "ff02::1:ff00:1", 58, 255, nd(135, "fe80::1"))), true, 6},
	{"the same, probing", ether(0x86dd, ip6("fe80::3", "fe80::1", 58, 255, nd(135, "fe80::1"))), true, 6},
	{"the same, forwarded once", ether(0x86dd, ip6("fe80::3", "fe80::1", 58, 254, nd(135, "fe80::1"))), false, 0},
	{"the same, to another Pod", ether(0x86dd, ip6("fe80::3", other6, 58, 255, nd(135, "fe80::1"))), false, 0},
	{"the same, cut short", ether(0x86dd, ip6("fe80::3", "fe80::1", 58, 255, nd(135, "fe80::1")[:12])), false, 0},
	{"solicitation for another Pod", ether(0x86dd, ip6("fe80::3", "ff02::1:ff00:4", 58, 255, nd(135, other6))), false, 0},
	{"advertisement as the gateway", ether(0x86dd, ip6("fe80::3", "ff02::1", 58, 255, nd(136, "fe80::1"))), false, 0},
	{"IEEE 802.3 LLC", ether(0x0026, make([]byte, 50)), false, 0},
	{"an unknown EtherType", ether(0x88cc, make([]byte, 50)), false, 0},
}

// Sends each frame from inside the Pod and reads from the kernel's counters whether the filter dropped it.
func TestSourceFilter_EachFrame_PassesOnlyOwnSource(t *testing.T) {
	for _, fam := range []struct {
		name   string
		blocks []netip.Prefix
		has    map[int]bool
	}{
		{"IPv4", both[:1], map[int]bool{4: true}},
		{"IPv6", both[1:], map[int]bool{6: true}},
		{"dual", both, map[int]bool{4: true, 6: true}},
	} {
		r := newRig(t, fam.blocks...)
		p := r.pod()
		r.mustAdd(p)
		send := rawSender(t, p)
		for _, c := range frames {
			t.Run(fam.name+" "+c.name, func(t *testing.T) {
				var drops, dropsBefore uint32
				// until no other frame of the Pod was counted in between
				for packets, before := uint32(2), uint32(0); packets != before+1; {
					var err error
					if before, dropsBefore, err = r.filterCounts(p.hostIf()); err != nil {
						t.Fatal(err)
					}
					if err := send(c.frame); err != nil {
						t.Fatal(err)
					}
					testutil.Eventually(t, "the frame arrives", func() error {
						packets, drops, err = r.filterCounts(p.hostIf())
						if err == nil && packets <= before {
							err = fmt.Errorf("%d packets counted", packets)
						}
						return err
					})
				}
				if passed := drops == dropsBefore; passed != (c.pass && fam.has[c.fam]) {
					t.Errorf("passed: %v", passed)
				}
			})
		}
	}
}

// rawSender opens a packet socket inside the Pod, as a process with CAP_NET_RAW would.
func rawSender(t *testing.T, p *testPod) func([]byte) error {
	t.Helper()
	fd, index := -1, 0
	err := p.Do(func() (err error) {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		index = l.Attrs().Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) error {
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6})
	}
}
