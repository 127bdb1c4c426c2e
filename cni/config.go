package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"sort"
	"strings"

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
	prev    map[string]json.RawMessage // prevResult, nil without one
	ips     []netip.Addr
	mac     *veth.MAC
	podDNS  api.DNS // what the capability `dns` asks the Pod's resolver to be
	dns     dns     // of the network, to be returned
	labels  map[string]string
	valid   []api.Attachment
}

// dns is the DNS part of a configuration and of a result.
type dns struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// parseConfig reads a configuration and reports every problem of it at once. A wrong version comes alone, because
// nothing else can be judged then. Keys in the specification's own name space, cni.dev/, may be unknown.
func parseConfig(raw []byte) (config, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return config{}, &api.Error{Code: api.CodeDecode, Message: "cannot read the network configuration", Details: err.Error()}
	}
	c := config{socket: DefaultSocket}
	r := reader{keys: keys}
	r.read("cniVersion", &c.version)
	if len(r.problems) == 0 && !slices.Contains(Versions, c.version) {
		return config{}, &api.Error{Code: api.CodeVersion, Message: fmt.Sprintf("CNI version %q is not supported", c.version),
			Details: "supported are " + strings.Join(Versions, ", ")}
	}
	r.read("name", &c.network)
	if !isName(c.network) {
		r.problems.addf("name %q: expected letters, digits, _ . - and a letter or digit first", c.network)
	}
	var plugin string
	r.read("type", &plugin)
	r.read("socket", &c.socket)
	if !path.IsAbs(c.socket) || len(c.socket) > 107 {
		r.problems.addf("socket %q: expected an absolute path of at most 107 bytes", c.socket)
	}
	r.read("prevResult", &c.prev)
	r.read("dns", &c.dns)
	r.ipam()
	r.runtimeConfig(&c)
	r.args(&c)
	r.valid(&c)
	r.read("capabilities", &map[string]bool{})
	for _, k := range r.unknown() {
		r.problems.addf("unknown key %q with value %s", k, abridged(r.keys[k]))
	}
	return c, r.err()
}

// reader takes the known keys out of a configuration.
type reader struct {
	keys        map[string]json.RawMessage
	seen        []string
	problems    problems
	unsupported bool
}

// read decodes a key into v where it is present.
func (r *reader) read(key string, v any) {
	r.seen = append(r.seen, key)
	raw, ok := r.keys[key]
	if !ok {
		return
	}
	if err := json.Unmarshal(raw, v); err != nil {
		r.problems.addf("%s: %v", key, err)
	}
}

func (r *reader) unknown() (out []string) {
	for k := range r.keys {
		if !slices.Contains(r.seen, k) && !strings.HasPrefix(k, "cni.dev/") {
			out = append(out, k)
			r.unsupported = true
		}
	}
	sort.Strings(out)
	return out
}

// err is code 2 when only unsupported fields are wrong, else 7 (CNI 1.1.0, section 5).
func (r *reader) err() error {
	if r.unsupported {
		return r.problems.err(api.CodeUnsupported, "the network configuration has unsupported fields")
	}
	return r.problems.err(api.CodeConfig, "invalid network configuration")
}

// ipam must be absent or empty: warren hands out addresses itself, and ignoring the key would hide a mistake.
func (r *reader) ipam() {
	var v map[string]json.RawMessage
	r.read("ipam", &v)
	if len(v) > 0 {
		r.unsupported = true
		r.problems.addf("key \"ipam\" with value %s: warren hands out the addresses itself", abridged(r.keys["ipam"]))
	}
}

// runtimeConfig reads the capabilities that the conflist declares: ips, mac, dns. Others can only come from a conflist
// that declares what warren does not do; they are refused rather than dropped.
func (r *reader) runtimeConfig(c *config) {
	var v map[string]json.RawMessage
	r.read("runtimeConfig", &v)
	sub := reader{keys: v}
	var ips []string
	var mac string
	sub.read("ips", &ips)
	sub.read("mac", &mac)
	sub.read("dns", &c.podDNS)
	for _, s := range ips {
		c.ips = append(c.ips, sub.problems.address("ips", s)...)
	}
	if mac != "" {
		c.mac = sub.problems.mac("mac", mac)
	}
	for _, k := range sub.unknown() {
		if s := string(v[k]); s != "null" && s != "[]" && s != "{}" && s != `""` {
			r.unsupported = true
			sub.problems.addf("capability %q with value %s is not supported", k, abridged(v[k]))
		}
	}
	for _, p := range sub.problems {
		r.problems.addf("runtimeConfig: %s", p)
	}
}

// args reads args.cni as the conventions have it: labels, ips. Metadata that is not understood is to be ignored.
func (r *reader) args(c *config) {
	var v struct {
		CNI struct {
			Labels []struct{ Key, Value string } `json:"labels"`
			IPs    []string                      `json:"ips"`
		} `json:"cni"`
	}
	r.read("args", &v)
	for _, l := range v.CNI.Labels {
		if c.labels == nil {
			c.labels = map[string]string{}
		}
		c.labels[l.Key] = l.Value
	}
	if len(c.ips) == 0 {
		for _, s := range v.CNI.IPs {
			c.ips = append(c.ips, r.problems.address("args.cni.ips", s)...)
		}
	}
}

// valid reads the attachments that a GC must keep.
func (r *reader) valid(c *config) {
	var v []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	r.read("cni.dev/valid-attachments", &v)
	for _, a := range v {
		c.valid = append(c.valid, api.Attachment{ContainerID: a.ContainerID, IfName: a.IfName})
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

func abridged(raw json.RawMessage) string {
	if len(raw) > 100 {
		return string(raw[:100]) + "..."
	}
	return string(raw)
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
