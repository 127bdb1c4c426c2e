// Package arch has no code. Its tests enforce the import directions of docs/architecture.md.
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

// rule restricts which packages may import the packages below a path.
type rule struct {
	imported string   // import path prefix
	only     []string // package prefixes, below the module, that may import it
	why      string
}

var rules = []rule{
	{"golang.zx2c4.com/wireguard", []string{"tunnel"}, "only tunnel uses the WireGuard device"},
	{"go.etcd.io/", []string{"internal/store"}, "only the store uses etcd's client and server"},
	{"k8s.io/client-go", []string{"internal/store", "controller", "test"},
		"only the store reads the API server, and only the controller writes to it"},
	{"k8s.io/", []string{"internal/store", "controller", "cmd/warren", "test"}, "other packages use the types of internal/model"},
	{"github.com/vishvananda/netlink", []string{"internal/hostnet", "cni", "lab", "tunnel", "agent/cniserver/"},
		"only hostnet configures the host by netlink; cni and lab configure network namespaces"},
	{"github.com/cilium/ebpf", []string{"servicelb/offload"}, "only the offload loads BPF programs"},
	{module + "agent", []string{"cmd", "lab", "agent", "cni/internal/"}, "only commands and the lab start agents"},
	{module + "lab", []string{"cmd", "lab", "bench"}, "the lab is a command and a test harness"},
	{module + "tunnel", []string{"agent", "tunnel", "cmd"}, "only the agent connects tunnel and servicelb"},
	{module + "controller", []string{"cmd"}, "the controller is a separate process"},
	{module + "servicelb", []string{"agent", "servicelb", "cmd"}, "only the agent connects tunnel and servicelb"},
	{module + "dns", []string{"agent", "dns", "cmd", "bench"}, "only the agent passes snapshots to the DNS server"},
	{module + "ingress/route", []string{"cmd", "ingress", "controller"}, "only the ingress routes; the controller reports problems"},
	{module + "ingress/engine", []string{"ingress"}, "the ingress is a separate process"},
	{module + "ingress/bridge", []string{"ingress"}, "the ingress is a separate process"},
	{module + "internal/store", []string{"agent", "controller", "cmd", "lab", "bench", "internal/store"},
		"only the agent, the controller and commands use the store"},
	{module + "internal/testutil", []string{"internal/testutil", "internal/store/etcd/etcdtest"}, "only tests use it"},
	{module + "internal/systemd", []string{"agent", "cmd"}, "only a process that runs as a systemd unit notifies systemd"},
	{module + "internal/hostnet", []string{"agent", "cmd"}, "only the agent configures the host; commands inspect it"},
}

func below(path, prefix string) bool {
	return path == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/") ||
		strings.HasSuffix(prefix, "/") && strings.HasPrefix(path, prefix)
}

func TestImports_EachPackage_FollowsTheDirections(t *testing.T) {
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

// pure packages import the standard library and each other only.
var pure = map[string]string{
	"internal/model":     "plain values",
	"internal/packet":    "parsing and rewriting of bytes",
	"internal/netx":      "calculation with addresses",
	"internal/lbpool":    "a decision from values",
	"internal/namehash":  "a calculation with strings",
	"internal/ownership": "a decision from values",
	"internal/api":       "types of the local API; the CNI plugin links them, and its start time matters",
}

func TestPurePackages_Imports_AreStandardLibraryOrPure(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if pure[name] == "" {
			continue
		}
		for _, imp := range p.Imports {
			if pure[strings.TrimPrefix(imp, module)] == "" && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
				t.Errorf("%s (%s) imports %s: only the standard library and other pure packages are allowed", name, pure[name], imp)
			}
		}
	}
}
