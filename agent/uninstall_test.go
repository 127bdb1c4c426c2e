package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/internal/flock"
	"github.com/warrennet/warren/internal/testutil"
	"golang.org/x/sys/unix"
)

// uninstallConfig has all directories below a temporary one.
func uninstallConfig(t *testing.T) config.Config {
	cfg := config.Default()
	dir := t.TempDir()
	cfg.StateDir, cfg.RunDir, cfg.UAPIDir = filepath.Join(dir, "state"), filepath.Join(dir, "run"), filepath.Join(dir, "uapi")
	cfg.CNIConfDir, cfg.ProcSysNet = filepath.Join(dir, "cni"), "/proc/sys/net"
	return cfg
}

// Uninstalling deletes the interface as the tunnel does: with its lock, and only a multi-queue TUN device.
func TestUninstall_Interface_IsDeletedByTheTunnelsRules(t *testing.T) {
	for name, tc := range map[string]struct {
		add     string
		locked  bool
		noTUN   bool   // /dev/net/tun is missing, as in the Pod that uninstalls
		problem string // in the error; "" for none
		stays   bool
	}{
		"no device":                     {},
		"its own":                       {add: "ip tuntap add warren0 mode tun multi_queue vnet_hdr"},
		"its own, without /dev/net/tun": {add: "ip tuntap add warren0 mode tun multi_queue vnet_hdr", noTUN: true},
		"single queue":                  {add: "ip tuntap add warren0 mode tun", problem: "no multi-queue TUN", stays: true},
		"another kind": {add: "ip link add warren0 type veth peer name other0", problem: "no multi-queue TUN",
			stays: true},
		"in use": {add: "ip tuntap add warren0 mode tun multi_queue vnet_hdr", locked: true, problem: "lock", stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.InNetns(t, func() {
				cfg := uninstallConfig(t)
				if tc.add != "" {
					testutil.Shell(t, tc.add)
				}
				if tc.noTUN {
					hideTUN(t)
				}
				if tc.locked {
					testutil.Shell(t, "mkdir -p "+cfg.RunDir)
					l, err := flock.Try(lockFile(&cfg))
					if err != nil {
						t.Error(err)
						return
					}
					defer l.Close()
				}
				done, err := Uninstall(cfg, UninstallOptions{}, slog.New(slog.DiscardHandler))
				if (tc.problem == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.problem) {
					t.Errorf("%v, expected %q", err, tc.problem)
				}
				if left := testutil.Shell(t, "ip -o link show dev warren0 2>/dev/null; true"); (left != "") != tc.stays {
					t.Errorf("interface left: %q, expected any: %v", left, tc.stays)
				}
				if !strings.Contains(strings.Join(done, ","), "run directory") {
					t.Errorf("removed: %q, expected it to continue after a failure", done)
				}
			})
		})
	}
}

// hideTUN covers /dev/net for the calling thread, which must be locked and end with the test.
func hideTUN(t *testing.T) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Errorf("unshare the mount namespace: %v", err)
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Errorf("make mounts private: %v", err)
		return
	}
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "size=64k"); err != nil {
		t.Errorf("cover /dev/net: %v", err)
	}
	if _, err := os.Stat("/dev/net/tun"); err == nil {
		t.Error("/dev/net/tun is still visible")
	}
}
