package plan

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
)

// documented are the rows of a section's table in docs/packet-path.md by the number in the first cell, and the whole text of
// the rows with that number. A first cell "75 to 110" stands for each number of the range.
func documented(t *testing.T, section string) (rows map[int]string, starts map[int]bool) {
	t.Helper()
	raw, err := os.ReadFile("../../docs/packet-path.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(raw), "\n## "+section+"\n")
	if !found {
		t.Fatalf("docs/packet-path.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	rows, starts = map[int]string{}, map[int]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+)(?: to (\d+))? \|(.*)$`).FindAllStringSubmatch(text, -1) {
		first, _ := strconv.Atoi(m[1])
		last, err := strconv.Atoi(m[2])
		if err != nil {
			last = first
		}
		starts[first] = true
		for n := first; n <= last; n++ {
			rows[n] += m[3]
		}
	}
	return rows, starts
}

// constants are the integer constants of prefs.go whose names begin with a prefix, by value.
func constants(t *testing.T, prefix string) map[int]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "prefs.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			if !strings.HasPrefix(name.Name, prefix) || i >= len(spec.Values) {
				continue
			}
			if v, ok := spec.Values[i].(*ast.BasicLit); ok {
				number, err := strconv.Atoi(v.Value)
				if err != nil {
					t.Fatalf("%s: %v", name.Name, err)
				}
				out[number] = name.Name
			}
		}
		return true
	})
	return out
}

// Every preference and table of prefs.go is in the tables of docs/packet-path.md, and vice versa.
func TestPrefs_Constants_EqualDocs(t *testing.T) {
	for section, prefix := range map[string]string{"Rules": "pref", "Routing tables": "table"} {
		t.Run(section, func(t *testing.T) {
			_, starts := documented(t, section)
			have := constants(t, prefix)
			delete(have, tableMain)
			delete(have, tableLocal)
			for _, n := range slices.Sorted(maps.Keys(have)) {
				if !starts[n] {
					t.Errorf("%s = %d has no row in docs/packet-path.md", have[n], n)
				}
			}
			for _, n := range slices.Sorted(maps.Keys(starts)) {
				if have[n] == "" {
					t.Errorf("docs/packet-path.md has a row for %d, which is no constant of prefs.go", n)
				}
			}
		})
	}
}

// richInput makes a plan with a rule of every preference: backends in local Pods for three protocols, one that is the node, an
// external IP, host ports and, if groups, more target ports than rules without groups may have.
func richInput(groups bool) Input {
	in := testInput()
	in.NonMasquerade = []netip.Prefix{pfx("192.0.2.0/24")}
	in.Underlay.Outside, in.Underlay.AddressLinks = []string{"eth0"}, []string{"eth0"}
	if groups { // the other input has a node without another CNI plugin
		in.Underlay.UnmanagedRemote = []netip.Prefix{pfx("10.42.99.0/24")}
		in.Underlay.UnmanagedVia = []hostnet.Via{{To: pfx("10.42.99.0/24"), Gateway: ip("192.0.2.99"), Link: "eth0"}}
	}
	in.Pods = []Pod{{Link: "wrn1", Addrs: []netip.Addr{ip("10.42.0.3"), ip("fd42::3")},
		HostPorts: []model.HostPort{{Protocol: model.TCP, HostPort: 8080}, {Protocol: model.TCP, HostPort: lastPort}}}}
	add := func(i int, addr string, proto model.Protocol, port uint16) {
		name := model.ObjectName{Namespace: "d", Name: fmt.Sprintf("s%d", i)}
		in.Snapshot.Services = append(in.Snapshot.Services, model.Service{ObjectName: name,
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 43, 1, byte(i)})},
			Ports:      []model.ServicePort{{Protocol: proto, Port: 80, TargetPort: port}}})
		in.Snapshot.Slices = append(in.Snapshot.Slices, model.EndpointSlice{ObjectName: name, Service: name.Name,
			Ports:     []model.EndpointPort{{Protocol: proto, Port: port}},
			Endpoints: []model.Endpoint{{Addr: ip(addr), Ready: true, Serving: true}}})
	}
	add(1, "192.0.2.1", model.TCP, 6443)
	in.ExternalIPs, in.Snapshot.Services[0].ExternalIPs = []netip.Prefix{pfx("198.51.100.0/24")}, []netip.Addr{ip("198.51.100.1")}
	add(2, "10.42.0.3", model.UDP, 53)
	add(3, "10.42.0.3", model.SCTP, 3868)
	if groups {
		for i := range 2 * linearReplies {
			add(10+i, "10.42.0.3", model.TCP, uint16(8000+2*i))
		}
	}
	return in
}

// Every rule that Make produces is in a row of docs/packet-path.md with its preference and its target.
func TestMake_Rules_EqualDocs(t *testing.T) {
	rows, _ := documented(t, "Rules")
	tables, _ := documented(t, "Routing tables")
	seen := map[int]bool{prefLocal: true, prefPodsAgain: true} // hostnet moves the first; only a kube-proxy causes the second
	for _, groups := range []bool{false, true} {
		p := mustMake(t, richInput(groups))
		for _, r := range slices.Concat(p.Host.Rules, p.Host.ObjectRules) {
			seen[r.Pref] = true
			if want := target(r); !strings.Contains(rows[r.Pref], want) {
				t.Errorf("rule %s: docs/packet-path.md has no %q in a row for %d", r, want, r.Pref)
			}
		}
		for _, r := range slices.Concat(p.Host.Routes, p.Host.ObjectRoutes) {
			if tables[r.Table] == "" {
				t.Errorf("route %s: docs/packet-path.md has no row for its table", r)
			}
		}
	}
	for n, name := range constants(t, "pref") {
		if !seen[n] {
			t.Errorf("the inputs of this test give no rule with %s = %d", name, n)
		}
	}
}

// target is what a rule does, as the documents write it.
func target(r hostnet.Rule) string {
	switch {
	case r.Pref == prefReplies && r.Goto >= prefGroups:
		return "`goto` to a group"
	case r.Goto != 0:
		return fmt.Sprintf("goto %d", r.Goto)
	case r.Type != "":
		return string(r.Type)
	case r.Table == tableLocal:
		return "lookup local"
	case r.Table == tableMain:
		return "lookup main"
	}
	return fmt.Sprintf("lookup %d", r.Table)
}
