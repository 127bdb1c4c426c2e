package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"sort"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/kube"
	"sigs.k8s.io/yaml"
)

// DefaultConfigFile is read when no other file is named; it may be absent.
const DefaultConfigFile = "/etc/warren/config.yaml"

// Config is the agent's whole configuration.
type Config struct {
	NodeName         string
	Cluster          model.Cluster
	ServiceCIDRs     []netip.Prefix // of a new cluster
	ClusterDNS       []netip.Addr
	DNSUpstreams     []string
	DNS              DNS
	LBAnnounce       bool
	LBInterfaces     []string
	Etcd             etcd.Config
	Kubernetes       Kubernetes
	EtcdPasswordFile string
	Endpoints        []netip.AddrPort
	NodeAddresses    []netip.Addr
	// NodePortAddresses restrict which of the node's addresses serve node ports; empty: all.
	NodePortAddresses []netip.Prefix
	NonMasquerade     []netip.Prefix
	MaxBlocks         int // per family
	MTU               int // bytes, 0: derived
	Zone              string
	Offload           bool
	FastPath          bool
	Keepalive         time.Duration
	Interface         string
	StateDir          string
	RunDir            string
	UAPIDir           string
	CNIConfDir        string
	ProcSysNet        string
	Metrics           string
	LogLevel          string

	given   map[string]bool // keys that somebody set
	sources sources
}

// Kubernetes says how the agent of a Kubernetes node reaches the API server, and what it serves for its tools.
type Kubernetes struct {
	Enabled      bool
	Servers      []string // host:port
	HostIP       string
	TokenFile    string
	CAFile       string
	ServerName   string
	Kubeconfig   string
	Healthz      string // address:port, kube-proxy's 10256
	ProxyMetrics string // address:port, kube-proxy's 10249
}

// sources are where a Config came from, so that it can be read again.
type sources struct {
	clusterFile, file string
	environ           []string
	flags             map[string]string
}

// DefaultConfig is what applies when nothing is set.
func DefaultConfig() Config {
	return Config{
		Cluster: model.Cluster{
			Name:      "default",
			PodCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/48")},
			BlockBits: [2]int{24, 64},
			Domain:    "cluster.local",
			Port:      51820,
		},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")},
		DNS:          defaultDNS(),
		ClusterDNS:   []netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd43::a")},
		Kubernetes: Kubernetes{TokenFile: kube.DefaultTokenFile, CAFile: kube.DefaultCAFile, ServerName: kube.DefaultServerName,
			Healthz: "127.0.0.1:10256", ProxyMetrics: "127.0.0.1:10249"},
		LBAnnounce: true,
		Offload:    true,
		FastPath:   true,
		Interface:  "warren0",
		StateDir:   "/var/lib/warren",
		RunDir:     "/run/warren",
		UAPIDir:    "/var/run/wireguard",
		CNIConfDir: "/etc/cni/net.d",
		ProcSysNet: "/proc/sys/net",
		Metrics:    "127.0.0.1:9551",
		LogLevel:   "info",
		MaxBlocks:  16,
		given:      map[string]bool{},
	}
}

// Given reports whether somebody set the key, as opposed to its default.
func (c *Config) Given(key string) bool { return c.given[key] }

// LoadConfig reads clusterFile (what the cluster says of itself, "" for none), then the file (the default one may be
// absent), then the environment, then flags (keyed by setting key), and validates the result. Later ones win. Every
// problem found is in the error.
func LoadConfig(clusterFile, file string, environ []string, flags map[string]string) (Config, error) {
	c := DefaultConfig()
	c.sources = sources{clusterFile, file, environ, flags}
	var errs []error
	if clusterFile != "" {
		errs = c.readFile(clusterFile)
	}
	errs = append(errs, c.readFile(file)...)
	env := map[string]string{}
	for _, e := range environ {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	for _, s := range Settings() {
		if v, ok := env[s.Env()]; ok {
			if err := s.Set(&c, v); err != nil {
				errs = append(errs, fmt.Errorf("environment %s: %w", s.Env(), err))
			}
		}
		if v, ok := flags[s.Key]; ok {
			if err := s.Set(&c, v); err != nil {
				errs = append(errs, fmt.Errorf("flag --%s: %w", s.Flag(), err))
			}
		}
	}
	if c.NodeName == "" {
		c.NodeName, _ = os.Hostname()
	}
	errs = append(errs, c.finish()...)
	return c, errors.Join(errs...)
}

func (c *Config) readFile(file string) (errs []error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && file == DefaultConfigFile {
		return nil
	}
	if err != nil {
		return []error{fmt.Errorf("config file: %w", err)}
	}
	js, err := yaml.YAMLToJSONStrict(raw)
	if err != nil {
		return []error{fmt.Errorf("config file %s: %w", file, err)}
	}
	var top map[string]any
	dec := json.NewDecoder(strings.NewReader(string(js)))
	dec.UseNumber()
	if err := dec.Decode(&top); err != nil {
		return []error{fmt.Errorf("config file %s: expected a mapping of settings: %w", file, err)}
	}
	known := map[string]Setting{}
	for _, s := range Settings() {
		known[s.Key] = s
	}
	values, errs := flatten("", top)
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		s, ok := known[k]
		if !ok {
			errs = append(errs, fmt.Errorf("config file %s: unknown key %q (`warren agent --help` lists the keys)", file, k))
			continue
		}
		if err := s.Set(c, values[k]); err != nil {
			errs = append(errs, fmt.Errorf("config file %s: %w", file, err))
		}
	}
	return errs
}

// flatten turns nested mappings into dotted keys and lists into comma separated values.
func flatten(prefix string, m map[string]any) (out map[string]string, errs []error) {
	out = map[string]string{}
	for k, v := range m {
		key := prefix + k
		switch v := v.(type) {
		case map[string]any:
			sub, e := flatten(key+".", v)
			errs = append(errs, e...)
			for k, v := range sub {
				out[k] = v
			}
		case []any:
			var parts []string
			for _, x := range v {
				parts = append(parts, fmt.Sprint(x))
			}
			out[key] = strings.Join(parts, ",")
		case nil:
			out[key] = ""
		default:
			out[key] = fmt.Sprint(v)
		}
	}
	return out, errs
}

// dnsLabel is RFC 1123's label with dots allowed, as Kubernetes names nodes.
var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// finish validates the values against each other and reads what they point to.
func (c *Config) finish() (errs []error) {
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if c.NodeName = strings.ToLower(c.NodeName); !dnsLabel.MatchString(c.NodeName) {
		bad("nodeName", "%q is not a DNS name (RFC 1123: lower case letters, digits, '-' and '.')", c.NodeName)
	}
	if !dnsLabel.MatchString(c.Cluster.Name) {
		bad("cluster", "%q is not a DNS name (RFC 1123)", c.Cluster.Name)
	}
	if !dnsLabel.MatchString(c.Cluster.Domain) {
		bad("domain", "%q is not a DNS name", c.Cluster.Domain)
	}
	c.checkRanges(bad)
	c.checkOverlap(bad)
	c.checkEtcd(bad)
	if c.MaxBlocks < 1 || c.MaxBlocks > 100 {
		bad("maxBlocks", "%d is outside 1 to 100", c.MaxBlocks)
	}
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65000) {
		bad("mtu", "%d is outside 576 to 65000 (0 derives it)", c.MTU)
	}
	if c.MTU != 0 && c.MTU < 1280 && c.hasV6() {
		bad("mtu", "%d is below 1280, which IPv6 needs (RFC 8200 section 5)", c.MTU)
	}
	for _, p := range c.NonMasquerade {
		for _, r := range c.Cluster.PodCIDRs {
			if p.Overlaps(r) {
				bad("nonMasquerade", "%s overlaps the Pod range %s, which is never masqueraded", p, r)
			}
		}
		if p.Bits() == 0 {
			bad("nonMasquerade", "%s would leave nothing to masquerade; a cluster whose Pods are all routed is not supported", p)
		}
	}
	if len(c.Interface) == 0 || len(c.Interface) > 15 || strings.ContainsAny(c.Interface, "/ \t:") {
		bad("interface", "%q is not an interface name (1 to 15 characters)", c.Interface)
	}
	if c.Keepalive > 65535*time.Second {
		bad("keepalive", "%s is above 65535s", c.Keepalive)
	}
	for _, d := range []struct{ key, v string }{{"stateDir", c.StateDir}, {"runDir", c.RunDir}, {"uapiDir", c.UAPIDir}, {"procSysNet", c.ProcSysNet}} {
		if !strings.HasPrefix(d.v, "/") {
			bad(d.key, "%q is not an absolute path", d.v)
		}
	}
	if c.Metrics != "" {
		if _, err := netip.ParseAddrPort(c.Metrics); err != nil {
			bad("metrics", "%q is not an address:port", c.Metrics)
		}
	}
	c.checkKubernetes(bad)
	c.checkDNS(bad)
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		bad("logLevel", "%q is none of debug, info, warn, error", c.LogLevel)
	}
	return errs
}

func (c *Config) checkKubernetes(bad func(key, format string, args ...any)) {
	k := c.Kubernetes
	if !k.Enabled {
		return
	}
	if k.HostIP != "" {
		if _, err := netip.ParseAddr(k.HostIP); err != nil {
			bad("kubernetes.hostIP", "%q is not an address", k.HostIP)
		}
	}
	for _, a := range []struct{ key, v string }{{"kubernetes.healthz", k.Healthz}, {"kubernetes.proxyMetrics", k.ProxyMetrics}} {
		if _, err := netip.ParseAddrPort(a.v); a.v != "" && err != nil {
			bad(a.key, "%q is not an address:port", a.v)
		}
	}
	if k.ServerName == "" {
		bad("kubernetes.serverName", "is empty, but the API server's certificate must be verified")
	}
}

func (c *Config) hasV6() bool {
	for _, p := range c.Cluster.PodCIDRs {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

func (c *Config) checkRanges(bad func(key, format string, args ...any)) {
	if n := len(c.Cluster.PodCIDRs); n == 0 || n > 2 || n == 2 && c.Cluster.PodCIDRs[0].Addr().Is4() == c.Cluster.PodCIDRs[1].Addr().Is4() {
		bad("podCIDRs", "%v: expected one range, or one per family", c.Cluster.PodCIDRs)
	}
	for _, p := range c.Cluster.PodCIDRs {
		key, bits, most := "blockBits.ipv4", c.Cluster.BlockBits[0], 29
		if p.Addr().Is6() {
			key, bits, most = "blockBits.ipv6", c.Cluster.BlockBits[1], 120
		}
		if bits < p.Bits() || bits > most {
			bad(key, "%d does not fit %s: expected %d to %d", bits, p, p.Bits(), most)
		}
		if a := p.Addr(); a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			bad("podCIDRs", "%s is not a range for unicast addresses", p)
		}
	}
}

// checkOverlap: an address must belong to one range only.
func (c *Config) checkOverlap(bad func(key, format string, args ...any)) {
	for i, s := range c.ServiceCIDRs {
		for _, p := range c.Cluster.PodCIDRs {
			if s.Overlaps(p) {
				bad("serviceCIDRs", "%s overlaps the Pod range %s", s, p)
			}
		}
		for _, o := range c.ServiceCIDRs[:i] {
			if s.Overlaps(o) || s.Addr().Is4() == o.Addr().Is4() {
				bad("serviceCIDRs", "%s and %s: expected one range per family that do not overlap", o, s)
			}
		}
	}
}

func (c *Config) checkEtcd(bad func(key, format string, args ...any)) {
	c.Etcd.Cluster = c.Cluster.Name
	if len(c.Etcd.Endpoints) == 0 {
		bad("etcd.endpoints", "is empty; expected at least one URL such as https://192.0.2.10:2389")
	}
	for _, e := range c.Etcd.Endpoints {
		switch {
		case strings.HasPrefix(e, "https://"):
			if c.Etcd.CAFile == "" {
				bad("etcd.caFile", "is empty, but %s needs it to verify the server", e)
			}
		case !strings.HasPrefix(e, "http://"):
			bad("etcd.endpoints", "%q is not a URL that starts with https:// or http://", e)
		}
	}
	if (c.Etcd.CertFile == "") != (c.Etcd.KeyFile == "") {
		bad("etcd.certFile", "certFile and keyFile go together; only one is set")
	}
	for _, f := range []struct{ key, path string }{{"etcd.caFile", c.Etcd.CAFile}, {"etcd.certFile", c.Etcd.CertFile}, {"etcd.keyFile", c.Etcd.KeyFile}, {"etcd.passwordFile", c.EtcdPasswordFile}} {
		if f.path == "" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			bad(f.key, "%v", err)
		}
	}
	if c.EtcdPasswordFile != "" {
		if raw, err := os.ReadFile(c.EtcdPasswordFile); err == nil {
			c.Etcd.Password = strings.TrimSpace(string(raw))
		}
	}
}
