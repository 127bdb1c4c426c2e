package cni

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// DefaultSocket is the agent's socket.
const DefaultSocket = "/run/warren/agent.sock"

// config is the network configuration on stdin, checked.
type config struct {
	version    string
	network    string
	socket     string
	prevResult map[string]json.RawMessage // nil without one
	ips        []netip.Addr
	mac        *veth.MAC
	podDNS     api.DNS // capability `dns`: the resolver configuration requested for the Pod
	dns        dns     // of the network configuration, returned in the result
	labels     map[string]string
	valid      []api.Attachment
	ports      []api.PortMapping
}

// dns is the DNS part of a configuration and of a result.
type dns struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// parseConfig parses a configuration and reports all of its problems at once. An unsupported version is reported alone:
// the other fields mean something else in another version.
func parseConfig(document []byte) (config, error) {
	f, err := parseFields(document)
	if err != nil {
		return config{}, &api.Error{Code: api.CodeDecode, Message: "cannot read the network configuration", Details: err.Error()}
	}
	c := config{version: get[string](f, "cniVersion"), socket: DefaultSocket}
	if !slices.Contains(Versions, c.version) {
		return config{}, &api.Error{Code: api.CodeVersion, Message: fmt.Sprintf("CNI version %q is not supported", c.version),
			Details: "supported are " + strings.Join(Versions, ", ")}
	}
	if c.network = get[string](f, "name"); !isName(c.network) {
		f.report.addf("name %q: expected letters, digits, _ . - and a letter or digit first", c.network)
	}
	get[string](f, "type")
	f.object("capabilities")
	if s := get[string](f, "socket"); s != "" {
		c.socket = s
	}
	if !path.IsAbs(c.socket) || len(c.socket) > 107 {
		f.report.addf("socket %q: expected an absolute path of at most 107 bytes", c.socket)
	}
	c.prevResult = get[map[string]json.RawMessage](f, "prevResult")
	d := f.object("dns")
	c.dns = dns{list[string](d, "nameservers"), get[string](d, "domain"), list[string](d, "search"), list[string](d, "options")}
	f.rejectIPAM()
	c.parseRuntimeConfig(f.object("runtimeConfig"))
	c.parseArgs(f.object("args").object("cni"))
	c.parseValidAttachments(f)
	f.rejectUnknown("key %q with value %s")
	return c, f.report.configError()
}

// parseRuntimeConfig reads the capabilities that the conflist declares: ips, mac, dns, portMappings. A conflist that
// declares another one expects something that warren does not do. Such a capability is refused, unless it is empty.
func (c *config) parseRuntimeConfig(f *fields) {
	for _, s := range list[string](f, "ips") {
		c.ips = append(c.ips, f.report.address("runtimeConfig.ips", s)...)
	}
	if s := get[string](f, "mac"); s != "" {
		c.mac = f.report.mac("runtimeConfig.mac", s)
	}
	c.podDNS = f.dns("dns")
	for _, m := range f.objects("portMappings") {
		c.parsePortMapping(m)
	}
	f.rejectUnknown("capability %q with value %s is not supported")
}

// parsePortMapping reads one mapping of a host port. Runtimes also pass the container ports without a host port; those
// request nothing.
func (c *config) parsePortMapping(f *fields) {
	m := api.PortMapping{HostPort: get[uint16](f, "hostPort"), ContainerPort: get[uint16](f, "containerPort"),
		Protocol: cmp.Or(strings.ToLower(get[string](f, "protocol")), "tcp")}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, m.Protocol) {
		f.report.addf("%sprotocol %q: expected tcp, udp or sctp", f.path, m.Protocol)
	}
	if s := get[string](f, "hostIP"); s != "" {
		if a := f.report.address(f.path+"hostIP", s); len(a) > 0 {
			m.HostIP = a[0]
		}
	}
	if m.HostPort == 0 {
		return
	}
	if m.ContainerPort == 0 {
		f.report.addf("%scontainerPort of host port %d is missing", f.path, m.HostPort)
	}
	c.ports = append(c.ports, m)
}

// parseArgs reads args.cni according to the CNI conventions: labels, ips. Unknown keys are to be ignored there.
func (c *config) parseArgs(f *fields) {
	for _, l := range f.objects("labels") {
		if c.labels == nil {
			c.labels = map[string]string{}
		}
		c.labels[l.required("key")] = get[string](l, "value")
	}
	for _, s := range list[string](f, "ips") {
		if a := f.report.address("args.cni.ips", s); c.mayTake(a) {
			c.ips = append(c.ips, a...)
		}
	}
}

// mayTake reports whether no address of that family was requested by a capability.
func (c *config) mayTake(a []netip.Addr) bool {
	return len(a) > 0 && !slices.ContainsFunc(c.ips, func(b netip.Addr) bool { return b.Is4() == a[0].Is4() })
}

// rejectIPAM: the key must be absent or empty. Warren assigns the addresses itself; ignoring the key would hide a mistake.
func (f *fields) rejectIPAM() {
	if len(f.object("ipam").values) > 0 {
		f.report.unsupported = true
		f.report.addf("key \"ipam\" with value %s: warren assigns the addresses itself, remove the key", abridged(f.lookup("ipam")))
	}
}

// parseValidAttachments reads the attachments that GC must keep. An attachment that cannot be read is an error: GC would
// remove a running Pod's interface.
func (c *config) parseValidAttachments(f *fields) {
	for _, a := range f.objects("cni.dev/valid-attachments") {
		c.valid = append(c.valid, api.Attachment{ContainerID: a.required("containerID"), IfName: a.required("ifname")})
	}
}

// address parses "ip" or "ip/bits". The prefix length is ignored: a Pod's address is always a /32 or /128.
func (p *problems) address(key, s string) []netip.Addr {
	a, err := netip.ParseAddr(s)
	if pre, e := netip.ParsePrefix(s); e == nil {
		a, err = pre.Addr(), nil
	}
	if err != nil || a.Zone() != "" {
		p.addf("%s: %q is not an IP address", key, s)
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
