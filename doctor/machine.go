package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// kernel checks the version: policy routing rules by protocol and port need Linux 4.17. Older kernels ignore these selectors, so
// that such a rule matches every packet.
func kernel(_ context.Context, n Node) []Finding {
	raw, err := os.ReadFile(n.path("/proc/sys/kernel/osrelease"))
	if err != nil {
		return unknown("cannot read the kernel's version: %v", err)
	}
	release := strings.TrimSpace(string(raw))
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return unknown("cannot read the kernel's version %q", release)
	}
	if major < 4 || major == 4 && minor < 19 {
		return []Finding{problem("upgrade the kernel to 4.19 or newer", "Linux %s has no policy rules by port", release)}
	}
	return fine("Linux %s", release)
}

// tunDevice checks /dev/net/tun: some container runtimes no longer provide it, and minimal images lack it.
func tunDevice(_ context.Context, n Node) []Finding {
	p := n.path("/dev/net/tun")
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return []Finding{problem(tunRemedy(err), "cannot find %s: %v", p, err)}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != 10 || unix.Minor(st.Rdev) != 200 {
		return []Finding{problem("create it again: `mknod /dev/net/tun c 10 200`", "%s is not the character device 10:200", p)}
	}
	fd, err := unix.Open(p, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return []Finding{problem(tunRemedy(err), "cannot open %s: %v", p, err)}
	}
	unix.Close(fd)
	return fine("%s", p)
}

// tunRemedy is what to do about an error of /dev/net/tun. A container without the device in its device cgroup gets EPERM.
func tunRemedy(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "run as root; in a container, allow character device 10:200 rwm in its device cgroup (see docs/kubernetes.md)"
	case errors.Is(err, unix.ENOENT):
		return "load the kernel's tun driver (`modprobe tun`); in a container, mount /dev/net/tun"
	}
	return "load the kernel's tun driver: `modprobe tun`"
}

// agent reports the problems that the agent reports.
func agent(_ context.Context, n Node) (out []Finding) {
	if n.Status == nil {
		return []Finding{problem("start `warren agent`, or read its log: `journalctl -u warren`, or "+
			"`kubectl -n warren-system logs` of this node's Pod of DaemonSet warren",
			"%v", n.StatusErr)}
	}
	for _, p := range n.Status.Problems {
		out = append(out, problem("", "%s", p))
	}
	if n.Status.Version != n.Version {
		out = append(out, warning("restart the agent after an upgrade", "the agent is version %s, this program %s", n.Status.Version,
			n.Version))
	}
	if len(out) == 0 {
		return fine("%s is ready; Pods: %d", n.Status.Node, n.Status.Pods)
	}
	return out
}

// exists reports whether a file exists. known is false if that cannot be found out.
func exists(path string) (there, known bool) {
	_, err := os.Stat(path)
	if err == nil {
		return true, true
	}
	return false, errors.Is(err, fs.ErrNotExist)
}
