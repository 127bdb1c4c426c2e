package doctor

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// healthy is a node on which no check has a finding.
func healthy(t *testing.T) Node {
	t.Helper()
	root := t.TempDir()
	n := Node{Root: root, ConflistAt: "/etc/cni/net.d", Plugins: "/opt/cni/bin", Conflist: "05-warren.conflist", Version: "1",
		Status: &api.Status{Node: "n1", Version: "1", Ready: true, MTU: 1420,
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")},
			Peers: []api.Peer{{Name: "n2", Alive: true, MTU: 1420, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.2.0/24")}},
				{Name: "gone", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.3.0/24")}}}},
		DNS:      []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		Ranges:   []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")},
		Ping:     func(context.Context, netip.Addr, netip.Addr, int) error { return nil },
		Overlaps: func([]netip.Prefix) (_, _ []string, _ error) { return nil, nil, nil },
		Chains:   func() ([]Chain, error) { return []Chain{{"filter", "FORWARD", true, false}}, nil }}
	for path, text := range map[string]string{
		"/proc/sys/kernel/osrelease": "6.1.0-9-amd64\n", "/proc/sys/net/ipv4/ip_forward": "1\n",
		"/opt/cni/bin/warren-cni": "x", "/opt/cni/bin/loopback": "x", "/etc/cni/net.d/05-warren.conflist": "{}",
		"/var/lib/kubelet/config.yaml": "clusterDNS: [10.43.0.10]\n",
		"/etc/containerd/config.toml":  "[plugins.cni]\n  bin_dir = \"/opt/cni/bin\"\n  conf_dir = \"/etc/cni/net.d\"\n",
	} {
		n.write(t, path, text)
	}
	if err := os.MkdirAll(n.path("/dev/net"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/net/tun", n.path("/dev/net/tun")); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n Node) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(n.path(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.path(path), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestExamine_HealthyNode_NoFindings(t *testing.T) {
	for _, f := range Examine(t.Context(), healthy(t)) {
		if f.Level != OK {
			t.Errorf("%+v", f)
		}
	}
}

func TestExamine_FaultyNode_FindsTheFault(t *testing.T) {
	lost := func(over int) func(context.Context, netip.Addr, netip.Addr, int) error {
		return func(_ context.Context, _, _ netip.Addr, size int) error {
			if size > over {
				return errors.New("no answer")
			}
			return nil
		}
	}
	for _, c := range []struct {
		what  string
		harm  func(t *testing.T, n *Node)
		check string
		level Level
		text  string
	}{
		{"old kernel", func(t *testing.T, n *Node) { n.write(t, "/proc/sys/kernel/osrelease", "4.18.0-305\n") }, "kernel", Problem,
			"4.18.0"},
		{"no tun", func(t *testing.T, n *Node) { os.Remove(n.path("/dev/net/tun")) }, "TUN device", Problem, "/dev/net/tun"},
		{"tun is a file", func(t *testing.T, n *Node) { os.Remove(n.path("/dev/net/tun")); n.write(t, "/dev/net/tun", "") },
			"TUN device", Problem, "10:200"},
		{"no agent", func(t *testing.T, n *Node) { n.Status, n.StatusErr = nil, errors.New("refused") }, "agent", Problem, "refused"},
		{"agent has a problem", func(t *testing.T, n *Node) { n.Status.Problems = []string{"the store is unreachable"} }, "agent", Problem,
			"store is unreachable"},
		{"old agent", func(t *testing.T, n *Node) { n.Status.Version = "0" }, "agent", Warning, "version 0"},
		{"no plugin", func(t *testing.T, n *Node) { os.Remove(n.path("/opt/cni/bin/warren-cni")) }, "plugins", Problem, "warren-cni"},
		{"no loopback", func(t *testing.T, n *Node) { os.Remove(n.path("/opt/cni/bin/loopback")) }, "plugins", Warning, "loopback"},
		{"no plugin directory", func(t *testing.T, n *Node) { os.RemoveAll(n.path("/opt")) }, "plugins", Unknown, "does not exist"},
		{"no conflist", func(t *testing.T, n *Node) { os.Remove(n.path("/etc/cni/net.d/05-warren.conflist")) }, "conflist", Problem,
			"no 05-warren"},
		{"another first", func(t *testing.T, n *Node) { n.write(t, "/etc/cni/net.d/00-multus.conf", "{}") }, "conflist", Problem,
			"00-multus.conf comes before"},
		{"another after", func(t *testing.T, n *Node) { n.write(t, "/etc/cni/net.d/10-flannel.conflist", "{}") }, "conflist", Warning,
			"10-flannel"},
		{"runtime with other directories", func(t *testing.T, n *Node) {
			n.write(t, "/etc/containerd/config.toml", "  bin_dir = \"/usr/lib/cni\"\n")
		}, "runtime", Problem, "/usr/lib/cni"},
		{"wrong clusterDNS", func(t *testing.T, n *Node) { n.write(t, "/var/lib/kubelet/config.yaml", "clusterDNS: [10.96.0.10]\n") },
			"kubelet", Problem, "10.96.0.10"},
		{"kube-proxy, iptables", func(t *testing.T, n *Node) {
			n.Chains = func() ([]Chain, error) { return []Chain{{"nat", "KUBE-SERVICES", false, false}}, nil }
		}, "kube-proxy", Problem, "KUBE-SERVICES"},
		{"kube-proxy, nftables", func(t *testing.T, n *Node) {
			n.Chains = func() ([]Chain, error) { return []Chain{{"kube-proxy", "services", false, false}}, nil }
		}, "kube-proxy", Problem, "kube-proxy/services"},
		{"FORWARD drops", func(t *testing.T, n *Node) {
			n.Chains = func() ([]Chain, error) { return []Chain{{"filter", "FORWARD", true, true}}, nil }
		}, "forwarding", Warning, "FORWARD of table filter"},
		{"not forwarding", func(t *testing.T, n *Node) { n.write(t, "/proc/sys/net/ipv4/ip_forward", "0\n") }, "forwarding", Problem,
			"ip_forward"},
		{"ranges overlap", func(t *testing.T, n *Node) { n.Ranges = append(n.Ranges, netip.MustParsePrefix("10.43.128.0/17")) },
			"ranges", Problem, "10.43.0.0/16 and 10.43.128.0/17"},
		{"host route", func(t *testing.T, n *Node) {
			n.Overlaps = func([]netip.Prefix) (_, _ []string, _ error) { return []string{"10.42.0.0/16 overlaps"}, nil, nil }
		}, "ranges", Problem, "overlaps"},
		{"another network's routes", func(t *testing.T, n *Node) {
			n.Overlaps = func([]netip.Prefix) (_, _ []string, _ error) { return nil, []string{"10.42.1.0/24 dev cni0"}, nil }
		}, "other network", Warning, "10.42.1.0/24 dev cni0"},
		{"flannel's masquerade", func(t *testing.T, n *Node) {
			n.Chains = func() ([]Chain, error) { return []Chain{{"nat", "FLANNEL-POSTRTG", false, false}}, nil }
		}, "other network", Warning, "FLANNEL-POSTRTG"},
		{"a Pod CIDR not claimed", func(t *testing.T, n *Node) {
			n.Status.Unclaimed = []api.Unclaimed{{CIDR: netip.MustParsePrefix("10.244.1.0/24"), Why: "node n2 has it"}}
		}, "Pod CIDRs", Warning, "10.244.1.0/24, but warren's Pods here have 10.42.1.0/24: node n2 has it"},
		{"blocked port", func(t *testing.T, n *Node) {
			n.Ping, n.Status.Peers[0].Endpoints = lost(0), []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:51820")}
			n.Status.Peers[0].LastHandshake = time.Now().Add(-time.Hour)
		}, "tunnel", Problem, "n2 does not answer"},
		{"path MTU below the MTU", func(t *testing.T, n *Node) { n.Ping = lost(1300) }, "MTU", Problem, "1420 bytes to node n2 are lost"},
	} {
		t.Run(c.what, func(t *testing.T) {
			n := healthy(t)
			c.harm(t, &n)
			hit := false
			for _, f := range Examine(t.Context(), n) {
				if f.Check == c.check && f.Level == c.level && strings.Contains(f.Text, c.text) {
					hit = true
				} else if f.Level == Problem && f.Check != c.check {
					t.Errorf("besides: %+v", f)
				}
			}
			if !hit {
				t.Errorf("not found in %+v", Examine(t.Context(), n))
			}
		})
	}
}
