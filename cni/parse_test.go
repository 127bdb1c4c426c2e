package cni

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/api"
)

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","type":"warren-cni"}`))
	f.Add([]byte(`{"cniVersion":"0.3.1","name":"n","type":"warren-cni",
		"prevResult":{"ips":[{"address":"10.0.0.1/32"}]},"dns":{"nameservers":["1.1.1.1"]}}`))
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"n",
		"runtimeConfig":{"ips":["10.0.0.1/8","::1"],"mac":"02:00:00:00:00:01","dns":{"servers":["x"]}},
		"args":{"cni":{"labels":[{"key":"a","value":"b"}],"ips":["1.2.3.4"]}}}`))
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}],
		"cni.dev/x":1,"ipam":{},"capabilities":{"ips":true}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseConfig(raw)
		if err != nil {
			var e *api.Error
			if !errors.As(err, &e) || e.Code < api.CodeVersion || e.Code > api.CodeConfig || e.Message == "" {
				t.Fatalf("error without a code: %#v", err)
			}
			return
		}
		if !slices.Contains(Versions, c.version) || !isName(c.network) || c.socket == "" {
			t.Fatalf("accepted %+v", c)
		}
		for _, a := range c.ips {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				t.Fatalf("accepted address %q", a)
			}
		}
		for _, a := range c.valid {
			if a.ContainerID == "" || a.IfName == "" {
				t.Fatalf("accepted the valid attachment %+v", a)
			}
		}
	})
}

func FuzzEnvironment(f *testing.F) {
	f.Add("ADD", "abc", "/proc/1/ns/net", "eth0", "IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;X=y")
	f.Add("ADD", "abc", "/x", "eth0", "IP=10.1.1.1,fd42::1/64;MAC=02:00:00:00:00:01")
	f.Add("DEL", "abc", "", "eth0", "nonsense")
	f.Add("CHECK", "-", "/x", "a/b", "IP=x")
	f.Fuzz(func(t *testing.T, command, id, netns, ifName, args string) {
		vars := map[string]string{"CNI_CONTAINERID": id, "CNI_NETNS": netns, "CNI_IFNAME": ifName, "CNI_ARGS": args}
		e, err := parseEnv(command, func(k string) string { return vars[k] })
		if err != nil {
			if asError(err).Code != api.CodeEnvironment {
				t.Fatalf("%v", err)
			}
			return
		}
		if (id != "" && !isName(e.containerID)) || len(e.ifName) > 15 || strings.ContainsAny(e.ifName, "/:") {
			t.Fatalf("accepted %+v", e)
		}
	})
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("HTTP/1.1 409 Conflict\r\ncontent-length:0\r\nX: y\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, head, length, err := parseHead(raw)
		if err == nil && (head < 0 || head > len(raw) || length < 0 || length > maxResponse) {
			t.Fatalf("head %d, length %d of %d bytes", head, length, len(raw))
		}
	})
}

func TestParseArgs_EachKey_IsCheckedOrRead(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"A=b", "unknown keys A and no IgnoreUnknown"},
		{"IgnoreUnknown=false;A=b", "unknown keys A"},
		{"nonsense", `CNI_ARGS has "nonsense"`},
		{"IP=10.0.0.300", `"10.0.0.300" is not an IP address`},
		{"MAC=01:00:5e:00:00:01", "expected a unicast address"},
		{"IgnoreUnknown=true;A=b;;IP=10.0.0.1/24,fd42::1", ""},
	} {
		t.Run(c.args, func(t *testing.T) {
			var e env
			var p problems
			e.parseArgs(c.args, &p)
			if got := strings.Join(p, "; "); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("problems %q, want %q", got, c.want)
			}
		})
	}
}

// TestPluginImports_OnlyAllowed holds what the plugin may import: each package more is start-up time on every ADD.
func TestPluginImports_OnlyAllowed(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/warrennet/warren/cmd/warren-cni").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"github.com/warrennet/warren/cmd/warren-cni", "github.com/warrennet/warren/cni",
		"github.com/warrennet/warren/cni/veth",
		"github.com/warrennet/warren/internal/api", "github.com/warrennet/warren/internal/namehash",
		"github.com/warrennet/warren/internal/version", "golang.org/x/net/bpf",
		"golang.org/x/sys/unix"}
	for _, dep := range strings.Fields(string(out)) {
		first, _, _ := strings.Cut(dep, "/")
		if strings.Contains(first, ".") && !slices.Contains(allowed, dep) || slices.Contains([]string{"net", "net/http", "crypto/sha256"},
			dep) {
			t.Errorf("the plugin imports %s", dep)
		}
	}
}
