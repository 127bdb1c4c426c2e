// Package doctor looks for what keeps a node's network from working although every part of it runs: what another program
// left behind, what the runtime or the kubelet expects elsewhere, what the network between the nodes does to packets.
//
// Each check only looks. It owns nothing, changes nothing, and says what it saw, what that means and what to do.
package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/warrennet/warren/internal/api"
)

// Level is how bad a finding is.
type Level string

// The levels. Unknown means that the check could not look, for instance from inside a container.
const (
	OK      Level = "ok"
	Unknown Level = "unknown"
	Warning Level = "warning"
	Problem Level = "problem"
)

// Finding is what one check says.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
	Do    string `json:"do,omitempty"` // what the reader can do about it
}

// Node is where the checks look.
type Node struct {
	Root       string // "/" or a directory with a node's files, for tests
	ConflistAt string // directory of CNI configurations, below Root
	Plugins    string // directory of CNI plugins, below Root
	Conflist   string // file name of warren's
	Version    string
	// Status is the agent's, nil when none answers, and StatusErr why.
	Status    *api.Status
	StatusErr error
	// DNS are the addresses of cluster DNS as configured on this node; none: not known.
	DNS    []netip.Addr
	Ranges []netip.Prefix // Pod and Service ranges
	// Ping sends one echo request of size bytes (IP header included) from this node's Pod-net address, unfragmented.
	Ping func(ctx context.Context, from, to netip.Addr, size int) error
	// Overlaps lists the host's routes that overlap any of the ranges, and apart from them those of other Pod networks.
	Overlaps func([]netip.Prefix) (own, others []string, err error)
	// Chains lists the kernel's packet filter chains.
	Chains func() ([]Chain, error)
}

// Chain is a chain of nf_tables.
type Chain struct {
	Table, Name string
	Forward     bool // hooked where forwarded packets pass
	Drop        bool // drops what its rules do not accept
}

type check struct {
	name string
	look func(context.Context, Node) []Finding
}

var checks = []check{
	{"kernel", kernel},
	{"tun device", tunDevice},
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

// Examine runs every check; one with nothing to say is ok.
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

// Worst is the worst level among findings.
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

// podNet is the first address of a node's block, which is the node itself.
func podNet(blocks []netip.Prefix, v4 bool) (netip.Addr, bool) {
	for _, b := range blocks {
		if b.Addr().Is4() == v4 {
			return b.Addr().Next(), true
		}
	}
	return netip.Addr{}, false
}
