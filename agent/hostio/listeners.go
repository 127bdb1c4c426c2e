package hostio

import (
	"bufio"
	"encoding/hex"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/warrennet/warren/agent/plan"
	"golang.org/x/sys/unix"
)

// Socket states in /proc/net/tcp and /proc/net/udp (enum in the kernel's include/net/tcp_states.h).
const (
	tcpListen = "0A"
	udpBound  = "07"
)

// Listeners returns the ports of the host's TCP listeners and bound UDP sockets inside the redirected ranges (plan.Redirected), in
// ascending order. Sockets with an inode in own are left out. It logs nothing: a family without a file in /proc is disabled.
func Listeners(own map[uint64]bool) (out []uint16) {
	for _, f := range []struct{ path, state string }{
		{"/proc/net/tcp", tcpListen}, {"/proc/net/tcp6", tcpListen}, {"/proc/net/udp", udpBound}, {"/proc/net/udp6", udpBound}} {
		file, err := os.Open(f.path)
		if err != nil {
			continue
		}
		out = append(out, redirectedPorts(bufio.NewScanner(file), f.state, own)...)
		file.Close()
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// redirectedPorts parses lines like "0: 0100007F:1F90 00000000:0000 0A ..." (proc_net_tcp(5)); the inode is the tenth field.
func redirectedPorts(lines *bufio.Scanner, state string, own map[uint64]bool) (out []uint16) {
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
		if inode, err := strconv.ParseUint(f[9], 10, 64); err == nil && own[inode] {
			continue
		}
		_, port, _ := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(port)
		if err != nil || len(b) != 2 {
			continue
		}
		if n := uint16(b[0])<<8 | uint16(b[1]); plan.Redirected(n) {
			out = append(out, n)
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
