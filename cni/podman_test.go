package cni

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// TestPodman_Containers_AttachAndDetach starts containers through podman's CNI backend and the conflist, like a lab user.
// Podman runs in the node's network namespace and in a mount namespace of its own, with a cgroup2 file system and an empty
// /run. The runtime is crun: runc refuses --cgroups=disabled.
func TestPodman_Containers_AttachAndDetach(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.NeedTools(t, "podman", "conmon", "crun", "unshare", "mount", "ip", "bash")
	r := newRig(t)
	d := t.TempDir()
	for _, dir := range []string{"bin", "net", "rootfs/etc", "rootfs/proc", "rootfs/sys", "rootfs/dev", "rootfs/run", "rootfs/tmp"} {
		if err := os.MkdirAll(filepath.Join(d, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build(t, filepath.Join(d, "bin/warren-cni"), "github.com/warrennet/warren/cmd/warren-cni")
	build(t, filepath.Join(d, "rootfs/show"), "./testdata/container")
	write(t, filepath.Join(d, "net/05-warren.conflist"), fmt.Sprintf(`{"cniVersion":"1.0.0","cniVersions":["1.0.0","1.1.0"],"name":"warren",
		"plugins":[{"type":"warren-cni","socket":%q,"capabilities":{"ips":true,"mac":true,"dns":true}}]}`, r.Socket))
	write(t, filepath.Join(d, "containers.conf"), fmt.Sprintf(`[network]
network_backend="cni"
cni_plugin_dirs=["%s/bin"]
network_config_dir="%s/net"
default_network="warren"
[engine]
cgroup_manager="cgroupfs"
`, d, d))

	run := func(script string) (string, error) {
		script = `mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs none /run && mkdir /run/netns || exit 99
pm() { podman --runtime crun --root ` + d + `/store --runroot /run/podman --log-level error "$@"; }
run() { pm run --cgroups=disabled --security-opt seccomp=unconfined --ulimit nofile=512:512 --ulimit nproc=512:512 --network warren "$@"; }
` + script
		var out []byte
		err := r.Do(func() (err error) {
			// In a PID namespace, because the cleanup process that conmon starts can outlive the script and write its lock
			// into net while the test removes it.
			c := exec.Command("unshare", "-m", "-p", "--fork", "--mount-proc", "bash", "-c", script)
			c.Env = append(os.Environ(), "CONTAINERS_CONF="+d+"/containers.conf")
			out, err = c.CombinedOutput()
			return err
		})
		return string(out), err
	}

	out, err := run(`run --rm --ip 10.42.7.77 --mac-address 02:00:00:00:00:77 --rootfs ` + d + `/rootfs /show`)
	if err != nil || !strings.Contains(out, "eth0 1420 02:00:00:00:00:77 [10.42.7.77/32 fd42:0:0:7::3/128]") {
		t.Fatalf("%v\n%s", err, out)
	}
	r.nothingLeft()

	out, err = run(`run -d --name web --rootfs ` + d + `/rootfs /show stay || exit 1
pm inspect web --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}'
ip -br link | grep wrn
pm rm -f -t 0 web`)
	if err != nil || !strings.Contains(out, "10.42.7.3 fd42:0:0:7::4") || !strings.Contains(out, "wrn") {
		t.Errorf("%v\n%s", err, out)
	}
	r.nothingLeft()
}

func build(t *testing.T, to, pkg string) {
	t.Helper()
	c := exec.Command("go", "build", "-o", to, pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
