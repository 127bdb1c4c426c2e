package dns

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

// stubResolvers are where systemd-resolved keeps the upstreams behind its stub.
var stubResolvers = []string{"/run/systemd/resolve/resolv.conf"}

const maxServers = 8

// fileUpstreams reads the node's own upstreams. A file that cannot be read yields none; ourselves are left out, or a node
// that uses this server for its own processes would be a loop.
func (s *Server) fileUpstreams() *upstreamSet {
	var specs []string
	for _, a := range nameservers(s.cfg.ResolvConf) {
		if ap := netip.AddrPortFrom(a, 53); !slices.Contains(s.cfg.Listen, ap) {
			specs = append(specs, ap.String())
		}
	}
	r, err := parseRoutes(specs, nil, s.cfg.Listen)
	if err != nil {
		s.cfg.Log.Warn("upstreams of resolv.conf", "path", s.cfg.ResolvConf, "error", err)
	}
	return r.defaults
}

// nameservers are the servers of a resolv.conf, or the real list when it names only a stub on loopback.
func nameservers(path string) []netip.Addr {
	own := readServers(path)
	if len(own) > 0 && !slices.ContainsFunc(own, func(a netip.Addr) bool { return !a.IsLoopback() }) {
		for _, p := range stubResolvers {
			real := slices.DeleteFunc(readServers(p), netip.Addr.IsLoopback)
			if len(real) > 0 {
				return real
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
	b := make([]byte, 64<<10) // of a file that others write, only so much
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

// watchResolvConf takes over what changes in resolv.conf: the file itself, what it links to, and the real lists. Most
// writers replace the file, so the folders are watched.
func (s *Server) watchResolvConf(ctx context.Context) error {
	if s.cfg.ResolvConf == "" {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		changed := folderChanges(ctx, s.folders())
		s.rereadResolvConf()
		if changed == nil {
			<-ctx.Done() // no inotify: what was read at the start stays
			return nil
		}
		changed()
	}
	return nil
}

func (s *Server) rereadResolvConf() {
	s.upstreamsMu.Lock()
	defer s.upstreamsMu.Unlock()
	if !s.fromFile {
		return
	}
	def := s.fileUpstreams()
	if old := s.routes.Load(); def.spec != old.defaults.spec {
		s.cfg.Log.Info("upstreams changed", "path", s.cfg.ResolvConf, "upstreams", def.spec)
		s.setRoutes(&routes{defaults: def, stubs: slices.Clone(old.stubs)})
	}
}

func (s *Server) folders() []string {
	dirs := []string{filepath.Dir(s.cfg.ResolvConf)}
	if to, err := filepath.EvalSymlinks(s.cfg.ResolvConf); err == nil {
		dirs = append(dirs, filepath.Dir(to))
	}
	for _, p := range stubResolvers {
		dirs = append(dirs, filepath.Dir(p))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// folderChanges starts watching and returns a function that waits for the next change or the end of ctx; nil when the
// kernel refuses.
func folderChanges(ctx context.Context, dirs []string) func() {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "inotify")
	for _, d := range dirs {
		_, _ = unix.InotifyAddWatch(fd, d, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_DELETE)
	}
	return func() {
		defer f.Close()
		defer context.AfterFunc(ctx, func() { f.Close() })()
		_, _ = f.Read(make([]byte, 4096))
	}
}
