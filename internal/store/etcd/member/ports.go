package member

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// checkPort fails if a process listens on an address. The error names the process.
func checkPort(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l.Close()
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("etcd cannot listen on %s: %w", addr, err)
	}
	ap, perr := netip.ParseAddrPort(addr)
	if perr != nil {
		return err
	}
	return fmt.Errorf("etcd cannot listen on %s: %s has the port", addr, holder(ap.Port()))
}

// holder names the process that listens on a TCP port. In a container, other processes of the host are not visible.
func holder(port uint16) string {
	for _, inode := range listening(port) {
		fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && to == "socket:["+inode+"]" {
				pid := strings.Split(fd, "/")[2]
				name, _ := os.ReadFile("/proc/" + pid + "/comm")
				return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
			}
		}
	}
	return fmt.Sprintf("another process of the host (run there: ss -ltnp 'sport = :%d')", port)
}

// listening returns the inodes of the sockets that listen on a port, from /proc/net/tcp and tcp6: the second field is
// the local address, the fourth the state, the tenth the inode.
func listening(port uint16) (inodes []string) {
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			w := strings.Fields(s.Text())
			if len(w) < 10 || w[3] != "0A" {
				continue
			}
			_, p, _ := strings.Cut(w[1], ":")
			if n, err := strconv.ParseUint(p, 16, 16); err == nil && uint16(n) == port {
				inodes = append(inodes, w[9])
			}
		}
		f.Close()
	}
	return inodes
}
