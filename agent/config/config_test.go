package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const minimal = "etcd:\n  endpoints: [http://127.0.0.1:2379]\nnodeName: n1\n"

func load(t *testing.T, yaml string, env []string, flags map[string]string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load("", file, env, flags)
}

func TestLoad_SeveralSources_FlagsWin(t *testing.T) {
	c, err := load(t, minimal+"zone: file\ndomain: file.example\nmtu: 1400\n", []string{"WARREN_ZONE=env", "WARREN_MTU=1300"},
		map[string]string{"mtu": "1280"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Cluster.Domain != "file.example" || c.Zone != "env" || c.MTU != 1280 {
		t.Errorf("domain %q zone %q mtu %d, expected file.example, env, 1280: flags win over environment over file", c.Cluster.Domain,
			c.Zone, c.MTU)
	}
	if !c.Given("zone") || c.Given("port") {
		t.Error("Given does not distinguish set values from defaults")
	}
}

func TestLoad_ManyMistakes_ReportsEveryProblem(t *testing.T) {
	_, err := load(t, `
nodeName: "Not A Name!"
podCIDRs: [10.42.0.1/16, fd42::/48]
blockBits: {ipv4: 8}
mtu: 100
prot: 51820
etcd:
  endpoints: [https://192.0.2.1:2379, ftp://x]
  certFile: /nonexistent.crt
  endpionts: []
keepalive: fast
stateDir: relative
logLevel: loud
metrics: everywhere
`, []string{"WARREN_PORT=70000"}, map[string]string{"interface": "much-too-long-a-name"})
	if err == nil {
		t.Fatal("a config full of mistakes was accepted")
	}
	for _, want := range []string{
		`nodeName: "Not A Name!"`, `10.42.0.1/16 has host bits set, expected 10.42.0.0/16`, `blockBits.ipv4: 8`, `mtu: 100`,
		`unknown key "prot"`, `unknown key "etcd.endpionts"`, `"ftp://x" is not a URL`, `etcd.caFile: is empty`, `etcd.certFile`,
		`keepalive: "fast"`, `stateDir: "relative"`, `logLevel: "loud"`, `metrics: "everywhere"`,
		`environment WARREN_PORT: port: "70000"`, `interface: "much-too-long-a-name"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not contain %q:\n%v", want, err)
		}
	}
}

func TestLoad_InvalidYAML_IsRefused(t *testing.T) {
	for _, yaml := range []string{"- a\n- b\n", "a: [", "zone: a\nzone: b\n", "\x00\x01"} {
		if _, err := load(t, yaml, nil, nil); err == nil {
			t.Errorf("%q was accepted", yaml)
		}
	}
	if _, err := Load("", "/nonexistent/warren.yaml", nil, nil); err == nil {
		t.Error("a named config file that is not there was accepted")
	}
}

func TestSetting_Key_GivesFlagAndVariable(t *testing.T) {
	for key, want := range map[string][2]string{
		"etcd.caFile": {"etcd-ca-file", "WARREN_ETCD_CA_FILE"}, "podCIDRs": {"pod-cidrs", "WARREN_POD_CIDRS"},
		"mtu": {"mtu", "WARREN_MTU"}, "cniConfDir": {"cni-conf-dir", "WARREN_CNI_CONF_DIR"}, "uapiDir": {"uapi-dir", "WARREN_UAPI_DIR"},
		"blockBits.ipv4": {"block-bits-ipv4", "WARREN_BLOCK_BITS_IPV4"}, "procSysNet": {"proc-sys-net", "WARREN_PROC_SYS_NET"},
	} {
		s := Setting{Key: key}
		if s.Flag() != want[0] || s.Env() != want[1] {
			t.Errorf("%s: flag %s env %s, expected %s %s", key, s.Flag(), s.Env(), want[0], want[1])
		}
	}
}

// Every setting's default must be a value that the setting itself accepts.
func TestSettings_Defaults_AreAccepted(t *testing.T) {
	for _, s := range Settings() {
		c := Default()
		if err := s.Set(&c, s.Default()); err != nil {
			t.Errorf("%s: its default %q is refused: %v", s.Key, s.Default(), err)
		}
	}
}

func FuzzConfigFile(f *testing.F) {
	f.Add(minimal)
	f.Add("podCIDRs: 10.0.0.0/8\n")
	f.Fuzz(func(t *testing.T, yaml string) {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if os.WriteFile(file, []byte(yaml), 0o600) == nil {
			_, _ = Load("", file, nil, nil) // must not panic
		}
	})
}

func TestChanged_SettingsDiffer_ReturnsKeysThatNeedARestart(t *testing.T) {
	a, b := Default(), Default()
	if keys := Changed(&a, &b); keys != nil {
		t.Errorf("equal settings: %v", keys)
	}
	b.Etcd.Endpoints, b.Kubernetes.Servers = []string{"https://192.0.2.9:2379"}, []string{"192.0.2.9:6443"}
	b.ClusterDNS = []netip.Addr{netip.MustParseAddr("10.43.0.99")}
	if keys := Changed(&a, &b); keys != nil {
		t.Errorf("%v, expected none: these settings are applied at once", keys)
	}
	b.Cluster.Domain, b.MTU = "example.org", 1300
	if keys := Changed(&a, &b); !slices.Equal(keys, []string{"domain", "mtu"}) {
		t.Errorf("%v, expected domain and mtu", keys)
	}
}

// The pre-shared key is a file of 44 characters that other users cannot read.
func TestLoad_PresharedKeyFile_IsReadOrRefused(t *testing.T) {
	const key = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="
	for name, x := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"valid":          {key + "\n", 0o600, ""},
		"others read":    {key, 0o644, "expected a regular file that other users cannot read"},
		"not a key":      {"secret", 0o600, "expected a key of 44 characters"},
		"the zero key":   {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", 0o600, "expected a key of 44 characters"},
		"does not exist": {"", 0, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "psk")
			if x.mode != 0 {
				if err := os.WriteFile(file, []byte(x.text), x.mode); err != nil {
					t.Fatal(err)
				}
			}
			c, err := load(t, minimal+"presharedKeyFile: "+file+"\n", nil, nil)
			if x.want == "" && (err != nil || c.PresharedKey.String() != key) {
				t.Errorf("%s %v", c.PresharedKey, err)
			}
			if x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
				t.Errorf("%v, expected %q", err, x.want)
			}
		})
	}
}

// A misspelt variable is named; a variable of another part of warren, or of another program, is not.
func TestLoad_UnknownVariable_IsWarned(t *testing.T) {
	c, err := load(t, minimal, []string{"WARREN_ETCD_ENDPIONTS=x", "WARREN_MTU=1300", "WARREN_NAMESPACE=a", "WARREN_CLUSTER_CONFIG=",
		"WARRENX=1", "PATH=/bin"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if w := c.Warnings(); len(w) != 1 || !strings.Contains(w[0], "WARREN_ETCD_ENDPIONTS") {
		t.Errorf("warnings %q, expected one about WARREN_ETCD_ENDPIONTS", w)
	}
}
