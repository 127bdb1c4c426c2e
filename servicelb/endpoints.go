package servicelb

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// endpoint is one candidate of a Service port in one family.
type endpoint struct {
	*model.Endpoint
	port uint16
}

// endpointsOf gathers the candidates from all slices. An address that stands in several slices counts once; the ready
// one wins.
func endpointsOf(list []*model.EndpointSlice, p *model.ServicePort, v6, publishNotReady bool) []endpoint {
	var out []endpoint
	at := map[netip.AddrPort]int{}
	for _, s := range list {
		if s.V6 != v6 {
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

// pool chooses the usable endpoints as kube-proxy does: policy first, then ready ones before serving terminating ones,
// then topology.
func (t *Table) pool(eps []endpoint, policy model.TrafficPolicy) *pool {
	out := &pool{}
	if policy == model.PolicyLocal {
		all := usable(eps)
		eps = usable(keep(eps, func(e endpoint) bool { return e.Node == t.self.Node }))
		out.drop = len(eps) == 0 && len(all) > 0
	} else {
		eps = t.near(usable(eps))
	}
	out.backends = appendBackends(out.few[:0], eps)
	return out
}

func appendBackends(out []backend, eps []endpoint) []backend {
	out = slices.Grow(out, len(eps))
	for _, e := range eps {
		out = append(out, backend{e.Addr, e.port})
	}
	return out
}

func keep(eps []endpoint, ok func(endpoint) bool) (out []endpoint) {
	for _, e := range eps {
		if ok(e) {
			out = append(out, e)
		}
	}
	return out
}

// usable returns the ready endpoints, or where there is none, those that still serve while they terminate.
func usable(eps []endpoint) []endpoint {
	ready := keep(eps, func(e endpoint) bool { return e.Ready })
	if len(ready) > 0 {
		return ready
	}
	return keep(eps, func(e endpoint) bool { return e.Serving && e.Terminating })
}

// near applies topology hints. A single endpoint without a hint means that hints are being changed: all count then
// (KEP-2433, KEP-3015).
func (t *Table) near(eps []endpoint) []endpoint {
	hinted := func(hints func(endpoint) []string, where string) []endpoint {
		if where == "" || len(eps) == 0 {
			return nil
		}
		for _, e := range eps {
			if len(hints(e)) == 0 {
				return nil
			}
		}
		return keep(eps, func(e endpoint) bool { return slices.Contains(hints(e), where) })
	}
	if same := hinted(func(e endpoint) []string { return e.NodeHints }, t.self.Node); len(same) > 0 {
		return same
	}
	if same := hinted(func(e endpoint) []string { return e.ZoneHints }, t.self.Zone); len(same) > 0 {
		return same
	}
	return eps
}
