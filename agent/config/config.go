// Package config has the settings of the agent: it reads them from files, environment and flags, and validates them.
//
// The list in settings.go is the only place where a setting is named. The package reads the files that the settings name and
// writes none, has no goroutines and logs nothing.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/kube"
	"sigs.k8s.io/yaml"
)

// DefaultFile is read when no other file is named; it may be absent.
const DefaultFile = "/etc/warren/config.yaml"

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
	// ServiceClients may send to ClusterIPs from outside of the cluster.
	ServiceClients []netip.Prefix
	NodeRanges     []netip.Prefix // of other nodes' addresses; empty: any
	ExternalIPs    []netip.Prefix // permitted externalIPs of Services
	MaxBlocks      int            // per family
	MTU            int            // bytes, 0: derived
	Zone           string
	// SegmentationOffload uses GSO and GRO at the TUN device and at the tunnel's sockets.
	SegmentationOffload bool
	// Offload forwards flows between Pods of this node by an eBPF program.
	Offload   bool
	Keepalive time.Duration
	// PresharedKeyFile has PresharedKey, which all nodes of the cluster share; empty: none.
	PresharedKeyFile string
	PresharedKey     model.Key
	Interface        string
	StateDir         string
	RunDir           string
	UAPIDir          string
	CNIConfDir       string
	ProcSysNet       string
	Metrics          string
	LogLevel         string

	given    map[string]bool // keys that are set, as opposed to defaults
	sources  sources
	warnings []string
}

// Kubernetes is how the agent of a Kubernetes node reaches the API server, and what it serves for Kubernetes tools.
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

// Default returns the configuration that applies when nothing is set.
func Default() Config {
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
		LBAnnounce:          true,
		SegmentationOffload: true,
		Offload:             true,
		Interface:           "warren0",
		StateDir:            "/var/lib/warren",
		RunDir:              "/run/warren",
		UAPIDir:             "/var/run/wireguard",
		CNIConfDir:          "/etc/cni/net.d",
		ProcSysNet:          "/proc/sys/net",
		Metrics:             "127.0.0.1:9551",
		LogLevel:            "info",
		MaxBlocks:           16,
		given:               map[string]bool{},
	}
}

// Given reports whether a setting is set, as opposed to its default.
func (c *Config) Given(key string) bool { return c.given[key] }

// Warnings are what Load found that prevents nothing, such as a variable of the environment that sets nothing.
func (c *Config) Warnings() []string { return c.warnings }

// otherVariables are variables of the environment that other parts of warren read.
var otherVariables = []string{"WARREN_CLUSTER_CONFIG", "WARREN_NAMESPACE", "WARREN_POD_NAME", "WARREN_LAB"}

// unknownVariables names each variable that looks like a setting and is none. It is a warning and no error, because Kubernetes itself
// sets variables that begin with the name of a Service, such as WARREN_ETCD_SERVICE_HOST.
func unknownVariables(env map[string]string) (out []string) {
	known := slices.Clone(otherVariables)
	for _, s := range Settings() {
		known = append(known, s.Env())
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.HasPrefix(name, "WARREN_") && !slices.Contains(known, name) {
			out = append(out, fmt.Sprintf("environment %s: unknown variable, which sets nothing (`warren agent --help` lists them)", name))
		}
	}
	return out
}

// ClusterFile is the file of the cluster's own settings, "" for none.
func (c *Config) ClusterFile() string { return c.sources.clusterFile }

// Reload reads the configuration again from where it came from.
func (c *Config) Reload() (Config, error) {
	return Load(c.sources.clusterFile, c.sources.file, c.sources.environ, c.sources.flags)
}

// Load reads settings in this order; later ones win:
//
//  1. clusterFile, the cluster's own settings; "" for none
//  2. file; the default one may be absent
//  3. the environment
//  4. flags, by setting key
//
// It validates the result. The error has every problem that was found.
func Load(clusterFile, file string, environ []string, flags map[string]string) (Config, error) {
	c := Default()
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
	c.warnings = unknownVariables(env)
	if c.NodeName == "" {
		c.NodeName, _ = os.Hostname()
	}
	errs = append(errs, c.validate()...)
	return c, errors.Join(errs...)
}

func (c *Config) readFile(file string) (errs []error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && file == DefaultFile {
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
