package table

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// endpoint is one endpoint of a Service port in one family, with its target port.
type endpoint struct {
	*model.Endpoint
	port uint16
}

// endpointsOf collects the endpoints of a port from all EndpointSlices, sorted. An address in several slices counts
// once; a ready endpoint has precedence.
func endpointsOf(list []*model.EndpointSlice, p *model.ServicePort, family model.Family, publishNotReady bool) []endpoint {
	var out []endpoint
	at := map[netip.AddrPort]int{}
	for _, s := range list {
		if s.Family != family {
			continue
		}
		for _, sp := range s.Ports {
			if sp.Name != p.Name || sp.Protocol != p.Protocol {
				continue
			}
			for i := range s.Endpoints {
				e := endpoint{&s.Endpoints[i], sp.Port}
				key := netip.AddrPortFrom(e.Addr, e.port)
				if j, dup := at[key]; dup {
					if e.Ready && !out[j].Ready {
						out[j] = e
					}
					continue
				}
				at[key] = len(out)
				out = append(out, e)
			}
		}
	}
	if publishNotReady {
		for i := range out {
			e := *out[i].Endpoint
			e.Ready, e.Serving, e.Terminating = true, true, false
			out[i].Endpoint = &e
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.port, b.port)) })
	return out
}

// newPool selects the usable endpoints as kube-proxy's CategorizeEndpoints does: first by traffic policy, then ready
// endpoints before serving terminating ones, then by topology hints.
func (t *Table) newPool(eps []endpoint, policy model.TrafficPolicy) *Pool {
	out := &Pool{}
	if policy == model.PolicyLocal {
		all := usable(eps)
		eps = usable(filter(eps, func(e endpoint) bool { return e.Node == t.self.Node }))
		out.PolicyDrops = len(eps) == 0 && len(all) > 0
	} else {
		eps = t.preferHinted(usable(eps))
	}
	out.Backends = appendBackends(out.few[:0], eps)
	return out
}

func appendBackends(out []Backend, eps []endpoint) []Backend {
	out = slices.Grow(out, len(eps))
	for _, e := range eps {
		out = append(out, Backend{e.Addr, e.port})
	}
	return out
}

func filter(eps []endpoint, ok func(endpoint) bool) (out []endpoint) {
	for _, e := range eps {
		if ok(e) {
			out = append(out, e)
		}
	}
	return out
}

// usable returns the ready endpoints. Without any it returns the terminating ones that still serve.
func usable(eps []endpoint) []endpoint {
	ready := filter(eps, func(e endpoint) bool { return e.Ready })
	if len(ready) > 0 {
		return ready
	}
	return filter(eps, func(e endpoint) bool { return e.Serving && e.Terminating })
}

// preferHinted applies topology hints (KEP-2433, KEP-3015). A single endpoint without a hint means that the hints are
// being changed: then all endpoints are used.
func (t *Table) preferHinted(eps []endpoint) []endpoint {
	hinted := func(hints func(endpoint) []string, where string) []endpoint {
		if where == "" || len(eps) == 0 {
			return nil
		}
		for _, e := range eps {
			if len(hints(e)) == 0 {
				return nil
			}
		}
		return filter(eps, func(e endpoint) bool { return slices.Contains(hints(e), where) })
	}
	if same := hinted(func(e endpoint) []string { return e.NodeHints }, t.self.Node); len(same) > 0 {
		return same
	}
	if same := hinted(func(e endpoint) []string { return e.ZoneHints }, t.self.Zone); len(same) > 0 {
		return same
	}
	return eps
}
