package hostio

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// InUse reports whether a socket of another process receives packets to a port of one of these addresses, and where it is bound. It
// knows TCP and UDP.
func InUse(proto model.Protocol, port uint16, addrs []netip.Addr) (at netip.AddrPort, used bool) {
	files := map[model.Protocol][]string{model.TCP: {"/proc/net/tcp", "/proc/net/tcp6"}, model.UDP: {"/proc/net/udp", "/proc/net/udp6"}}
	state := udpBound
	if proto == model.TCP {
		state = tcpListen
	}
	own := ownSockets()
	for _, path := range files[proto] {
		file, err := os.Open(path)
		if err != nil {
			continue // the kernel has no such family
		}
		at, used = socketAt(bufio.NewScanner(file), state, port, addrs, own)
		file.Close()
		if used {
			return at, true
		}
	}
	return at, false
}

// socketAt finds a socket at a port in lines like those of redirectedPorts.
func socketAt(lines *bufio.Scanner, state string, port uint16, addrs []netip.Addr, own map[uint64]bool) (at netip.AddrPort, found bool) {
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != state {
			if state == tcpListen && len(f) > 3 && f[3] != "st" {
				return at, false // behind the listeners
			}
			continue
		}
		at, ok := parseSocket(f[1])
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if !ok || at.Port() != port || err == nil && own[inode] {
			continue
		}
		if at.Addr().IsUnspecified() || slices.Contains(addrs, at.Addr()) {
			return at, true
		}
	}
	return at, false
}

// parseSocket reads an address and port as /proc/net/tcp has them: words of 32 bits in the byte order of the host, the port big-endian.
func parseSocket(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	a, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(a)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(a); i += 4 {
		slices.Reverse(a[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(a)
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), ok
}

// ownSockets are the inodes of this process's sockets.
func ownSockets() map[uint64]bool {
	out := map[uint64]bool{}
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, l := range links {
		var inode uint64
		if to, err := os.Readlink(l); err == nil {
			if _, err := fmt.Sscanf(to, "socket:[%d]", &inode); err == nil {
				out[inode] = true
			}
		}
	}
	return out
}
