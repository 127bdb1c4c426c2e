// Package lab runs a multi-node cluster on one machine, for experiments (`warren lab`) and for tests. A node is a network, mount
// and UTS namespace with its own /etc, /run and /var/lib. A bridge in another namespace connects the nodes. etcd, the agent and
// the CNI plugin are the real programs. Pods are network namespaces with processes in them.
//
// It owns the processes it starts (each carries WARREN_LAB=<directory> in its environment), and its directory. Nothing
// outside those namespaces is changed, and nothing connects them to the machine's own network.
package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"

	"sigs.k8s.io/yaml"
)

// Spec describes a lab; it is the content of lab.yaml.
type Spec struct {
	Nodes int `json:"nodes,omitempty"` // n1, n2, ...; default 3
	// PodCIDRs of the cluster; the default follows Family.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
	// Family of Pods and underlay unless the fields below differ: ipv4 (default), ipv6 or dual.
	Family string `json:"family,omitempty"`
	// Underlay is the family of the network between the nodes: ipv4, ipv6 or dual; default as Family.
	Underlay string `json:"underlay,omitempty"`
	MTU      int    `json:"mtu,omitempty"`  // bytes, of the underlay; default 1500
	Etcd     int    `json:"etcd,omitempty"` // members; default 1
	// Node holds what differs on single nodes, by name.
	Node map[string]NodeSpec `json:"node,omitempty"`
	// Agent holds settings for every agent's configuration file.
	Agent map[string]any `json:"agent,omitempty"`
}

// NodeSpec is what differs on one node.
type NodeSpec struct {
	MTU   int            `json:"mtu,omitempty"` // of this node's link to the switch
	Agent map[string]any `json:"agent,omitempty"`
}

// Families of Spec.
const (
	IPv4 = "ipv4"
	IPv6 = "ipv6"
	Dual = "dual"
)

// maxNodes keeps the addresses of nodes in one byte.
const maxNodes = 200

// ReadSpec reads lab.yaml; unknown keys are errors.
func ReadSpec(file string) (Spec, error) {
	var s Spec
	raw, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	if err := yaml.UnmarshalStrict(raw, &s); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// complete fills in defaults and reports every problem.
func (s *Spec) complete() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	orElse(&s.Nodes, 3)
	orElse(&s.Family, IPv4)
	orElse(&s.Underlay, s.Family)
	orElse(&s.MTU, 1500)
	orElse(&s.Etcd, 1)
	if s.Nodes < 1 || s.Nodes > maxNodes {
		bad("nodes: %d is outside 1 to %d", s.Nodes, maxNodes)
	}
	if s.Etcd < 1 || s.Etcd > 5 {
		bad("etcd: %d is outside 1 to 5", s.Etcd)
	}
	if s.MTU < 1280 || s.MTU > 65535 {
		bad("mtu: %d is outside 1280 to 65535", s.MTU)
	}
	for _, f := range []struct{ key, v string }{{"family", s.Family}, {"underlay", s.Underlay}} {
		if f.v != IPv4 && f.v != IPv6 && f.v != Dual {
			bad("%s: %q is none of ipv4, ipv6, dual", f.key, f.v)
		}
	}
	for name, n := range s.Node {
		if !s.has(name) {
			bad("node: there is no %q among %d nodes (n1 to n%d)", name, s.Nodes, s.Nodes)
		}
		if n.MTU != 0 && (n.MTU < 1280 || n.MTU > 65535) {
			bad("node.%s.mtu: %d is outside 1280 to 65535", name, n.MTU)
		}
	}
	if s.PodCIDRs == nil {
		if s.Family != IPv6 {
			s.PodCIDRs = append(s.PodCIDRs, netip.MustParsePrefix("10.42.0.0/16"))
		}
		if s.Family != IPv4 {
			s.PodCIDRs = append(s.PodCIDRs, netip.MustParsePrefix("fd42::/48"))
		}
	}
	return errors.Join(errs...)
}

func orElse[T comparable](at *T, v T) {
	var zero T
	if *at == zero {
		*at = v
	}
}

func (s *Spec) has(name string) bool {
	for i := 1; i <= s.Nodes; i++ {
		if name == nodeName(i) {
			return true
		}
	}
	return false
}

func nodeName(i int) string { return fmt.Sprintf("n%d", i) }
func etcdName(i int) string { return fmt.Sprintf("etcd%d", i) }

// labName keeps directory names and messages simple.
var labName = regexp.MustCompile(`^[a-z0-9][-a-z0-9]{0,30}$`)

// hostNumber is the last byte of a machine's underlay addresses: etcd members from 2, nodes from 11.
func hostNumber(name string) byte {
	var i int
	if _, err := fmt.Sscanf(name, "etcd%d", &i); err == nil {
		return byte(1 + i)
	}
	_, _ = fmt.Sscanf(name, "n%d", &i)
	return byte(10 + i)
}

// underlayAddrs are a machine's addresses between the nodes, with the length of that network. They exist in the lab's
// namespaces only.
func (s *Spec) underlayAddrs(name string) (out []netip.Prefix) {
	h := hostNumber(name)
	if s.Underlay != IPv6 {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 77, h}), 24))
	}
	if s.Underlay != IPv4 {
		out = append(out, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: h}), 64))
	}
	return out
}

func (s *Spec) etcdURLs(port int) (out []string) {
	for i := 1; i <= s.Etcd; i++ {
		out = append(out, s.etcdURL(etcdName(i), port))
	}
	return out
}

func (s *Spec) etcdURL(name string, port int) string {
	return "https://" + netip.AddrPortFrom(s.underlayAddrs(name)[0].Addr(), uint16(port)).String()
}
