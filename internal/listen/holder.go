package listen

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holder is the process that has the port of a socket which could not be opened.
type holder struct {
	inode uint64 // of its socket, 0: not found
	user  string // numeric user id of the socket
	// process is "4711 (dnsmasq)"; "" where another network or PID namespace, or a missing CAP_SYS_PTRACE, hides it.
	process string
}

// String describes the holder for the status.
func (h *holder) String() string {
	switch {
	case h.inode == 0:
		return ""
	case h.process == "":
		return "held by a process of user id " + h.user
	}
	return fmt.Sprintf("held by process %s of user id %s", h.process, h.user)
}

// find looks for the holder of the address that err names. Sockets with an inode in own are left out. The search through all
// processes is made once per socket.
func (h *holder) find(err error, own map[uint64]bool) {
	inode, user := lookup(err, own)
	if inode == h.inode && inode != 0 {
		return
	}
	*h = holder{inode: inode, user: user}
	if inode != 0 {
		h.process = processOf(inode)
	}
}

// lookup returns inode and user of the socket that prevents the bind which failed with err.
func lookup(err error, own map[uint64]bool) (inode uint64, user string) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Addr == nil {
		return 0, ""
	}
	at := op.Addr.String()
	if strings.HasPrefix(at, ":") { // all addresses
		at = "0.0.0.0" + at
	}
	want, perr := netip.ParseAddrPort(at)
	if perr != nil {
		return 0, ""
	}
	protocol := strings.TrimRight(op.Net, "46")
	for _, file := range []string{"/proc/net/" + protocol, "/proc/net/" + protocol + "6"} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		inode, user = conflicting(f, want, own)
		f.Close()
		if inode != 0 {
			return inode, user
		}
	}
	return 0, ""
}

// conflicting parses lines like "0: 0100007F:1F90 00000000:0000 0A ..." (proc_net_tcp(5)): the eighth field is the user id, the tenth
// the inode. A socket on the same port conflicts if the addresses are equal or one of them is unspecified.
func conflicting(r io.Reader, want netip.AddrPort, own map[uint64]bool) (inode uint64, user string) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		at, ok := parseAddress(f[1])
		if !ok || at.Port() != want.Port() || at.Addr() != want.Addr() && !at.Addr().IsUnspecified() && !want.Addr().IsUnspecified() {
			continue
		}
		if n, err := strconv.ParseUint(f[9], 10, 64); err == nil && n != 0 && !own[n] {
			return n, f[7]
		}
	}
	return 0, ""
}

// parseAddress reads an address and port of /proc/net: 32-bit words in host byte order, and the port, in hexadecimal.
func parseAddress(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}

// processOf returns the process that has a descriptor of a socket, "" if none can be read.
func processOf(inode uint64) string {
	want := fmt.Sprintf("socket:[%d]", inode)
	processes, _ := filepath.Glob("/proc/[0-9]*") // the pattern is valid
	for _, dir := range processes {
		fds, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue // ended, or not readable
		}
		for _, fd := range fds {
			if to, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil && to == want {
				comm, _ := os.ReadFile(dir + "/comm")
				return fmt.Sprintf("%s (%s)", filepath.Base(dir), strings.TrimSpace(string(comm)))
			}
		}
	}
	return ""
}
