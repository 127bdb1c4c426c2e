// Package arch holds no code: its tests keep the import directions of docs/architecture.md.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/warrennet/warren/"

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// rule says which packages may import what begins with a path.
type rule struct {
	imported string   // import path prefix
	only     []string // package prefixes, below the module, that may import it
	why      string
}

var rules = []rule{
	{"golang.zx2c4.com/wireguard", []string{"tunnel"}, "the engine is tunnel's secret"},
	{"go.etcd.io/", []string{"internal/store"}, "etcd is the store's secret"},
	{"k8s.io/client-go", []string{"internal/store", "controller", "test"}, "client-go is the secret of those who read (store) and write (controller) the API server"},
	{"k8s.io/", []string{"internal/store", "controller", "cmd/warren", "test"}, "the rest of the program knows plain values"},
	{"github.com/vishvananda/netlink", []string{"internal/hostnet", "cni", "lab", "tunnel/", "agent/cniserver/"}, "hostnet is the only hand on netlink besides cni and the lab"},
	{"github.com/cilium/ebpf", []string{"servicelb/offload"}, "only the offload loads BPF programs"},
	{module + "agent", []string{"cmd", "lab", "agent", "cni/internal/"}, "nothing but cmd and lab starts agents"},
	{module + "lab", []string{"cmd", "lab", "bench"}, "the lab is for people and tests"},
	{module + "tunnel", []string{"agent", "tunnel", "cmd"}, "the agent joins tunnel and servicelb"},
	{module + "controller", []string{"cmd"}, "the controller is a program of its own"},
	{module + "servicelb", []string{"agent", "servicelb", "cmd"}, "the agent joins tunnel and servicelb"},
	{module + "dns", []string{"agent", "dns", "cmd", "bench"}, "the agent hands snapshots to DNS"},
	{module + "internal/store", []string{"agent", "controller", "cmd", "lab", "bench", "internal/store"}, "only the agent and the commands read the store"},
	{module + "internal/testutil", []string{"internal/testutil", "internal/store/etcd/etcdtest"}, "only tests use it"},
	{module + "internal/systemd", []string{"agent", "cmd"}, "what runs as a unit speaks to its manager; packages do not"},
	{module + "internal/hostnet", []string{"agent", "cmd"}, "only the agent configures the host; the doctor, started by cmd, looks"},
}

func below(path, prefix string) bool {
	return path == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/") ||
		strings.HasSuffix(prefix, "/") && strings.HasPrefix(path, prefix)
}

func TestImportDirections(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, imp := range p.Imports {
			for _, r := range rules {
				if !below(imp, r.imported) {
					continue
				}
				allowed := false
				for _, o := range r.only {
					allowed = allowed || below(name, o)
				}
				if !allowed {
					t.Errorf("%s imports %s: %s (allowed: %v)", name, imp, r.why, r.only)
				}
			}
		}
	}
}

// model and packet are plain values and byte work, lbpool plans on them; the plugin's wire types must not grow its binary.
func TestPureStdlib(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if name != "internal/model" && name != "internal/packet" && name != "internal/api" && name != "internal/lbpool" {
			continue
		}
		for _, imp := range p.Imports {
			if imp != module+"internal/model" && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
				t.Errorf("%s imports %s: it may import the standard library (and model) only", name, imp)
			}
		}
	}
}
