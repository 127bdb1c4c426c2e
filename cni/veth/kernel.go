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

// Kernel looks at and removes Pods' host interfaces in one network namespace, for the agent. Safe for concurrent use.
type Kernel struct {
	ns    *os.File
	table int

	mu      sync.Mutex
	idle    []*socket
	deletes sync.WaitGroup
}

// NewKernel works in the namespace of the calling thread. table holds the Pods' host routes.
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

// Close lets go of namespace and sockets after the deletions under way have ended.
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

// take returns a socket for one conversation; there are as many as conversations at once.
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

// Exists says whether there is a link of that name.
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

// Delete removes a link, and with it the Pod's end and everything that hangs on both. One that is gone is no error.
//
// It returns when both ends have left the system: no name, no address, no route, no packet. The kernel keeps its
// caller waiting longer, until the memory can be freed (netdev_run_todo: an RCU barrier, 12 to 30 ms); a goroutine
// does that, and Close joins it. What tells the one from the other is a second request: the first holds the RTNL
// lock until the link is gone, so looking for the name waits for exactly that.
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
		case <-time.After(lookAgain):
		}
		if live, err := k.Exists(name); err == nil && !live {
			return nil
		}
	}
}

// lookAgain is the pause between two looks at a link that is being deleted. One look is mostly enough.
const lookAgain = 100 * time.Microsecond

func (s *socket) deleteLink(name string) error {
	m := request("delete link "+name, unix.RTM_DELLINK, 0, ifinfo(0, 0, 0))
	m.text(unix.IFLA_IFNAME, name)
	m.tolerate = unix.ENODEV
	return s.do(m)
}

// Delete removes a Pod's host interface in the namespace of the calling thread; one that is gone is no error.
func Delete(name string) error {
	s, err := open()
	if err != nil {
		return err
	}
	defer s.close()
	return s.deleteLink(name)
}

// Delete removes what Create made.
func (b *Builder) Delete(hostIf string) error { return b.host.deleteLink(hostIf) }

// Link is a live host interface of a Pod, by its name, its alias and the routes to it.
type Link struct {
	Name       string
	Attachment api.Attachment // zero without a readable alias
	Pod        string
	Addresses  []netip.Addr
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

// route is what this package reads of a route.
type route struct {
	dst      netip.Prefix
	gw       netip.Addr
	oif      int32
	table    int
	protocol uint8
	typ      uint8
}

// routes lists one family's routes. The kernel is asked for one table; an older one answers with all of them.
func (s *socket) routes(fam uint8, table int, each func(route)) error {
	m := request(fmt.Sprintf("list routes of table %d", table), unix.RTM_GETROUTE, unix.NLM_F_DUMP, rtmsg(fam, 0, 0, 0, 0))
	m.b[unix.SizeofNlMsghdr+7] = 0 // any type: strict checking refuses to filter for more than it knows
	m.u32(unix.RTA_TABLE, uint32(table))
	m.b[unix.SizeofNlMsghdr+4] = unix.RT_TABLE_UNSPEC
	err := s.dump(m, func(b []byte) {
		if r, ok := parseRoute(b); ok {
			each(r)
		}
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // the table was never used, or there is no such family here
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
