package agent

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

// listening is a TCP socket's state in /proc/net/tcp.
const listening = "0A"

// hostListeners returns the ports of the host's TCP listeners and bound UDP sockets in the steered ranges, in ascending order, without
// the sockets of some inodes.
func hostListeners(but map[uint64]bool) (out []uint16) {
	for _, f := range []struct{ path, state string }{
		{"/proc/net/tcp", listening}, {"/proc/net/tcp6", listening}, {"/proc/net/udp", "07"}, {"/proc/net/udp6", "07"}} {
		file, err := os.Open(f.path)
		if err != nil {
			continue // the family is switched off
		}
		out = append(out, steeredPorts(bufio.NewScanner(file), f.state, but)...)
		file.Close()
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// steeredPorts reads lines like "0: 0100007F:1F90 00000000:0000 0A ..." (proc(5)); the inode comes tenth.
func steeredPorts(lines *bufio.Scanner, state string, but map[uint64]bool) (out []uint16) {
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] == "st" {
			continue
		}
		if f[3] != state {
			if state == listening {
				return out // the kernel lists listeners first, and there may be very many connections
			}
			continue
		}
		if inode, err := strconv.ParseUint(f[9], 10, 64); err == nil && but[inode] {
			continue
		}
		_, port, _ := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(port)
		if err != nil || len(b) != 2 {
			continue
		}
		n := uint16(b[0])<<8 | uint16(b[1])
		if plan.Redirected(n) {
			out = append(out, n)
		}
	}
	return out
}

// inodes are those of the agent's sockets at the ports of Services and Pods. What else it listens on (metrics, the tunnel) is reached
// there, or not, like a host program.
func (a *Agent) inodes() map[uint64]bool {
	out := map[uint64]bool{}
	add := func(fd int) {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			out[st.Ino] = true
		}
	}
	for _, fd := range a.deaf.open {
		add(fd)
	}
	for _, r := range a.relays.open {
		if c, err := r.SyscallConn(); err == nil {
			_ = c.Control(func(fd uintptr) { add(int(fd)) })
		}
	}
	return out
}
