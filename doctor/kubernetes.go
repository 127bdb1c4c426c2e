package doctor

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/warrennet/warren/internal/text"
	"sigs.k8s.io/yaml"
)

// plugins checks the directory of CNI plugins: runtimes execute `loopback` for every sandbox, and warren-cni.
func plugins(_ context.Context, n Node) (out []Finding) {
	dir := n.path(n.Plugins)
	if _, err := os.Stat(dir); err != nil {
		return unknown("%s does not exist", n.Plugins)
	}
	if there, known := exists(filepath.Join(dir, "warren-cni")); known && !there {
		out = append(out, problem("`warren install-cni`, or copy warren-cni there", "%s has no warren-cni: no Pod can be attached",
			n.Plugins))
	}
	if there, known := exists(filepath.Join(dir, "loopback")); known && !there {
		out = append(out, warning("install the `loopback` plugin (containernetworking-plugins); containerd before 2.1 and CRI-O need it",
			"%s has no loopback plugin", n.Plugins))
	}
	if len(out) == 0 {
		return fine("%s has warren-cni and loopback", n.Plugins)
	}
	return out
}

var binDir = regexp.MustCompile(`(?m)^\s*(bin_dirs?|plugin_dirs|conf_dir|network_dir)\s*=\s*(.+)$`)

// runtime checks that containerd or CRI-O use the directories of plugins and configurations that warren uses.
func runtime(_ context.Context, n Node) (out []Finding) {
	seen := false
	for _, f := range []string{"/etc/containerd/config.toml", "/etc/crio/crio.conf"} {
		raw, err := os.ReadFile(n.path(f))
		if err != nil {
			continue
		}
		seen = true
		for _, m := range binDir.FindAllStringSubmatch(string(raw), -1) {
			want := n.Plugins
			if m[1] == "conf_dir" || m[1] == "network_dir" {
				want = n.ConflistAt
			}
			if !strings.Contains(m[2], want) && strings.Contains(m[2], "cni") {
				out = append(out, problem("set it to "+want+", or install warren's files there", "%s: %s = %s: warren uses %s", f, m[1],
					strings.TrimSpace(m[2]), want))
			}
		}
	}
	if !seen {
		return unknown("found no containerd or CRI-O configuration; assumed %s and %s", n.Plugins, n.ConflistAt)
	}
	if len(out) == 0 {
		return fine("the runtime uses %s and %s", n.Plugins, n.ConflistAt)
	}
	return out
}

// conflists checks the order of configurations: runtimes use the first file of the directory.
func conflists(_ context.Context, n Node) (out []Finding) {
	entries, err := os.ReadDir(n.path(n.ConflistAt))
	if err != nil {
		return unknown("%s does not exist", n.ConflistAt)
	}
	var names []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".conf" || ext == ".conflist" || ext == ".json" {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	ours := slices.Index(names, n.Conflist)
	switch {
	case ours < 0:
		out = append(out, problem("the agent writes it once it is ready; see the line `agent` above", "%s has no %s",
			n.ConflistAt, n.Conflist))
	case ours > 0:
		out = append(out, problem("remove the file of the other network", "%s comes before %s: another network attaches Pods", names[0],
			n.Conflist))
	}
	for _, other := range names {
		if other != n.Conflist && (ours < 0 || other > n.Conflist) {
			out = append(out, warning("remove it once no Pod of that network is left",
				"%s configures another network, which is used if warren's configuration is removed", other))
		}
	}
	if len(out) == 0 {
		return fine("%s is the only configuration in %s", n.Conflist, n.ConflistAt)
	}
	return out
}

// kubelet checks clusterDNS: the kubelet writes that address into resolv.conf of Pods, so warren must serve it.
func kubelet(_ context.Context, n Node) []Finding {
	for _, f := range []string{"/var/lib/kubelet/config.yaml", "/etc/kubernetes/kubelet.yaml"} {
		raw, err := os.ReadFile(n.path(f))
		if err != nil {
			continue
		}
		var cfg struct {
			ClusterDNS []string `json:"clusterDNS"`
		}
		if err := yaml.Unmarshal(raw, &cfg); err != nil {
			return []Finding{warning("", "%s: %v", f, err)}
		}
		if len(n.DNS) == 0 || len(cfg.ClusterDNS) == 0 {
			return fine("%s names no cluster DNS, or this node serves none", f)
		}
		for _, d := range cfg.ClusterDNS {
			if a, err := netip.ParseAddr(d); err == nil && slices.Contains(n.DNS, a) {
				return fine("clusterDNS %s is served on this node", d)
			}
		}
		return []Finding{problem("set clusterDNS in the kubelet's configuration to "+text.Join(n.DNS, ", ")+
			", or dns.addresses of warren to the kubelet's",
			"%s: clusterDNS is %s, but this node serves %s: Pods cannot resolve names", f, text.Join(cfg.ClusterDNS, ", "),
			text.Join(n.DNS, ", "))}
	}
	return unknown("found no configuration of the kubelet")
}

// kubeProxy checks for rules of a kube-proxy: they translate packets to Services before warren receives them.
func kubeProxy(_ context.Context, n Node) (out []Finding) {
	chains, err := n.Chains()
	if err != nil {
		return unknown("cannot list the packet filter's chains: %v", err)
	}
	found := map[string]bool{}
	for _, c := range chains {
		if c.Name == "KUBE-SERVICES" || c.Name == "KUBE-NODEPORTS" || c.Table == "kube-proxy" {
			found[c.Table+"/"+c.Name] = true
		}
	}
	if len(found) == 0 {
		return fine("the kernel has no rules of kube-proxy")
	}
	names := make([]string, 0, len(found))
	for k := range found {
		names = append(names, k)
	}
	sort.Strings(names)
	if len(names) > 3 {
		names = append(names[:3], "...")
	}
	return []Finding{problem("remove the kube-proxy DaemonSet, then on each node `kube-proxy --cleanup` or a reboot",
		"kube-proxy's rules are in the kernel (%s): they translate Services before warren does", strings.Join(names, ", "))}
}

// podCIDRs checks that warren owns the Pod CIDR of the Node object. A former network assigned addresses of it to its Pods,
// which other nodes reach only if this node owns the block.
func podCIDRs(_ context.Context, n Node) (out []Finding) {
	if n.Status == nil {
		return unknown("no agent answers")
	}
	for _, p := range n.Status.Unclaimed {
		out = append(out, warning(
			"recreate the Pods of this node that another network attached; Pods that warren attached are not affected",
			"Kubernetes gave this node %s, but warren's Pods here have %s: %s", p.CIDR, text.Join(n.Status.PodCIDRs, ", "), p.Why))
	}
	if len(out) == 0 {
		return fine("no Pod CIDR of the Node object is unclaimed")
	}
	return out
}

// otherNetwork checks for routes and masquerade rules of a former network, which its last Pods may still need.
func otherNetwork(_ context.Context, n Node) (out []Finding) {
	_, others, err := n.Overlaps(n.Ranges)
	if err != nil {
		return unknown("cannot list the host's routes: %v", err)
	}
	if len(others) > 0 {
		out = append(out, warning("once no Pod of that network is left, remove it and its interfaces",
			"another network has routes in the Pod ranges: %s", text.Join(others, ", ")))
	}
	chains, err := n.Chains()
	if err != nil {
		return append(out, unknown("cannot list the packet filter's chains: %v", err)...)
	}
	for _, c := range chains {
		if c.Name == "FLANNEL-POSTRTG" || c.Table == "flannel-ipv4" || c.Table == "flannel-ipv6" {
			return append(out, warning("once flannel is gone, remove them (docs/kubernetes.md), or reboot",
				"flannel's rules masquerade (%s/%s): Services receive this node's address instead of the Pod's", c.Table, c.Name))
		}
	}
	if len(out) == 0 {
		return fine("no routes or masquerade rules of another network")
	}
	return out
}

// forwarding checks that the host forwards packets: docker, ufw and firewalld set the policy of the forward chain to drop.
func forwarding(_ context.Context, n Node) (out []Finding) {
	chains, err := n.Chains()
	if err != nil {
		return unknown("cannot list the packet filter's chains: %v", err)
	}
	for _, c := range chains {
		if c.Forward && c.Drop {
			out = append(out, warning(
				"let warren0 and the interfaces wrn* be forwarded: `iptables -I FORWARD -i wrn+ -j ACCEPT; iptables -I FORWARD -o wrn+ "+
					"-j ACCEPT`, or set the policy to accept",
				"chain %s of table %s drops forwarded packets that its rules do not accept (docker, ufw and firewalld do that)", c.Name,
				c.Table))
		}
	}
	raw, err := os.ReadFile(n.path("/proc/sys/net/ipv4/ip_forward"))
	if err == nil && strings.TrimSpace(string(raw)) != "1" {
		out = append(out, problem("the agent sets it within seconds; find the program that resets it", "net.ipv4.ip_forward is off"))
	}
	if len(out) == 0 {
		return fine("the host forwards packets")
	}
	return out
}

// ranges checks that no Pod or Service range overlaps another one or a route of the host, which would become unreachable.
func ranges(_ context.Context, n Node) (out []Finding) {
	for i, a := range n.Ranges {
		for _, b := range n.Ranges[:i] {
			if a.Overlaps(b) {
				out = append(out, problem("choose ranges that do not overlap", "%s and %s overlap", b, a))
			}
		}
	}
	over, _, err := n.Overlaps(n.Ranges)
	if err != nil {
		return append(out, unknown("cannot list the host's routes: %v", err)...)
	}
	for _, o := range over {
		out = append(out, problem("choose another range, or another network", "%s", o))
	}
	if len(out) == 0 {
		return fine("Pod and Service ranges overlap neither each other nor routes of the host")
	}
	return out
}
