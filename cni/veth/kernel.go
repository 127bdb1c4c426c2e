package veth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/api"
	"golang.org/x/sys/unix"
)

// Kernel lists and deletes the Pods' host interfaces in one network namespace, for the agent. Safe for concurrent use.
type Kernel struct {
	ns    *os.File
	table int

	mu      sync.Mutex
	idle    []*socket
	deletes sync.WaitGroup
}

// NewKernel returns the Kernel of the calling thread's namespace. table is the routing table with the Pods' host routes.
func NewKernel(table int) (*Kernel, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the node's network namespace: %w", err)
	}
	k := &Kernel{ns: ns, table: table}
	s, err := k.take()
	if err != nil {
		ns.Close()
		return nil, err
	}
	k.give(s)
	return k, nil
}

// Close waits for the deletions in progress, then closes the sockets and the namespace.
func (k *Kernel) Close() {
	k.deletes.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.idle {
		s.close()
	}
	k.idle = nil
	k.ns.Close()
}

// take returns a socket for exclusive use until give. There are as many sockets as concurrent calls.
func (k *Kernel) take() (s *socket, err error) {
	k.mu.Lock()
	if n := len(k.idle); n > 0 {
		s, k.idle = k.idle[n-1], k.idle[:n-1]
	}
	k.mu.Unlock()
	if s != nil {
		return s, nil
	}
	err = inside(k.ns, func() (err error) { s, err = open(); return err })
	return s, err
}

func (k *Kernel) give(s *socket) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.idle = append(k.idle, s)
}

// Exists reports whether there is a link of that name.
func (k *Kernel) Exists(name string) (bool, error) {
	s, err := k.take()
	if err != nil {
		return false, err
	}
	defer k.give(s)
	err = s.do(getLink(name))
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

// Delete deletes a link, and with it the Pod's end, the addresses, routes and neighbours of both, and the filter. It
// returns nil for a link that does not exist.
//
// It returns when both ends have left the system: no name, no address, no route, no packet. The kernel blocks the caller of
// RTM_DELLINK longer, until the memory can be freed (netdev_run_todo: an RCU barrier, 12 to 30 ms). A goroutine waits for
// that, and Close joins it. A second request shows when the link has left the system: the deletion holds the RTNL lock
// until then, so a lookup of the name waits for exactly that.
func (k *Kernel) Delete(name string) error {
	if live, err := k.Exists(name); err != nil || !live {
		return err
	}
	s, err := k.take()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	k.deletes.Go(func() {
		defer k.give(s)
		done <- s.deleteLink(name)
	})
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(existsInterval):
		}
		if live, err := k.Exists(name); err == nil && !live {
			return nil
		}
	}
}

// existsInterval is the pause between two lookups of a link that is being deleted. One lookup is mostly enough.
const existsInterval = 100 * time.Microsecond

func (s *socket) deleteLink(name string) error {
	m := request("delete link "+name, unix.RTM_DELLINK, 0, ifinfo(0, 0, 0))
	m.text(unix.IFLA_IFNAME, name)
	m.tolerate = unix.ENODEV
	return s.do(m)
}

// Delete deletes a Pod's host interface in the namespace of the calling thread. It returns nil for an interface that does
// not exist.
func Delete(name string) error {
	s, err := open()
	if err != nil {
		return err
	}
	defer s.close()
	return s.deleteLink(name)
}

// Delete deletes the pair that Create made.
func (b *Builder) Delete(hostIf string) error { return b.host.deleteLink(hostIf) }

// Link is the host interface of a Pod, as the kernel describes it.
type Link struct {
	Name       string
	Attachment api.Attachment // from the alias; zero without a valid one
	Pod        string         // namespace/name, from the alias; "" when unknown
	Addresses  []netip.Addr   // destinations of the routes over it
}

// List returns the host interfaces of all Pods of the namespace.
func (k *Kernel) List() ([]Link, error) {
	s, err := k.take()
	if err != nil {
		return nil, err
	}
	defer k.give(s)
	byIndex, order := map[int32]*Link{}, []int32{}
	m := request("list links", unix.RTM_GETLINK, unix.NLM_F_DUMP, ifinfo(0, 0, 0))
	m.u32(unix.IFLA_EXT_MASK, skipStats)
	err = s.dump(m, func(b []byte) {
		if i, l, ok := parseLink(b); ok && strings.HasPrefix(l.Name, api.HostIfPrefix) {
			byIndex[i] = &l
			order = append(order, i)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := s.routes(fam, k.table, func(r route) {
			if l := byIndex[r.oif]; l != nil && r.table == k.table && r.dst.IsSingleIP() && r.typ == unix.RTN_UNICAST {
				l.Addresses = append(l.Addresses, r.dst.Addr())
			}
		})
		if err != nil {
			return nil, err
		}
	}
	out := make([]Link, 0, len(order))
	for _, i := range order {
		out = append(out, *byIndex[i])
	}
	return out, nil
}

func parseLink(b []byte) (index int32, l Link, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return 0, l, false
	}
	attrs(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = cstring(v)
		case unix.IFLA_IFALIAS:
			l.Attachment, l.Pod, _ = ParseAlias(cstring(v))
		}
	})
	return int32(binary.NativeEndian.Uint32(b[4:])), l, l.Name != ""
}

func cstring(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// route holds the fields of a route that this package reads.
type route struct {
	dst      netip.Prefix
	gw       netip.Addr
	oif      int32
	table    int
	protocol uint8
	typ      uint8
}

// routes calls each for the routes of one family. The request is for one table, but older kernels list all tables.
func (s *socket) routes(fam uint8, table int, each func(route)) error {
	m := request(fmt.Sprintf("list routes of table %d", table), unix.RTM_GETROUTE, unix.NLM_F_DUMP, rtmsg(fam, 0, 0, 0, 0))
	m.b[unix.SizeofNlMsghdr+7] = 0 // rtm_type: strict checking refuses a filter by type
	m.u32(unix.RTA_TABLE, uint32(table))
	m.b[unix.SizeofNlMsghdr+4] = unix.RT_TABLE_UNSPEC
	err := s.dump(m, func(b []byte) {
		if r, ok := parseRoute(b); ok {
			each(r)
		}
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // the table does not exist, or the kernel lacks the family
	}
	return err
}

func parseRoute(b []byte) (r route, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	dst := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	r.table, r.protocol, r.typ = int(b[4]), b[5], b[7]
	attrs(b[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
		switch {
		case typ == unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(v)
		case typ == unix.RTA_GATEWAY:
			r.gw, _ = netip.AddrFromSlice(v)
		case typ == unix.RTA_OIF && len(v) == 4:
			r.oif = int32(binary.NativeEndian.Uint32(v))
		case typ == unix.RTA_TABLE && len(v) == 4:
			r.table = int(binary.NativeEndian.Uint32(v))
		}
	})
	r.dst = netip.PrefixFrom(dst, int(b[1]))
	return r, r.dst.IsValid()
}
