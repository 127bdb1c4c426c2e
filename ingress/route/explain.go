package route

import (
	"maps"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// EndpointView is one endpoint of a backend for display.
type EndpointView struct {
	Address string `json:"address"`
	Node    string `json:"node,omitempty"`
	Pod     string `json:"pod,omitempty"`
	Active  int64  `json:"active"` // requests in progress at this proxy
	Avoided bool   `json:"avoided,omitempty"`
}

// View is one rule or default backend for display.
type View struct {
	Host      string         `json:"host"` // "*": any
	Path      string         `json:"path"` // "": default backend
	Type      string         `json:"type,omitempty"`
	Ingress   string         `json:"ingress"`
	Service   string         `json:"service,omitempty"` // namespace/name:port
	TLS       string         `json:"tls,omitempty"`     // name in the certificate, "" without one for this host
	Endpoints []EndpointView `json:"endpoints"`
	Draining  bool           `json:"draining,omitempty"` // only terminating endpoints are left
	Fault     string         `json:"fault,omitempty"`    // why there is no endpoint
}

// Explanation is how a request is routed.
type Explanation struct {
	Host       string   `json:"host"`
	Path       string   `json:"path"`                // as rules are matched with it
	Why        []string `json:"why"`                 // one step after the other
	Status     int      `json:"status,omitempty"`    // of a response without a backend
	Location   string   `json:"location,omitempty"`  // of a redirect
	Rule       *View    `json:"rule,omitempty"`      // nil: nothing serves the request
	Choice     string   `json:"choice,omitempty"`    // the endpoint that would be selected now
	Balancing  string   `json:"balancing,omitempty"` // the method
	Problems   []string `json:"problems,omitempty"`  // of the Ingress
	Considered []View   `json:"considered,omitempty"`
}

func (t *Table) view(e *Entry) View {
	b := e.Backend
	v := View{Host: e.Host, Path: e.Path, Ingress: e.Ingress.ObjectName.String(), Draining: b.Draining, Fault: b.message,
		Endpoints: []EndpointView{}}
	if v.Host == "" {
		v.Host = "*"
	}
	if e.Path != "" {
		v.Type = e.Type.String()
	}
	if b.Service != (model.ObjectName{}) {
		v.Service = b.Service.String() + ":" + b.Port
	}
	if c := t.certificateFor(e.Host); c != nil && c != t.defaultCert && c.Leaf != nil {
		v.TLS = c.Leaf.Subject.CommonName
		if len(c.Leaf.DNSNames) > 0 {
			v.TLS = c.Leaf.DNSNames[0]
		}
	}
	for _, x := range b.Endpoints {
		w := EndpointView{Address: x.Addr.String(), Node: x.Node, Active: x.Active(), Avoided: x.avoided()}
		if x.Pod != (model.ObjectName{}) {
			w.Pod = x.Pod.String()
		}
		v.Endpoints = append(v.Endpoints, w)
	}
	return v
}

// entries are the rules of a host in the order in which they are tried, and its default backend.
func (h *host) entries() (out []*Entry) {
	for i, m := range []map[string]*Entry{h.exact, h.prefix} {
		if i == 1 {
			out = append(out, h.regex...)
		}
		list := slices.Collect(maps.Values(m))
		slices.SortFunc(list, func(a, b *Entry) int {
			if d := len(b.Path) - len(a.Path); d != 0 {
				return d
			}
			return strings.Compare(a.Path, b.Path)
		})
		out = append(out, list...)
	}
	if h.fallback != nil {
		out = append(out, h.fallback)
	}
	return out
}

// Views are all rules: exact hosts, wildcard hosts, rules without a host, the default backend. Each group is sorted by host.
func (t *Table) Views() []View {
	out := []View{}
	add := func(h *host) {
		for _, e := range h.entries() {
			v := t.view(e)
			if e.Path == "" {
				v.Host = h.name
			}
			out = append(out, v)
		}
	}
	for _, m := range []map[string]*host{t.hosts, t.wildcards} {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			add(m[name])
		}
	}
	if t.any != nil {
		add(t.any)
	}
	if t.fallback != nil {
		out = append(out, t.view(t.fallback))
	}
	return out
}

// ProblemsOf are the problems of one Ingress.
func (t *Table) ProblemsOf(name model.ObjectName) (out []Problem) {
	for _, p := range t.Problems {
		if p.Kind == "Ingress" && p.Object == name {
			out = append(out, p)
		}
	}
	return out
}
