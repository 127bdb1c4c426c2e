package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/warrennet/warren/cni/internal/sandbox"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
	"golang.org/x/sys/unix"
)

// TestMain: the test binary is also the plugin under test, when it is executed under the plugin's name. Only then the stages
// have hooks: with TEST_KILL=stage in CNI_ARGS the plugin is killed there, with TEST_FAIL=stage it fails there.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "warren-cni" {
		os.Exit(Run(Process{Getenv: withoutTestArgs, Stdin: os.Stdin, Stdout: os.Stdout, Wait: 2 * time.Second,
			stage: testStage(os.Getenv("CNI_ARGS"))}))
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // for the plugins: a second per call otherwise
	os.Exit(m.Run())
}

func testStage(args string) func(string) error {
	return func(name string) error {
		for arg := range strings.SplitSeq(args, ";") {
			switch arg {
			case "TEST_KILL=" + name:
				unix.Kill(os.Getpid(), unix.SIGKILL)
				select {}
			case "TEST_FAIL=" + name:
				return errors.New("the test fails stage " + name)
			}
		}
		return nil
	}
}

func withoutTestArgs(name string) string {
	v := os.Getenv(name)
	if name == "CNI_ARGS" && strings.HasPrefix(v, "TEST_") {
		return ""
	}
	return v
}

// rig is a node with the agent's side of the plugin, and a libcni that executes the test binary as the plugin.
type rig struct {
	*sandbox.Node
	t   testing.TB
	cni *libcni.CNIConfig
}

var both = []netip.Prefix{netip.MustParsePrefix("10.42.7.0/24"), netip.MustParsePrefix("fd42:0:0:7::/64")}

func newRig(t testing.TB, blocks ...netip.Prefix) *rig {
	t.Helper()
	testutil.NeedRoot(t)
	if len(blocks) == 0 {
		blocks = both
	}
	node, err := sandbox.NewNode(t.TempDir(), blocks...)
	if err != nil {
		t.Fatal(err)
	}
	node.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	t.Cleanup(func() { node.Close() })
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(bin, "warren-cni"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return &rig{node, t, libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("agent: %s", strings.TrimSpace(string(p)))
	return len(p), nil
}

// list is the conflist; extra keys go into the plugin's own configuration.
func (r *rig) list(version string, extra ...string) *libcni.NetworkConfigList {
	r.t.Helper()
	more := ""
	if len(extra) > 0 {
		more = "," + strings.Join(extra, ",")
	}
	l, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":%q,"name":"podnet","plugins":[{"type":"warren-cni","socket":%q,
		"capabilities":{"ips":true,"mac":true,"dns":true,"portMappings":true}%s}]}`, version, r.Socket, more))
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// testPod is a container as a runtime sees it.
type testPod struct {
	*sandbox.Namespace
	rt *libcni.RuntimeConf
}

var podCount atomic.Int64

func (r *rig) pod() *testPod {
	r.t.Helper()
	ns, err := sandbox.New()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ns.Close() })
	id := fmt.Sprintf("pod-%d", podCount.Add(1))
	return &testPod{ns, &libcni.RuntimeConf{ContainerID: id, NetNS: ns.Path(), IfName: "eth0"}}
}

func (p *testPod) at() api.Attachment {
	return api.Attachment{ContainerID: p.rt.ContainerID, IfName: p.rt.IfName}
}

func (p *testPod) hostIf() string { return api.HostIfName(p.at()) }

func (r *rig) add(l *libcni.NetworkConfigList, p *testPod) (res *types100.Result, err error) {
	err = r.Do(func() error {
		raw, err := r.cni.AddNetworkList(context.Background(), l, p.rt)
		if err != nil {
			return err
		}
		res, err = types100.NewResultFromResult(raw)
		return err
	})
	return res, err
}

func (r *rig) mustAdd(p *testPod) []netip.Addr {
	r.t.Helper()
	res, err := r.add(r.list("1.1.0"), p)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []netip.Addr
	for _, ip := range res.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		out = append(out, a.Unmap())
	}
	return out
}

func (r *rig) del(l *libcni.NetworkConfigList, p *testPod) error {
	return r.Do(func() error { return r.cni.DelNetworkList(context.Background(), l, p.rt) })
}

func (r *rig) checkPod(l *libcni.NetworkConfigList, p *testPod) error {
	return r.Do(func() error { return r.cni.CheckNetworkList(context.Background(), l, p.rt) })
}

// code is the CNI error code of an error from libcni, -1 when it has none.
func code(err error) int {
	var e *types.Error
	if errors.As(err, &e) {
		return int(e.Code)
	}
	return -1
}

// nothingLeft waits until the node has no interface, route or record of any Pod.
func (r *rig) nothingLeft() {
	r.t.Helper()
	testutil.Eventually(r.t, "nothing is left", func() error {
		if s := r.leftovers(); s != "" {
			return errors.New(s)
		}
		return nil
	})
}

func (r *rig) leftovers() string {
	links, err := r.Kernel.List()
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, l := range links {
		out = append(out, fmt.Sprintf("link %s with routes %v", l.Name, l.Addresses))
	}
	for _, rec := range r.Pool.Records() {
		raw, _ := json.Marshal(rec)
		out = append(out, "record "+string(raw))
	}
	routes, err := r.podRoutes()
	if err != nil {
		return err.Error()
	}
	return strings.Join(append(out, routes...), "\n")
}
