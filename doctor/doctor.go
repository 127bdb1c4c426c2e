// Package doctor finds faults that keep a node's network from working although the agent runs: remains of other programs, a
// container runtime or kubelet with other paths or addresses, and networks between the nodes that lose packets.
//
// A check only reads. The package owns nothing and changes nothing. A finding names what was found, its effect and what to do.
package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/warrennet/warren/internal/api"
)

// Level is the severity of a finding.
type Level string

// The levels. Unknown means that the check could not run, for instance inside a container.
const (
	OK      Level = "ok"
	Unknown Level = "unknown"
	Warning Level = "warning"
	Problem Level = "problem"
)

// Finding is one result of a check.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
	Do    string `json:"do,omitempty"` // what the reader can do about it
}

// Node is what the checks read.
type Node struct {
	Root       string // "/" or a directory with a node's files, for tests
	ConflistAt string // directory of CNI configurations, below Root
	Plugins    string // directory of CNI plugins, below Root
	Conflist   string // file name of warren's configuration
	Version    string
	// Status is that of the agent. It is nil if no agent answers; StatusErr is the reason.
	Status    *api.Status
	StatusErr error
	// DNS are the addresses of cluster DNS as configured on this node; empty if unknown.
	DNS    []netip.Addr
	Ranges []netip.Prefix // Pod and Service ranges
	// Ping sends one echo request of size bytes (IP header included) from this node's Pod-net address, unfragmented.
	Ping func(ctx context.Context, from, to netip.Addr, size int) error
	// Overlaps lists the host's routes that overlap any of the ranges, and separately the routes of other Pod networks.
	Overlaps func([]netip.Prefix) (own, others []string, err error)
	// Chains lists the kernel's packet filter chains.
	Chains func() ([]Chain, error)
}

// Chain is a chain of nf_tables.
type Chain struct {
	Table, Name string
	Forward     bool // hooked into the forwarding path
	Drop        bool // its policy is to drop
}

type check struct {
	name string
	look func(context.Context, Node) []Finding
}

var checks = []check{
	{"kernel", kernel},
	{"TUN device", tunDevice},
	{"agent", agent},
	{"runtime", runtime},
	{"plugins", plugins},
	{"conflist", conflists},
	{"kubelet", kubelet},
	{"kube-proxy", kubeProxy},
	{"Pod CIDRs", podCIDRs},
	{"other network", otherNetwork},
	{"forwarding", forwarding},
	{"ranges", ranges},
	{"tunnel", tunnels},
	{"MTU", mtus},
}

// Examine runs every check. A check without findings is reported as ok.
func Examine(ctx context.Context, n Node) (out []Finding) {
	for _, c := range checks {
		found := c.look(ctx, n)
		if len(found) == 0 {
			found = []Finding{{Level: OK}}
		}
		for _, f := range found {
			f.Check = c.name
			out = append(out, f)
		}
	}
	return out
}

// Worst is the most severe level among findings.
func Worst(all []Finding) Level {
	worst := OK
	rank := map[Level]int{OK: 0, Unknown: 1, Warning: 2, Problem: 3}
	for _, f := range all {
		if rank[f.Level] > rank[worst] {
			worst = f.Level
		}
	}
	return worst
}

func problem(do, format string, args ...any) Finding {
	return Finding{Level: Problem, Text: fmt.Sprintf(format, args...), Do: do}
}

func warning(do, format string, args ...any) Finding {
	return Finding{Level: Warning, Text: fmt.Sprintf(format, args...), Do: do}
}

func unknown(format string, args ...any) []Finding {
	return []Finding{{Level: Unknown, Text: fmt.Sprintf(format, args...)}}
}

func fine(format string, args ...any) []Finding {
	return []Finding{{Level: OK, Text: fmt.Sprintf(format, args...)}}
}

func (n Node) path(p string) string { return filepath.Join(n.Root, p) }

func (n Node) podNet(v4 bool) (netip.Addr, bool) {
	if n.Status == nil {
		return netip.Addr{}, false
	}
	return podNet(n.Status.PodCIDRs, v4)
}

// podNet is a node's Pod-net address: the first address of its first block of a family.
func podNet(blocks []netip.Prefix, v4 bool) (netip.Addr, bool) {
	for _, b := range blocks {
		if b.Addr().Is4() == v4 {
			return b.Addr().Next(), true
		}
	}
	return netip.Addr{}, false
}
