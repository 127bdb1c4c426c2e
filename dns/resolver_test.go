package dns

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/warrennet/warren/internal/listen"
)

// inNamespace runs fn on a thread in a network and mount namespace of its own, with loopback up and resolv.conf replaced.
// The thread ends with its goroutine.
func inNamespace(t *testing.T, resolv string, fn func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(resolv), 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(done)
		if err := enter(file); err != nil {
			done <- err
			return
		}
		fn()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func enter(resolv string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount(resolv, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, own := range []string{"10.43.0.10/32", "fd43::10/128"} { // without an IPv6 address glibc queries no AAAA
		a, _ := netlink.ParseAddr(own)
		if err := netlink.AddrAdd(lo, a); err != nil {
			return err
		}
	}
	return nil
}

// dig and glibc query as in a Pod: cluster DNS address, search list, ndots:5.
func TestServer_DigAndGlibc_ResolveAsInAPod(t *testing.T) {
	resolv := "nameserver 10.43.0.10\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
	inNamespace(t, resolv, func() {
		socks := []netip.AddrPort{netip.MustParseAddrPort("10.43.0.10:53")}
		s, err := New(Config{Listen: socks, Allow: prefixes("10.43.0.10/32")})
		if err != nil {
			t.Error(err)
			return
		}
		s.Set(sample())
		from := listen.New(listen.Config{})
		defer from.Close()
		k, err := listenAll(context.Background(), from, socks, 1) // bound on this thread: in the namespace
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.serve(ctx, k) }()
		<-s.Ready()
		for _, c := range resolverCases {
			out, err := exec.Command(c.run[0], c.run[1:]...).CombinedOutput() // started from this thread: in the namespace too
			for _, want := range c.want {
				if !strings.Contains(strings.Join(strings.Fields(string(out)), " "), want) {
					t.Errorf("%s (%v):\n%s\nexpected %q", strings.Join(c.run, " "), err, out, want)
				}
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

var resolverCases = []struct{ run, want []string }{
	{[]string{"dig", "+search", "web"}, []string{"NOERROR", "web.default.svc.cluster.local. 5 IN A 10.43.0.5"}},
	{[]string{"dig", "web.default.svc.cluster.local", "AAAA"}, []string{"NOERROR", "IN AAAA fd43::5", "flags: qr aa rd ra"}},
	{[]string{"dig", "+tcp", "web.default.svc.cluster.local"}, []string{"IN A 10.43.0.5", "(TCP)"}},
	{[]string{"dig", "+bufsize=512", "+ignore", "_pg._tcp.db.prod.svc.cluster.local", "SRV"},
		[]string{"flags: qr aa rd ra", "5432 db-1.db.prod.svc.cluster.local."}},
	{[]string{"dig", "+noedns", "db.prod.svc.cluster.local"}, []string{"ANSWER: 4", "ADDITIONAL: 0"}},
	{[]string{"dig", "+edns=0", "+dnssec", "web.default.svc.cluster.local"}, []string{"EDNS: version: 0, flags: do; udp: 1232"}},
	{[]string{"dig", "+edns=1", "+noednsneg", "web.default.svc.cluster.local"}, []string{"BADVERS"}},
	{[]string{"dig", "+norecurse", "web.default.svc.cluster.local"}, []string{"flags: qr aa ra", "10.43.0.5"}},
	{[]string{"dig", "wEb.DeFault.svc.Cluster.local"}, []string{"wEb.DeFault.svc.Cluster.local. 5 IN A 10.43.0.5"}},
	{[]string{"dig", "web.default.svc.cluster.local", "ANY", "+notcp"}, []string{"HINFO \"RFC8482\""}},
	{[]string{"dig", "version.bind", "CH", "TXT"}, []string{"\"warren\""}},
	{[]string{"dig", "+opcode=status", "web.default.svc.cluster.local"}, []string{"NOTIMP"}},
	{[]string{"dig", "-x", "10.43.0.5"}, []string{"web.default.svc.cluster.local."}},
	{[]string{"dig", "-x", "fd43::5"}, []string{"web.default.svc.cluster.local."}},
	{[]string{"dig", "cluster.local", "AXFR"}, []string{"Transfer failed"}},
	{[]string{"dig", "nope.default.svc.cluster.local"}, []string{"NXDOMAIN", "IN SOA ns.dns.cluster.local."}},
	{[]string{"getent", "ahostsv4", "web"}, []string{"10.43.0.5"}},
	{[]string{"getent", "ahostsv6", "web"}, []string{"fd43::5"}},
	{[]string{"getent", "ahosts", "web.default"}, []string{"10.43.0.5", "fd43::5"}},
	{[]string{"getent", "ahostsv4", "db.prod"}, []string{"10.42.0.2", "10.42.1.2", "10.42.2.2"}},
	{[]string{"getent", "ahostsv4", "here.ext"}, []string{"10.43.0.5"}},
	{[]string{"getent", "ahostsv4", "db-1.db.prod.svc.cluster.local"}, []string{"10.42.1.2"}},
	{[]string{"getent", "hosts", "10.43.0.5"}, []string{"web.default.svc.cluster.local"}},
	{[]string{"getent", "ahostsv4", "n2.node.warren"}, []string{"192.0.2.2"}},
}
