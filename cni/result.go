package cni

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// previous is prevResult: the result of the plugin before this one in a chain, or this one's own on CHECK and DEL.
type previous struct {
	present    bool
	all        map[string]json.RawMessage
	interfaces []json.RawMessage
	ips        []json.RawMessage
	routes     []json.RawMessage
	dns        map[string]json.RawMessage
}

// previous decodes prevResult, as far as this plugin adds to it.
func (c *call) previous() (previous, error) {
	f := &fields{values: c.prevResult, path: "prevResult.", known: map[string]bool{}, report: &report{}}
	p := previous{present: c.prevResult != nil, all: c.prevResult}
	p.interfaces = get[[]json.RawMessage](f, "interfaces")
	p.ips = get[[]json.RawMessage](f, "ips")
	p.routes = get[[]json.RawMessage](f, "routes")
	p.dns = get[map[string]json.RawMessage](f, "dns")
	return p, f.report.configError()
}

// The parts of a result that this plugin adds (CNI 1.1.0, section 5, and the older forms).
type (
	resultInterface struct {
		Name    string `json:"name"`
		MAC     string `json:"mac"`
		MTU     int    `json:"mtu,omitempty"` // since 1.1.0
		Sandbox string `json:"sandbox,omitempty"`
	}
	resultIP struct {
		Version   string `json:"version,omitempty"` // until 0.4.0
		Interface int    `json:"interface"`
		Address   string `json:"address"`
		Gateway   string `json:"gateway"`
	}
	resultRoute struct {
		Dst string `json:"dst"`
		GW  string `json:"gw"`
	}
)

// result builds the ADD result in the configuration's version. The previous result passes through unchanged, also its
// unknown fields. The interfaces, addresses and routes of this plugin are appended to the lists of the previous result.
func (c *call) result(prev previous, s veth.Spec, fromAgent api.DNS) map[string]any {
	out := map[string]any{}
	for k, v := range prev.all {
		out[k] = v
	}
	out["cniVersion"] = c.version
	out["interfaces"] = join(prev.interfaces,
		c.resultInterface(s.HostIf, s.HostMAC, "", s.MTU),
		c.resultInterface(s.PodIf, s.PodMAC, c.netns, s.MTU))
	var ips []resultIP
	var routes []resultRoute
	for _, a := range s.Addresses {
		ips = append(ips, c.resultIP(a, len(prev.interfaces)+1))
		routes = append(routes, resultRoute{veth.Default(a).String(), veth.Gateway(a).String()})
	}
	out["ips"] = join(prev.ips, ips...)
	out["routes"] = join(prev.routes, routes...)
	if len(prev.dns) == 0 {
		out["dns"] = c.resolver(fromAgent)
	}
	return out
}

// join appends this plugin's elements to those of the previous result.
func join[T any](prev []json.RawMessage, own ...T) []any {
	out := make([]any, 0, len(prev)+len(own))
	for _, v := range prev {
		out = append(out, v)
	}
	for _, v := range own {
		out = append(out, v)
	}
	return out
}

func (c *call) resultInterface(name string, mac veth.MAC, sandbox string, mtu int) resultInterface {
	if c.version != "1.1.0" {
		mtu = 0
	}
	return resultInterface{Name: name, MAC: mac.String(), MTU: mtu, Sandbox: sandbox}
}

func (c *call) resultIP(a netip.Addr, index int) resultIP {
	out := resultIP{Interface: index, Address: netip.PrefixFrom(a, a.BitLen()).String(), Gateway: veth.Gateway(a).String()}
	if c.version == "0.3.1" || c.version == "0.4.0" {
		out.Version = "4"
		if a.Is6() {
			out.Version = "6"
		}
	}
	return out
}

// resolver returns the DNS part of the result: that of the configuration, else the cluster's as the agent replied it.
func (c *call) resolver(fromAgent api.DNS) dns {
	d := c.dns
	if len(d.Nameservers) == 0 && d.Domain == "" && len(d.Search) == 0 && len(d.Options) == 0 {
		d = dns{Nameservers: fromAgent.Servers, Search: fromAgent.Searches, Options: fromAgent.Options}
	}
	return d
}

// print writes a value as JSON. Characters of HTML are left as they are: no runtime embeds a result in a page.
func print(w io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	if err == nil {
		_, err = w.Write(b.Bytes())
	}
	if err != nil {
		return &api.Error{Code: api.CodeIO, Message: "cannot write the result", Details: err.Error()}
	}
	return nil
}
