package cni

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/warrennet/warren/cni/internal/tree"
	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// DefaultSocket is the agent's socket.
const DefaultSocket = "/run/warren/agent.sock"

// config is the network configuration on stdin, checked.
type config struct {
	version string
	network string
	socket  string
	prev    tree.Value // prevResult, Absent without one
	ips     []netip.Addr
	mac     *veth.MAC
	podDNS  api.DNS // what the capability `dns` asks the Pod's resolver to be
	dns     dns     // of the network, to be returned
	labels  map[string]string
	valid   []api.Attachment
	ports   []api.PortMapping
}

// dns is the DNS part of a configuration and of a result.
type dns struct {
	nameservers []string
	domain      string
	search      []string
	options     []string
}

// parseConfig reads a configuration and reports every problem of it at once. A wrong version comes alone, because
// nothing else can be judged then. Keys in the specification's own name space, cni.dev/, may be unknown.
func parseConfig(raw []byte) (config, error) {
	top, err := tree.Parse(raw)
	if err == nil && top.Kind != tree.Object {
		err = fmt.Errorf("it is %s, expected an object", top.Kind)
	}
	if err != nil {
		return config{}, &api.Error{Code: api.CodeDecode, Message: "cannot read the network configuration", Details: err.Error()}
	}
	c := config{version: top.Get("cniVersion").Text, socket: DefaultSocket}
	if !slices.Contains(Versions, c.version) {
		return config{}, &api.Error{Code: api.CodeVersion, Message: fmt.Sprintf("CNI version %q is not supported", c.version),
			Details: "supported are " + strings.Join(Versions, ", ")}
	}
	r := reader{in: top, seen: []string{"cniVersion"}}
	if c.network = r.text("name"); !isName(c.network) {
		r.problems.addf("name %q: expected letters, digits, _ . - and a letter or digit first", c.network)
	}
	r.text("type")
	r.object("capabilities")
	if s := r.text("socket"); s != "" {
		c.socket = s
	}
	if !path.IsAbs(c.socket) || len(c.socket) > 107 {
		r.problems.addf("socket %q: expected an absolute path of at most 107 bytes", c.socket)
	}
	c.prev = r.object("prevResult")
	d := r.inside("dns")
	c.dns = dns{d.texts("nameservers"), d.text("domain"), d.texts("search"), d.texts("options")}
	r.ipam()
	r.runtimeConfig(&c)
	r.args(&c)
	r.valid(&c)
	r.unknown("key %q with value %s")
	return c, r.err()
}

// runtimeConfig reads the capabilities that the conflist declares: ips, mac, dns, portMappings. Others can only come from a conflist
// that declares what warren does not do; they are refused rather than dropped, unless they ask for nothing.
func (r *reader) runtimeConfig(c *config) {
	sub := r.inside("runtimeConfig")
	for _, s := range sub.texts("ips") {
		c.ips = append(c.ips, r.problems.address("runtimeConfig: ips", s)...)
	}
	if s := sub.text("mac"); s != "" {
		c.mac = r.problems.mac("runtimeConfig: mac", s)
	}
	d := sub.inside("dns")
	c.podDNS = api.DNS{Servers: d.texts("servers"), Searches: d.texts("searches"), Options: d.texts("options")}
	for _, m := range sub.list("portMappings") {
		r.portMapping(c, m)
	}
	sub.unknown("capability %q with value %s is not supported")
}

// portMapping reads one mapping of a host port. A runtime passes those without a host port too: they ask for nothing.
func (r *reader) portMapping(c *config, m tree.Value) {
	port := func(key string) uint16 {
		v := m.Get(key)
		if v.Kind == tree.Absent {
			return 0
		}
		n, err := strconv.ParseUint(string(v.Raw), 10, 16)
		if err != nil || v.Kind != tree.Number {
			r.root().problems.addf("runtimeConfig: portMappings: %s %s: expected a port from 0 to 65535", key, abridged(v))
		}
		return uint16(n)
	}
	out := api.PortMapping{HostPort: port("hostPort"), ContainerPort: port("containerPort"), Protocol: strings.ToLower(m.Get("protocol").Text)}
	if out.Protocol == "" {
		out.Protocol = "tcp"
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, out.Protocol) {
		r.root().problems.addf("runtimeConfig: portMappings: protocol %q: expected tcp, udp or sctp", out.Protocol)
	}
	if s := m.Get("hostIP").Text; s != "" {
		if a := r.root().problems.address("runtimeConfig: portMappings: hostIP", s); len(a) > 0 {
			out.HostIP = a[0]
		}
	}
	if out.HostPort == 0 {
		return
	}
	if out.ContainerPort == 0 {
		r.root().problems.addf("runtimeConfig: portMappings: containerPort of host port %d is missing", out.HostPort)
	}
	c.ports = append(c.ports, out)
}

// args reads args.cni as the conventions have it: labels, ips. Metadata that is not understood is to be ignored.
func (r *reader) args(c *config) {
	sub := r.inside("args").inside("cni")
	for _, l := range sub.list("labels") {
		if c.labels == nil {
			c.labels = map[string]string{}
		}
		c.labels[l.Get("key").Text] = l.Get("value").Text
	}
	for _, s := range sub.texts("ips") {
		if a := r.problems.address("args.cni.ips", s); c.mayTake(a) {
			c.ips = append(c.ips, a...)
		}
	}
}

// mayTake says whether no capability asked for addresses of that family already.
func (c *config) mayTake(a []netip.Addr) bool {
	return len(a) > 0 && !slices.ContainsFunc(c.ips, func(b netip.Addr) bool { return b.Is4() == a[0].Is4() })
}

// ipam must be absent or empty: warren hands out addresses itself, and ignoring the key would hide a mistake.
func (r *reader) ipam() {
	if v := r.object("ipam"); len(v.Names) > 0 {
		r.unsupported()
		r.problems.addf("key \"ipam\" with value %s: warren hands out the addresses itself", abridged(v))
	}
}

// valid reads the attachments that a GC must keep.
func (r *reader) valid(c *config) {
	for _, a := range r.list("cni.dev/valid-attachments") {
		c.valid = append(c.valid, api.Attachment{ContainerID: a.Get("containerID").Text, IfName: a.Get("ifname").Text})
	}
}

// address reads "ip" or "ip/bits"; the length is not used, a Pod's address is always its own.
func (p *problems) address(key, s string) []netip.Addr {
	a, err := netip.ParseAddr(s)
	if pre, e := netip.ParsePrefix(s); e == nil {
		a, err = pre.Addr(), nil
	}
	if err != nil || a.Zone() != "" {
		p.addf("%s: %q is no address", key, s)
		return nil
	}
	return []netip.Addr{a.Unmap()}
}

func (p *problems) mac(key, s string) *veth.MAC {
	m, err := veth.ParseMAC(s)
	if err != nil {
		p.addf("%s: %v", key, err)
		return nil
	}
	return &m
}

// isName is the specification's rule for network names and container ids.
func isName(s string) bool {
	for i, r := range s {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return false
		}
	}
	return s != ""
}
