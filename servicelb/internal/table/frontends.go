package table

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// FrontendInfo is a copy of one entry of the table for status output.
type FrontendInfo struct {
	Service model.ObjectName
	Port    string // name of the Service port
	Kind    string // ClusterIP, external, NodePort or hostPort
	Proto   uint8
	Address netip.AddrPort
	// Backends serve Pods and nodes. External serve clients outside of the cluster; nil where they are the same.
	Backends, External []netip.AddrPort
}

// Frontends lists the table by Service, kind and address.
func (t *Table) Frontends() []FrontendInfo {
	out := make([]FrontendInfo, 0, t.Len())
	for k, f := range t.frontends.all {
		x := FrontendInfo{Service: f.Service, Port: f.PortName, Kind: kindNames[f.Kind], Proto: k.Proto,
			Address: netip.AddrPortFrom(k.Addr, k.Port), Backends: f.Internal.addrPorts()}
		if external := f.External.addrPorts(); !slices.Equal(external, x.Backends) {
			x.External = external
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b FrontendInfo) int {
		return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Kind, b.Kind), a.Address.Compare(b.Address),
			cmp.Compare(a.Proto, b.Proto))
	})
	return out
}

func (p *Pool) addrPorts() (out []netip.AddrPort) {
	for _, b := range p.Backends {
		out = append(out, b.AddrPort())
	}
	return out
}
