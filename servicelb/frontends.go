package servicelb

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// Frontend is one entry of the table as people want to see it.
type Frontend struct {
	Service model.ObjectName
	Port    string // name of the Service port
	Kind    string // ClusterIP, external, NodePort or hostPort
	Proto   uint8
	Address netip.AddrPort
	// Backends serve Pods and nodes. External serve clients from outside; nil where those are the same.
	Backends, External []netip.AddrPort
}

var kindNames = map[kind]string{kindCluster: "ClusterIP", kindExternal: "external", kindNodePort: "NodePort", kindHostPort: "hostPort"}

// Frontends lists the table, by Service, kind and address.
func (t *Table) Frontends() []Frontend {
	out := make([]Frontend, 0, t.Len())
	for k, f := range t.fronts.all {
		x := Frontend{Service: f.name, Port: f.port, Kind: kindNames[f.kind], Proto: k.proto, Address: netip.AddrPortFrom(k.addr, k.port), Backends: f.internal.addrs()}
		if ext := f.external.addrs(); !slices.Equal(ext, x.Backends) {
			x.External = ext
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Frontend) int {
		return cmp.Or(cmp.Compare(a.Service.Namespace, b.Service.Namespace), cmp.Compare(a.Service.Name, b.Service.Name),
			cmp.Compare(a.Kind, b.Kind), a.Address.Compare(b.Address), cmp.Compare(a.Proto, b.Proto))
	})
	return out
}

func (p *pool) addrs() (out []netip.AddrPort) {
	for _, b := range p.backends {
		out = append(out, b.addrPort())
	}
	return out
}
