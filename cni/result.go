package cni

import (
	"encoding/json"
	"net/netip"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// The parts of a result. Only what this plugin adds is made of them: a previous plugin's parts pass through as they
// came, whatever they hold.
type (
	resultInterface struct {
		Name    string `json:"name"`
		MAC     string `json:"mac,omitempty"`
		MTU     int    `json:"mtu,omitempty"` // since 1.1.0
		Sandbox string `json:"sandbox,omitempty"`
	}
	resultIP struct {
		Version   string       `json:"version,omitempty"` // until 0.4.0
		Interface int          `json:"interface"`
		Address   netip.Prefix `json:"address"`
		Gateway   netip.Addr   `json:"gateway"`
	}
	resultRoute struct {
		Dst netip.Prefix `json:"dst"`
		GW  netip.Addr   `json:"gw"`
	}
)

// result writes the ADD result in the configuration's version, behind what a previous plugin had.
func (c *call) result(s veth.Spec, fromAgent api.DNS) (map[string]any, error) {
	out := map[string]any{}
	for k, v := range c.prev {
		out[k] = v
	}
	var interfaces, ips, routes []json.RawMessage
	for key, list := range map[string]*[]json.RawMessage{"interfaces": &interfaces, "ips": &ips, "routes": &routes} {
		if raw, ok := c.prev[key]; ok {
			if err := json.Unmarshal(raw, list); err != nil {
				return nil, &api.Error{Code: api.CodeConfig, Message: "prevResult: " + key, Details: err.Error()}
			}
		}
	}
	mtu := 0
	if c.version == "1.1.0" {
		mtu = s.MTU
	}
	add(&interfaces, resultInterface{Name: s.HostIf, MAC: s.HostMAC.String(), MTU: mtu})
	pod := len(interfaces)
	add(&interfaces, resultInterface{Name: s.PodIf, MAC: s.PodMAC.String(), MTU: mtu, Sandbox: c.netns})
	for _, a := range s.Addresses {
		ip := resultIP{Interface: pod, Address: netip.PrefixFrom(a, a.BitLen()), Gateway: veth.Gateway(a)}
		if c.version == "0.3.1" || c.version == "0.4.0" {
			ip.Version = map[bool]string{true: "4", false: "6"}[a.Is4()]
		}
		add(&ips, ip)
		add(&routes, resultRoute{Dst: veth.Default(a), GW: veth.Gateway(a)})
	}
	out["cniVersion"], out["interfaces"], out["ips"], out["routes"] = c.version, interfaces, ips, routes
	if _, ok := out["dns"]; !ok || string(c.prev["dns"]) == "{}" {
		out["dns"] = c.resolver(fromAgent)
	}
	return out, nil
}

// resolver is the network's DNS: what the configuration says, else what the agent knows of the cluster.
func (c *call) resolver(fromAgent api.DNS) dns {
	d := c.dns
	if len(d.Nameservers) == 0 && d.Domain == "" && len(d.Search) == 0 && len(d.Options) == 0 {
		d = dns{Nameservers: fromAgent.Servers, Search: fromAgent.Searches, Options: fromAgent.Options}
	}
	return d
}

func add(list *[]json.RawMessage, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types above always marshal
	}
	*list = append(*list, raw)
}
