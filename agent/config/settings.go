package config

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/store/kube"
)

// Setting is one value of the agent's configuration: it has a key in the config file, a flag and an environment
// variable. The list of them is the only place where a setting is named.
type Setting struct {
	Key   string // in the config file; nested keys are joined by a dot: etcd.endpoints
	Usage string
	List  bool // several values: a YAML list, or separated by commas
	set   func(*Config, string) error
	get   func(*Config) string
}

// Flag is the setting's command line flag, without the dashes: etcd-endpoints.
func (s Setting) Flag() string { return dashed(s.Key) }

// Env is the setting's environment variable: WARREN_ETCD_ENDPOINTS.
func (s Setting) Env() string {
	return "WARREN_" + strings.ToUpper(strings.ReplaceAll(dashed(s.Key), "-", "_"))
}

// Default returns the value that applies when the setting is not set.
func (s Setting) Default() string {
	c := Default()
	return s.get(&c)
}

// Set parses and stores a value.
func (s Setting) Set(c *Config, value string) error {
	if err := s.set(c, strings.TrimSpace(value)); err != nil {
		return fmt.Errorf("%s: %w", s.Key, err)
	}
	c.given[s.Key] = true
	return nil
}

// appliedAtOnce are the settings that a running agent applies when its cluster's settings change.
var appliedAtOnce = []string{"dns.addresses", "etcd.endpoints", "kubernetes.servers"}

// Changed returns the keys of the settings that have different values in a and b and need a restart of the agent.
func Changed(a, b *Config) (keys []string) {
	for _, s := range Settings() {
		if s.get(a) != s.get(b) && !slices.Contains(appliedAtOnce, s.Key) {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

// Settings lists every setting, sorted by key.
func Settings() []Setting {
	out := []Setting{
		text("nodeName", "name of this node in the cluster (default: the host name)",
			func(c *Config) *string { return &c.NodeName }),
		text("cluster", "name of the cluster; its records are below /warren/<cluster>/",
			func(c *Config) *string { return &c.Cluster.Name }),
		text("domain", "cluster domain", func(c *Config) *string { return &c.Cluster.Domain }),
		list("podCIDRs", "Pod ranges, at most one per family, the preferred family first",
			func(c *Config) *[]netip.Prefix { return &c.Cluster.PodCIDRs }, parsePrefix),
		list("serviceCIDRs", "Service ranges that a new cluster starts with; later ones are ServiceCIDR objects",
			func(c *Config) *[]netip.Prefix { return &c.ServiceCIDRs }, parsePrefix),
		boolean("loadBalancer.announce", "announce load balancer addresses on the LAN, by ARP and neighbour discovery",
			func(c *Config) *bool { return &c.LBAnnounce }),
		list("loadBalancer.interfaces",
			"links to announce load balancer addresses on, in or outside of their subnets (default: links with a node address)",
			func(c *Config) *[]string { return &c.LBInterfaces }, plain),
		number("blockBits.ipv4", "prefix length of a node's IPv4 block", func(c *Config) *int { return &c.Cluster.BlockBits[0] }),
		number("blockBits.ipv6", "prefix length of a node's IPv6 block", func(c *Config) *int { return &c.Cluster.BlockBits[1] }),
		port("port", "UDP port of the tunnel", func(c *Config) *uint16 { return &c.Cluster.Port }),
		list("etcd.endpoints", "URLs of the etcd servers", func(c *Config) *[]string { return &c.Etcd.Endpoints }, plain),
		text("etcd.caFile", "PEM file of the authorities that sign the etcd servers",
			func(c *Config) *string { return &c.Etcd.CAFile }),
		text("etcd.certFile", "PEM file of this node's etcd client certificate",
			func(c *Config) *string { return &c.Etcd.CertFile }),
		text("etcd.keyFile", "PEM file of that certificate's key", func(c *Config) *string { return &c.Etcd.KeyFile }),
		text("etcd.username", "user name, for an etcd with users", func(c *Config) *string { return &c.Etcd.Username }),
		text("etcd.passwordFile", "file that holds the user's password", func(c *Config) *string { return &c.EtcdPasswordFile }),
		list("endpoints", "address:port pairs where other nodes reach this node's tunnel, preferred first (default: the node's addresses)",
			func(c *Config) *[]netip.AddrPort { return &c.Endpoints }, parseAddrPort),
		list("nodeAddresses", "this node's own addresses (default: found on the host's links)",
			func(c *Config) *[]netip.Addr { return &c.NodeAddresses }, netip.ParseAddr),
		list("nodePortAddresses",
			"ranges of this node's addresses that serve node ports and host ports (default: all of them, and 127.0.0.1)",
			func(c *Config) *[]netip.Prefix { return &c.NodePortAddresses }, parsePrefix),
		list("nonMasquerade", "external networks that receive Pods' own source addresses; their routers need routes to the Pod ranges",
			func(c *Config) *[]netip.Prefix { return &c.NonMasquerade }, parsePrefix),
		list("lan.serviceClients", "networks outside of the cluster that may send to ClusterIPs through this node (default: none)",
			func(c *Config) *[]netip.Prefix { return &c.ServiceClients }, parsePrefix),
		list("nodeRanges", "ranges of node addresses; other addresses in records of other nodes are ignored (default: any)",
			func(c *Config) *[]netip.Prefix { return &c.NodeRanges }, parsePrefix),
		list("service.externalIPs", "ranges of externalIPs that Services may have; all others are ignored and reported (default: none)",
			func(c *Config) *[]netip.Prefix { return &c.ExternalIPs }, parsePrefix),
		number("maxBlocks", "blocks per family that this node may hold; it claims another when its Pods fill those it has",
			func(c *Config) *int { return &c.MaxBlocks }),
		number("mtu", "MTU of the tunnel in bytes; 0 derives it from the underlay (its MTU less 80)",
			func(c *Config) *int { return &c.MTU }),
		text("zone", "topology zone of this node", func(c *Config) *string { return &c.Zone }),
		boolean("segmentationOffload", "use the kernel's segmentation offloads (GSO, GRO) where it has them",
			func(c *Config) *bool { return &c.SegmentationOffload }),
		boolean("offload", "forward flows between Pods of this node by an eBPF program where the kernel supports it (Linux 6.6, CAP_BPF)",
			func(c *Config) *bool { return &c.Offload }),
		duration("keepalive", "interval of WireGuard keepalives to every peer, 0 for none (set it behind NAT)",
			func(c *Config) *time.Duration { return &c.Keepalive }),
		text("presharedKeyFile", "file with a WireGuard pre-shared key (wg genpsk) that all nodes of the cluster have; empty uses none",
			func(c *Config) *string { return &c.PresharedKeyFile }),
		text("interface", "name of the tunnel interface", func(c *Config) *string { return &c.Interface }),
		text("stateDir", "directory of what must survive a reboot: key, identity, blocks, last snapshot",
			func(c *Config) *string { return &c.StateDir }),
		text("runDir", "directory of the agent's socket and locks", func(c *Config) *string { return &c.RunDir }),
		text("uapiDir", "directory of the WireGuard UAPI socket that wg(8) opens", func(c *Config) *string { return &c.UAPIDir }),
		text("cniConfDir", "directory the CNI conflist is written to; empty writes none",
			func(c *Config) *string { return &c.CNIConfDir }),
		text("procSysNet", "where /proc/sys/net of the host is mounted", func(c *Config) *string { return &c.ProcSysNet }),
		text("metrics", "address:port of the Prometheus metrics; empty serves none", func(c *Config) *string { return &c.Metrics }),
		text("logLevel", "debug, info, warn or error", func(c *Config) *string { return &c.LogLevel }),
	}
	out = append(append(out, kubernetesSettings()...), dnsSettings()...)
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}

func text(key, usage string, at func(*Config) *string) Setting {
	return Setting{Key: key, Usage: usage,
		set: func(c *Config, v string) error { *at(c) = v; return nil },
		get: func(c *Config) string { return *at(c) }}
}

func number(key, usage string, at func(*Config) *int) Setting {
	return Setting{Key: key, Usage: usage,
		set: func(c *Config, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil {
				return fmt.Errorf("%q is not a whole number", v)
			}
			*at(c) = n
			return nil
		},
		get: func(c *Config) string { return strconv.Itoa(*at(c)) }}
}

func port(key, usage string, at func(*Config) *uint16) Setting {
	return Setting{Key: key, Usage: usage,
		set: func(c *Config, v string) error {
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil || n == 0 {
				return fmt.Errorf("%q is not a port (1 to 65535)", v)
			}
			*at(c) = uint16(n)
			return nil
		},
		get: func(c *Config) string { return strconv.Itoa(int(*at(c))) }}
}

func boolean(key, usage string, at func(*Config) *bool) Setting {
	return Setting{Key: key, Usage: usage,
		set: func(c *Config, v string) error {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			*at(c) = b
			return nil
		},
		get: func(c *Config) string { return strconv.FormatBool(*at(c)) }}
}

func duration(key, usage string, at func(*Config) *time.Duration) Setting {
	return Setting{Key: key, Usage: usage,
		set: func(c *Config, v string) error {
			d, err := time.ParseDuration(v)
			if err != nil || d < 0 {
				return fmt.Errorf("%q is not a duration such as 25s", v)
			}
			*at(c) = d
			return nil
		},
		get: func(c *Config) string { return at(c).String() }}
}

func list[T any](key, usage string, at func(*Config) *[]T, parse func(string) (T, error)) Setting {
	return Setting{Key: key, Usage: usage, List: true,
		set: func(c *Config, v string) error {
			var out []T
			for _, f := range strings.Split(v, ",") {
				if f = strings.TrimSpace(f); f == "" {
					continue
				}
				x, err := parse(f)
				if err != nil {
					return err
				}
				out = append(out, x)
			}
			*at(c) = out
			return nil
		},
		get: func(c *Config) string {
			var s []string
			for _, x := range *at(c) {
				s = append(s, fmt.Sprint(x))
			}
			return strings.Join(s, ",")
		}}
}

func plain(s string) (string, error) { return s, nil }

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is not a CIDR such as 10.42.0.0/16", s)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%s has host bits set, expected %s", s, p.Masked())
	}
	return p, nil
}

// dashed turns etcd.caFile into etcd-ca-file and podCIDRs into pod-cidrs.
func dashed(key string) string {
	var b strings.Builder
	prevLower := false
	for i, r := range key {
		upper := r >= 'A' && r <= 'Z'
		switch {
		case r == '.':
			b.WriteByte('-')
		case upper && i > 0 && prevLower:
			b.WriteByte('-')
			b.WriteRune(r + 'a' - 'A')
		case upper:
			b.WriteRune(r + 'a' - 'A')
		default:
			b.WriteRune(r)
		}
		prevLower = !upper && r != '.'
	}
	return b.String()
}

func kubernetesSettings() []Setting {
	return []Setting{
		boolean("kubernetes.enabled", "read Services, endpoints and Pods from the Kubernetes API instead of the store's objects",
			func(c *Config) *bool { return &c.Kubernetes.Enabled }),
		list("kubernetes.servers", "API servers as address:port, tried in this order before discovered ones (never a Service address)",
			func(c *Config) *[]string { return &c.Kubernetes.Servers }, kube.ParseServer),
		text("kubernetes.hostIP", "this node's address as the kubelet has it; the agent tries an API server there",
			func(c *Config) *string { return &c.Kubernetes.HostIP }),
		text("kubernetes.tokenFile", "file of the service account's token",
			func(c *Config) *string { return &c.Kubernetes.TokenFile }),
		text("kubernetes.caFile", "PEM file of the authorities that sign API servers",
			func(c *Config) *string { return &c.Kubernetes.CAFile }),
		text("kubernetes.serverName", "name that an API server's certificate must have",
			func(c *Config) *string { return &c.Kubernetes.ServerName }),
		text("kubernetes.kubeconfig", "kubeconfig file to use instead of token, CA and servers",
			func(c *Config) *string { return &c.Kubernetes.Kubeconfig }),
		text("kubernetes.healthz", "address:port of /healthz and /livez as kube-proxy serves them; empty serves none",
			func(c *Config) *string { return &c.Kubernetes.Healthz }),
		text("kubernetes.proxyMetrics", "address:port of /proxyMode and /metrics, for tools that query kube-proxy; empty serves none",
			func(c *Config) *string { return &c.Kubernetes.ProxyMetrics }),
	}
}
