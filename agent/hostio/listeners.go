package hostio

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/agent/plan"
	"golang.org/x/sys/unix"
)

// Socket states in /proc/net/tcp and /proc/net/udp (enum in the kernel's include/net/tcp_states.h).
const (
	tcpListen = "0A"
	udpBound  = "07"
)

// Listeners finds the host programs that listen inside of the redirected ranges (plan.Redirected). It keeps the order in which
// they came. The zero value is ready.
type Listeners struct {
	seen map[listenerKey]*sighting
	next uint64 // order of the next new listener
}

// listenerKey names a listener. A program that is restarted keeps its age; a port that another user takes does not.
type listenerKey struct {
	port uint16
	uid  uint32
}

// sighting is when a listener was first and last seen.
type sighting struct {
	since uint64
	last  time.Time
}

// forgetAfter is how long a listener keeps its age after it was last seen: longer than a program takes to restart.
const forgetAfter = 10 * time.Minute

// Find returns one listener for each port of the host's TCP listeners and bound UDP sockets, in ascending order. Sockets with
// an inode in own are left out. It logs nothing: a family without a file in /proc is disabled.
func (l *Listeners) Find(own map[uint64]bool, now time.Time) []plan.Listener {
	var found []plan.Listener
	for _, f := range []struct{ path, state string }{
		{"/proc/net/tcp", tcpListen}, {"/proc/net/tcp6", tcpListen}, {"/proc/net/udp", udpBound}, {"/proc/net/udp6", udpBound}} {
		file, err := os.Open(f.path)
		if err != nil {
			continue
		}
		found = append(found, redirectedPorts(bufio.NewScanner(file), f.state, own)...)
		file.Close()
	}
	return l.note(found, now)
}

// note records listeners and returns one for each port: that of root, or else the oldest.
func (l *Listeners) note(found []plan.Listener, now time.Time) []plan.Listener {
	if l.seen == nil {
		l.seen = map[listenerKey]*sighting{}
	}
	fresh := l.next
	for i := range found {
		f := &found[i]
		k := listenerKey{f.Port, f.UID}
		s := l.seen[k]
		if s == nil {
			s = &sighting{since: fresh} // all that came since the last call are equally old
			l.seen[k], l.next = s, fresh+1
		}
		s.last, f.Since = now, s.since
	}
	maps.DeleteFunc(l.seen, func(_ listenerKey, s *sighting) bool { return now.Sub(s.last) > forgetAfter })
	slices.SortFunc(found, func(a, b plan.Listener) int { return cmp.Or(cmp.Compare(a.Port, b.Port), a.Compare(b)) })
	return slices.CompactFunc(found, func(a, b plan.Listener) bool { return a.Port == b.Port })
}

// redirectedPorts parses lines like "0: 0100007F:1F90 00000000:0000 0A ..." (proc_net_tcp(5)); the owner is the eighth field and
// the inode the tenth.
func redirectedPorts(lines *bufio.Scanner, state string, own map[uint64]bool) (out []plan.Listener) {
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] == "st" {
			continue
		}
		if f[3] != state {
			if state == tcpListen {
				return out // the kernel lists listeners first, and there may be very many connections
			}
			continue
		}
		uid, uidErr := strconv.ParseUint(f[7], 10, 32)
		inode, inodeErr := strconv.ParseUint(f[9], 10, 64)
		_, port, _ := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(port)
		if uidErr != nil || inodeErr != nil || own[inode] || err != nil || len(b) != 2 {
			continue
		}
		if n := uint16(b[0])<<8 | uint16(b[1]); plan.Redirected(n) {
			out = append(out, plan.Listener{Port: n, UID: uint32(uid), Inode: inode})
		}
	}
	return out
}

// Inodes returns the inodes of the sinks' and the relays' sockets, which are at the ports of Services and Pods. The agent's other
// sockets (metrics, tunnel) count as host listeners: they are reached, or not, like those of a host program.
func Inodes(s *UDPSinks, l *Loopback6) map[uint64]bool {
	out := map[uint64]bool{}
	add := func(fd int) {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			out[st.Ino] = true
		}
	}
	for _, fd := range s.open {
		add(fd)
	}
	for _, r := range l.open {
		if c, err := r.SyscallConn(); err == nil {
			_ = c.Control(func(fd uintptr) { add(int(fd)) })
		}
	}
	return out
}
