package cni

import (
	"net/netip"
	"strconv"

	"github.com/warrennet/warren/cni/internal/tree"
	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// result writes the ADD result in the configuration's version. A previous plugin's result passes through as it came,
// whatever it holds; this plugin's interfaces, addresses and routes come behind its own.
func (c *call) result(s veth.Spec, fromAgent api.DNS) []byte {
	var w tree.Writer
	w.Object(func() {
		w.Name("cniVersion").Text(c.version)
		w.Name("interfaces").Array(func() {
			pass(&w, c.prev.Get("interfaces"))
			c.interfaceOf(&w, s.HostIf, s.HostMAC, "", s.MTU)
			c.interfaceOf(&w, s.PodIf, s.PodMAC, c.netns, s.MTU)
		})
		w.Name("ips").Array(func() {
			pass(&w, c.prev.Get("ips"))
			for _, a := range s.Addresses {
				c.ip(&w, a, len(c.prev.Get("interfaces").Items)+1)
			}
		})
		w.Name("routes").Array(func() {
			pass(&w, c.prev.Get("routes"))
			for _, a := range s.Addresses {
				w.Object(func() {
					w.Name("dst").Text(veth.Default(a).String())
					w.Name("gw").Text(veth.Gateway(a).String())
				})
			}
		})
		if prev := c.prev.Get("dns"); len(prev.Names) > 0 {
			w.Name("dns").Raw(prev.Raw)
		} else {
			w.Name("dns").Object(func() { c.resolver(&w, fromAgent) })
		}
		for i, name := range c.prev.Names {
			switch name {
			case "cniVersion", "interfaces", "ips", "routes", "dns":
			default:
				w.Name(name).Raw(c.prev.Parts[i].Raw)
			}
		}
	})
	return w.Bytes()
}

func pass(w *tree.Writer, list tree.Value) {
	for _, v := range list.Items {
		w.Raw(v.Raw)
	}
}

// interfaceOf: the MTU is part of a result since 1.1.0.
func (c *call) interfaceOf(w *tree.Writer, name string, mac veth.MAC, sandbox string, mtu int) {
	w.Object(func() {
		w.Name("name").Text(name)
		w.Name("mac").Text(mac.String())
		if c.version == "1.1.0" {
			w.Name("mtu").Raw(strconv.AppendInt(nil, int64(mtu), 10))
		}
		if sandbox != "" {
			w.Name("sandbox").Text(sandbox)
		}
	})
}

// ip: addresses had a version until 0.4.0.
func (c *call) ip(w *tree.Writer, a netip.Addr, index int) {
	w.Object(func() {
		if c.version == "0.3.1" || c.version == "0.4.0" {
			w.Name("version").Text(map[bool]string{true: "4", false: "6"}[a.Is4()])
		}
		w.Name("interface").Raw(strconv.AppendInt(nil, int64(index), 10))
		w.Name("address").Text(netip.PrefixFrom(a, a.BitLen()).String())
		w.Name("gateway").Text(veth.Gateway(a).String())
	})
}

// resolver is the network's DNS: what the configuration says, else what the agent knows of the cluster.
func (c *call) resolver(w *tree.Writer, fromAgent api.DNS) {
	d := c.dns
	if len(d.nameservers) == 0 && d.domain == "" && len(d.search) == 0 && len(d.options) == 0 {
		d = dns{nameservers: fromAgent.Servers, search: fromAgent.Searches, options: fromAgent.Options}
	}
	texts(w, "nameservers", d.nameservers)
	if d.domain != "" {
		w.Name("domain").Text(d.domain)
	}
	texts(w, "search", d.search)
	texts(w, "options", d.options)
}

// texts writes a list where there is one.
func texts(w *tree.Writer, name string, list []string) {
	if len(list) > 0 {
		w.Name(name).Texts(list)
	}
}
