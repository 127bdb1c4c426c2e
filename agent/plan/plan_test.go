package plan

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

func testKey(b byte) (k model.Key) {
	k[0] = b
	return k
}

// testInput is a dual-stack cluster of three nodes as seen by n1.
func testInput() Input {
	c := model.Cluster{Name: "t", PodCIDRs: []netip.Prefix{pfx("10.42.0.0/16"), pfx("fd42::/48")}, BlockBits: [2]int{24, 64}, Port: 51820}
	snap := &model.Snapshot{Revision: 7, Cluster: c}
	for i := range 3 {
		name, id := fmt.Sprintf("n%d", i+1), fmt.Sprintf("id%d", i+1)
		blocks := []netip.Prefix{pfx(fmt.Sprintf("10.42.%d.0/24", i)), pfx(fmt.Sprintf("fd42:0:0:%d::/64", i))}
		for _, b := range blocks {
			snap.Blocks = append(snap.Blocks, model.Block{CIDR: b.Masked(), Node: name, Identity: id})
		}
		a := ip(fmt.Sprintf("192.0.2.%d", i+1))
		snap.Nodes = append(snap.Nodes, model.Node{Name: name, Identity: id, PublicKey: testKey(byte(i + 1)), MTU: 1420,
			Endpoints: []netip.AddrPort{netip.AddrPortFrom(a, 51820)}, Addresses: []netip.Addr{a}, PodCIDRs: masked(blocks)})
	}
	return Input{Snapshot: snap, Compile: servicelb.Build,
		Self: Self{Name: "n1", Identity: "id1", PublicKey: testKey(1),
			Blocks: masked([]netip.Prefix{pfx("10.42.0.0/24"), pfx("fd42::/64")}),
			Port:   51820, Interface: "warren0", Cluster: c},
		Host: Host{Underlay: hostnet.Underlay{Addrs: []netip.Addr{ip("192.0.2.1")}, Links: []string{"eth0"}, MTU: 1500}}}
}

// mustMake makes a plan of an input that gives one.
func mustMake(t *testing.T, in Input) *Plan {
	t.Helper()
	p, ok := Make(in)
	if !ok {
		t.Fatal("no plan")
	}
	return p
}

func masked(in []netip.Prefix) (out []netip.Prefix) {
	for _, p := range in {
		out = append(out, p.Masked())
	}
	return out
}

// text prints a plan as a terminal would show its effect.
func (p *Plan) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "mtu %d\n", p.MTU)
	for _, x := range p.Peers {
		fmt.Fprintf(&b, "peer %s endpoints %v allowed %v mtu %d\n", x.Name, x.Endpoints, x.AllowedIPs, x.MTU)
	}
	for _, a := range p.Host.Addrs {
		fmt.Fprintf(&b, "addr %s\n", a)
	}
	for _, r := range slices.Concat(p.Host.PodRoutes, p.Host.Routes, p.Host.ObjectRoutes) {
		fmt.Fprintf(&b, "route %s\n", r)
	}
	for _, r := range slices.Concat(p.Host.Rules, p.Host.ObjectRules) {
		fmt.Fprintf(&b, "rule %s\n", r)
	}
	for _, s := range p.Host.Sysctls {
		fmt.Fprintf(&b, "sysctl %s=%s\n", s.Path, s.Value)
	}
	for _, x := range p.Problems {
		fmt.Fprintf(&b, "problem %s\n", x)
	}
	return b.String()
}

// update rewrites the golden plans: go test ./agent/plan -update
var update = flag.Bool("update", false, "rewrite testdata/*.plan")

// golden compares a plan with what testdata holds.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".plan")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

// A dual-stack node with a Pod that backs a node port Service, and a Service that this node itself backs.
func TestMake_DualStackNode_EqualsGolden(t *testing.T) {
	in := testInput()
	snap := in.Snapshot
	snap.ServiceCIDRs = []netip.Prefix{pfx("10.43.0.0/16"), pfx("fd43::/112")}
	n := func(s string) model.ObjectName { return model.ObjectName{Namespace: "default", Name: s} }
	snap.Services = []model.Service{
		{ObjectName: n("web"), Type: model.NodePort, ClusterIPs: []netip.Addr{ip("10.43.0.9"), ip("fd43::9")},
			ExternalIPs: []netip.Addr{ip("198.51.100.1")},
			Ports:       []model.ServicePort{{Protocol: model.TCP, Port: 80, NodePort: 30080, TargetPort: 8080}}},
		{ObjectName: n("api"), ClusterIPs: []netip.Addr{ip("10.43.0.1")},
			Ports: []model.ServicePort{{Protocol: model.TCP, Port: 443, TargetPort: 6443}}},
	}
	slice := func(service, addr string, port uint16) model.EndpointSlice {
		return model.EndpointSlice{ObjectName: n(service + addr), Service: service, Family: model.FamilyOf(ip(addr)),
			Ports:     []model.EndpointPort{{Protocol: model.TCP, Port: port}},
			Endpoints: []model.Endpoint{{Addr: ip(addr), Ready: true, Serving: true}}}
	}
	snap.Slices = []model.EndpointSlice{slice("web", "10.42.0.3", 8080), slice("web", "10.42.1.3", 8080), slice("web", "fd42::3", 8080),
		slice("api", "192.0.2.1", 6443)}
	in.Pods = []Pod{{Link: "wrn1", Addrs: []netip.Addr{ip("10.42.0.3"), ip("fd42::3")}}}
	in.ExternalIPs = []netip.Prefix{pfx("198.51.100.0/24")}
	golden(t, "dualstack", mustMake(t, in).text())
}

// A node's record about itself must not give it what belongs to other nodes.
func TestMake_RecordClaimsWhatItsNodeDoesNotOwn_ReportsProblem(t *testing.T) {
	for _, tc := range []struct {
		name    string
		change  func(*model.Snapshot)
		problem string
		without string // must not be in the plan's text
	}{
		{"another node's block", func(s *model.Snapshot) { s.Nodes[1].PodCIDRs = append(s.Nodes[1].PodCIDRs, pfx("10.42.2.0/24")) },
			"node n2: claims 10.42.2.0/24, which belongs to n3", "allowed [10.42.1.0/24 fd42:0:0:1::/64 10.42.2.0/24"},
		{"our own block", func(s *model.Snapshot) { s.Nodes[1].PodCIDRs = []netip.Prefix{pfx("10.42.0.0/24")} },
			"node n2: claims 10.42.0.0/24, which belongs to n1", "allowed [10.42.0.0/24"},
		{"a block without an owner", func(s *model.Snapshot) { s.Nodes[1].PodCIDRs = []netip.Prefix{pfx("0.0.0.0/0")} },
			"node n2: claims 0.0.0.0/0, which has no owner", "0.0.0.0/0"},
		{"a block of its name's old identity", func(s *model.Snapshot) { s.Nodes[1].Identity = "other" },
			"node n2: claims 10.42.1.0/24, which belongs to n2", "allowed [10.42.1.0/24"},
		{"a block outside the Pod ranges", func(s *model.Snapshot) {
			s.Blocks = append(s.Blocks, model.Block{CIDR: pfx("8.8.8.0/24"), Node: "n2", Identity: "id2"})
			s.Nodes[1].PodCIDRs = []netip.Prefix{pfx("8.8.8.0/24")}
		}, "node n2: claims 8.8.8.0/24, which is outside the Pod ranges", "allowed [8.8.8.0/24"},
		{"our address", func(s *model.Snapshot) { s.Nodes[1].Addresses = []netip.Addr{ip("192.0.2.1")} },
			"node n2: address 192.0.2.1 is also n1's", "192.0.2.1/32"},
		{"another node's address", func(s *model.Snapshot) { s.Nodes[2].Addresses = []netip.Addr{ip("192.0.2.2")} },
			"node n3: address 192.0.2.2 is also n2's", "fd42:0:0:2::/64 192.0.2.2/32"},
		{"a Service address as its own", func(s *model.Snapshot) {
			s.ServiceCIDRs = []netip.Prefix{pfx("10.43.0.0/16")}
			s.Nodes[1].Addresses = []netip.Addr{ip("10.43.0.50")}
		}, "node n2: address 10.43.0.50 lies in the Service ranges", "10.43.0.50/32"},
		{"the address of an older node with a later name", func(s *model.Snapshot) {
			for i := range s.Blocks {
				if s.Blocks[i].Node == "n2" {
					s.Blocks[i].Claimed = time.Unix(1, 0)
				}
			}
			s.Nodes[1].Addresses = []netip.Addr{ip("192.0.2.3")}
		}, "node n2: address 192.0.2.3 is also n3's", "fd42:0:0:1::/64 192.0.2.3/32"},
		{"a Pod address as its own", func(s *model.Snapshot) { s.Nodes[1].Addresses = []netip.Addr{ip("10.42.2.9")} },
			"node n2: address 10.42.2.9 lies in the Pod range 10.42.0.0/16", "10.42.2.9"},
		{"loopback as its own", func(s *model.Snapshot) { s.Nodes[1].Addresses = []netip.Addr{ip("127.0.0.1")} },
			"node n2: address 127.0.0.1 is not a unicast address", "127.0.0.1"},
		{"our public key", func(s *model.Snapshot) { s.Nodes[1].PublicKey = testKey(1) },
			"node n2: has the public key of n1; no tunnel to it", "peer n2"},
		{"another node's public key", func(s *model.Snapshot) { s.Nodes[2].PublicKey = testKey(2) },
			"node n3: has the public key of n2; no tunnel to it", "peer n3"},
		{"our name", func(s *model.Snapshot) { s.Nodes[0].Identity = "thief" },
			"node n1: its record belongs to another machine (identity thief)", "peer n1"},
		{"no endpoint", func(s *model.Snapshot) { s.Nodes[1].Endpoints = nil },
			"node n2: has no endpoint; it can only reach us", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput()
			tc.change(in.Snapshot)
			got := mustMake(t, in).text()
			if !strings.Contains(got, "problem "+tc.problem) {
				t.Errorf("no problem %q in\n%s", tc.problem, got)
			}
			for _, line := range strings.Split(got, "\n") {
				if tc.without != "" && strings.HasPrefix(line, "peer ") && strings.Contains(line+"\n", tc.without) {
					t.Errorf("%q is in %s", tc.without, line)
				}
			}
		})
	}
}

func TestMake_UnderlayMTU_LeavesRoomForTheTunnel(t *testing.T) {
	for _, tc := range []struct {
		underlay, configured int
		ranges               []string
		want                 int
	}{
		{1500, 0, []string{"10.42.0.0/16"}, 1420},
		{9000, 0, []string{"10.42.0.0/16", "fd42::/48"}, 8920},
		{1400, 0, []string{"fd42::/48"}, 1320},
		{1280, 0, []string{"10.42.0.0/16"}, 1200},
		{1280, 0, []string{"fd42::/48"}, 1280}, // IPv6 needs it; the outer datagram is fragmented
		{0, 0, []string{"10.42.0.0/16"}, 1420},
		{65536, 0, []string{"10.42.0.0/16"}, 65455},
		{1500, 1300, []string{"10.42.0.0/16"}, 1300},
	} {
		t.Run(fmt.Sprintf("underlay %d configured %d ranges %v", tc.underlay, tc.configured, tc.ranges), func(t *testing.T) {
			in := testInput()
			in.Underlay.MTU, in.MTU, in.Cluster.PodCIDRs = tc.underlay, tc.configured, nil
			for _, r := range tc.ranges {
				in.Cluster.PodCIDRs = append(in.Cluster.PodCIDRs, pfx(r))
			}
			if got := mustMake(t, in).MTU; got != tc.want {
				t.Errorf("MTU %d, expected %d", got, tc.want)
			}
		})
	}
}

func TestMake_Endpoints_ConfiguredBeforeUnderlay(t *testing.T) {
	in := testInput()
	if got := mustMake(t, in).Node.Endpoints; len(got) != 1 || got[0].String() != "192.0.2.1:51820" {
		t.Errorf("endpoints %v, expected the underlay address with the port", got)
	}
	in.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:4000")}
	if got := mustMake(t, in).Node.Endpoints; len(got) != 1 || got[0] != in.Endpoints[0] {
		t.Errorf("endpoints %v, expected the configured one", got)
	}
}

// An external peer is part of the plan, and the same input gives the same plan twice.
func TestMake_ExternalPeer_IsInThePlanTwice(t *testing.T) {
	in := testInput()
	in.External = []tunnel.Peer{{Name: "laptop", PublicKey: testKey(9), AllowedIPs: []netip.Prefix{pfx("10.99.0.5/32")}, External: true}}
	a, b := mustMake(t, in).text(), mustMake(t, in).text()
	if a != b {
		t.Error("two plans of one input differ")
	}
	if !strings.Contains(a, "peer laptop") {
		t.Errorf("no external peer in\n%s", a)
	}
}
