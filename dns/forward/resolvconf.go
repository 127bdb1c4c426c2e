package forward

import (
	"bufio"
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// resolvedFiles is where systemd-resolved lists its own upstreams, while resolv.conf names its stub 127.0.0.53.
var resolvedFiles = []string{"/run/systemd/resolve/resolv.conf"}

const maxServers = 8

// fileUpstreams returns the upstreams of resolv.conf, none when it cannot be read. The addresses of this server are left
// out: resolv.conf of the node may name it, which would be a forwarding loop.
func (f *Forwarder) fileUpstreams() *upstreamSet {
	var specs []string
	for _, a := range nameservers(f.cfg.ResolvConf) {
		if ap := netip.AddrPortFrom(a, 53); !slices.Contains(f.cfg.Listen, ap) {
			specs = append(specs, ap.String())
		}
	}
	r, err := parseRoutes(specs, nil, f.cfg.Listen)
	if err != nil {
		f.cfg.Log.Warn("cannot use an upstream of resolv.conf", "file", f.cfg.ResolvConf, "err", err)
	}
	return r.defaults
}

// nameservers returns the servers of a resolv.conf. When it names only a stub on loopback, the servers of resolvedFiles.
func nameservers(path string) []netip.Addr {
	own := readServers(path)
	if len(own) > 0 && !slices.ContainsFunc(own, func(a netip.Addr) bool { return !a.IsLoopback() }) {
		for _, p := range resolvedFiles {
			if servers := slices.DeleteFunc(readServers(p), netip.Addr.IsLoopback); len(servers) > 0 {
				return servers
			}
		}
	}
	return own
}

func readServers(path string) (out []netip.Addr) {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, 64<<10) // bounds the memory: other programs write the file
	n, _ := f.Read(b)
	for sc := bufio.NewScanner(bytes.NewReader(b[:n])); sc.Scan() && len(out) < maxServers; {
		w := strings.Fields(sc.Text())
		if len(w) < 2 || w[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(w[1]); err == nil && !a.IsUnspecified() && !a.IsMulticast() {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// watchResolvConf applies changes of resolv.conf, of the file that it links to, and of resolvedFiles. Most writers replace
// the file instead of changing it, so the directories are watched.
func (f *Forwarder) watchResolvConf(ctx context.Context) error {
	if f.cfg.ResolvConf == "" {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		changed := directoryChange(ctx, f.directories())
		f.rereadResolvConf()
		if changed == nil {
			<-ctx.Done() // no inotify: the upstreams read at the start stay
			return nil
		}
		changed()
	}
	return nil
}

func (f *Forwarder) rereadResolvConf() {
	f.changeMu.Lock()
	defer f.changeMu.Unlock()
	if !f.fromFile {
		return
	}
	def := f.fileUpstreams()
	if old := f.routes.Load(); def.spec != old.defaults.spec {
		f.cfg.Log.Info("upstreams of resolv.conf changed", "file", f.cfg.ResolvConf, "upstreams", def.spec)
		f.setRoutes(&routes{defaults: def, stubs: slices.Clone(old.stubs)})
	}
}

func (f *Forwarder) directories() []string {
	dirs := []string{filepath.Dir(f.cfg.ResolvConf)}
	if to, err := filepath.EvalSymlinks(f.cfg.ResolvConf); err == nil {
		dirs = append(dirs, filepath.Dir(to))
	}
	for _, p := range resolvedFiles {
		dirs = append(dirs, filepath.Dir(p))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// directoryChange starts to watch directories. The returned function waits for the next change or for the end of ctx; it is
// nil when inotify is not available.
func directoryChange(ctx context.Context, dirs []string) func() {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil
	}
	file := os.NewFile(uintptr(fd), "inotify")
	for _, d := range dirs {
		_, _ = unix.InotifyAddWatch(fd, d, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_DELETE)
	}
	return func() {
		defer file.Close()
		defer context.AfterFunc(ctx, func() { file.Close() })()
		_, _ = file.Read(make([]byte, 4096))
	}
}
