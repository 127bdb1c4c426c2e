package config

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// validators check values against each other. Each reports all its problems.
var validators = []func(*Config, reporter){
	(*Config).checkNames, (*Config).checkRanges, (*Config).checkOverlap, (*Config).checkEtcd, (*Config).checkTunnel,
	(*Config).checkNonMasquerade, (*Config).checkPaths, (*Config).checkServers, (*Config).checkKubernetes, (*Config).checkDNS,
}

// reporter collects a problem of a setting.
type reporter func(key, format string, args ...any)

// validate normalizes values, checks them and reads the files that they name. It returns every problem.
func (c *Config) validate() (errs []error) {
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	given := c.NodeName
	c.NodeName = strings.ToLower(given)
	c.Etcd.Cluster = c.Cluster.Name
	if !dnsLabel.MatchString(c.NodeName) {
		bad("nodeName", "%q is not a DNS name (RFC 1123: lower case letters, digits, '-' and '.')", given)
	}
	for _, check := range validators {
		check(c, bad)
	}
	if c.EtcdPasswordFile != "" {
		if raw, err := os.ReadFile(c.EtcdPasswordFile); err == nil { // checkEtcd reports a missing file
			c.Etcd.Password = strings.TrimSpace(string(raw))
		}
	}
	if c.PresharedKeyFile != "" {
		var err error
		if c.PresharedKey, err = readKey(c.PresharedKeyFile); err != nil {
			bad("presharedKeyFile", "%v", err)
		}
	}
	return errs
}

// readKey reads a key from a file that other users cannot read.
func readKey(path string) (model.Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return model.Key{}, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return model.Key{}, fmt.Errorf("%s has mode %v: expected a regular file that other users cannot read; run chmod 600 on it", path,
			info.Mode())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return model.Key{}, err
	}
	k, err := model.ParseKey(strings.TrimSpace(string(raw)))
	if err != nil || k.IsZero() {
		return model.Key{}, fmt.Errorf("%s: expected a key of 44 characters in base64, as wg genpsk prints it", path)
	}
	return k, nil
}

// dnsLabel is RFC 1123's label with dots allowed, as Kubernetes names nodes.
var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

func (c *Config) checkNames(bad reporter) {
	if !dnsLabel.MatchString(c.Cluster.Name) {
		bad("cluster", "%q is not a DNS name (RFC 1123)", c.Cluster.Name)
	}
	if !dnsLabel.MatchString(c.Cluster.Domain) {
		bad("domain", "%q is not a DNS name", c.Cluster.Domain)
	}
}

func (c *Config) checkRanges(bad reporter) {
	ranges := c.Cluster.PodCIDRs
	if n := len(ranges); n == 0 || n > 2 || n == 2 && sameFamily(ranges[0], ranges[1]) {
		bad("podCIDRs", "%v: expected one range, or one per family", ranges)
	}
	for _, p := range ranges {
		f := model.FamilyOf(p.Addr())
		key := [2]string{"blockBits.ipv4", "blockBits.ipv6"}[f]
		if bits := c.Cluster.BlockBits[f]; bits < p.Bits() || bits > model.LongestBlock[f] {
			bad(key, "%d does not fit %s: expected %d to %d", bits, p, p.Bits(), model.LongestBlock[f])
		}
		if a := p.Addr(); a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			bad("podCIDRs", "%s is not a range for unicast addresses", p)
		}
	}
	if c.MaxBlocks < 1 || c.MaxBlocks > 100 {
		bad("maxBlocks", "%d is outside 1 to 100", c.MaxBlocks)
	}
}

func sameFamily(a, b netip.Prefix) bool { return model.FamilyOf(a.Addr()) == model.FamilyOf(b.Addr()) }

// checkOverlap: an address must be in one range only.
func (c *Config) checkOverlap(bad reporter) {
	for i, s := range c.ServiceCIDRs {
		for _, p := range c.Cluster.PodCIDRs {
			if s.Overlaps(p) {
				bad("serviceCIDRs", "%s overlaps the Pod range %s", s, p)
			}
		}
		for _, o := range c.ServiceCIDRs[:i] {
			if s.Overlaps(o) || sameFamily(s, o) {
				bad("serviceCIDRs", "%s and %s: expected one range per family that do not overlap", o, s)
			}
		}
	}
}

func (c *Config) checkNonMasquerade(bad reporter) {
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
}

func (c *Config) checkEtcd(bad reporter) {
	if len(c.Etcd.Endpoints) == 0 {
		bad("etcd.endpoints", "is empty; expected at least one URL such as https://192.0.2.10:2379")
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
	for _, f := range []struct{ key, path string }{{"etcd.caFile", c.Etcd.CAFile}, {"etcd.certFile", c.Etcd.CertFile},
		{"etcd.keyFile", c.Etcd.KeyFile}, {"etcd.passwordFile", c.EtcdPasswordFile}} {
		if f.path == "" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			bad(f.key, "%v", err)
		}
	}
}

func (c *Config) checkTunnel(bad reporter) {
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65000) {
		bad("mtu", "%d is outside 576 to 65000 (0 derives it)", c.MTU)
	}
	v6 := slices.ContainsFunc(c.Cluster.PodCIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if c.MTU != 0 && c.MTU < 1280 && v6 {
		bad("mtu", "%d is below 1280, which IPv6 needs (RFC 8200 section 5)", c.MTU)
	}
	if len(c.Interface) == 0 || len(c.Interface) > 15 || strings.ContainsAny(c.Interface, "/ \t:") {
		bad("interface", "%q is not an interface name (1 to 15 characters)", c.Interface)
	}
	if c.Keepalive > 65535*time.Second {
		bad("keepalive", "%s is above 65535s", c.Keepalive)
	}
}

func (c *Config) checkPaths(bad reporter) {
	for _, d := range []struct{ key, v string }{
		{"stateDir", c.StateDir}, {"runDir", c.RunDir}, {"uapiDir", c.UAPIDir}, {"procSysNet", c.ProcSysNet}} {
		if !strings.HasPrefix(d.v, "/") {
			bad(d.key, "%q is not an absolute path", d.v)
		}
	}
}

func (c *Config) checkServers(bad reporter) {
	if c.Metrics != "" {
		if _, err := netip.ParseAddrPort(c.Metrics); err != nil {
			bad("metrics", "%q is not an address:port", c.Metrics)
		}
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		bad("logLevel", "%q is none of debug, info, warn, error", c.LogLevel)
	}
}

func (c *Config) checkKubernetes(bad reporter) {
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

func (c *Config) checkDNS(bad reporter) {
	if _, err := stubDomains(c.DNS.StubDomains); err != nil {
		bad("dns.stubDomains", "%v", err)
	}
	for _, ns := range c.DNS.Autopath {
		if ns != "*" && (!dnsLabel.MatchString(ns) || strings.Contains(ns, ".")) {
			bad("dns.autopath", "%q is neither a namespace nor *", ns)
		}
	}
}

func parseAddrPort(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, fmt.Errorf("%q is not an address:port", s)
	}
	return a, nil
}
