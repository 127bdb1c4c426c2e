package ingress

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/ingress/route"
)

// Paths of the local API.
const (
	RoutesPath = "/v1/routes"
	RoutePath  = "/v1/route" // ?url=URL&method=METHOD
)

// Routes is the answer at RoutesPath.
type Routes struct {
	Revision int64           `json:"revision"`
	Ready    string          `json:"notReady,omitempty"` // why not
	Store    string          `json:"store,omitempty"`    // why it does not answer
	Since    time.Time       `json:"since,omitzero"`     // of Store
	Routes   []route.View    `json:"routes"`
	Problems []route.Problem `json:"problems"`
}

// statusHandler serves metrics and health: livez while the process runs, readyz while it has routes and was not ended.
func (p *Process) statusHandler() http.Handler {
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(p.metrics.registry, promhttp.HandlerOpts{}))
	m.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	m.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return m
}

// apiHandler serves the local API.
func (p *Process) apiHandler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET "+RoutesPath, func(w http.ResponseWriter, _ *http.Request) {
		out := Routes{Routes: []route.View{}, Problems: []route.Problem{}}
		if err := p.Ready(); err != nil {
			out.Ready = err.Error()
		}
		if s := p.store.Load(); s.err != "" {
			out.Store, out.Since = s.err, s.since
		}
		if t := p.table.Load(); t != nil {
			out.Revision, out.Routes, out.Problems = t.Revision, t.Views(), append(out.Problems, t.Problems...)
		}
		reply(w, out)
	})
	m.HandleFunc("GET "+RoutePath, func(w http.ResponseWriter, r *http.Request) {
		t := p.table.Load()
		if t == nil {
			http.Error(w, p.Ready().Error(), http.StatusServiceUnavailable)
			return
		}
		req, err := requestOf(r.URL.Query().Get("url"), r.URL.Query().Get("method"))
		if err != "" {
			http.Error(w, err, http.StatusBadRequest)
			return
		}
		reply(w, t.Explain(req))
	})
	return m
}

// requestOf makes a request from a URL. problem is "" if it is valid.
func requestOf(text, method string) (req *engine.Request, problem string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, "URL " + text + ": expected http://HOST/PATH or https://HOST/PATH"
	}
	if method == "" {
		method = http.MethodGet
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return &engine.Request{Method: method, Scheme: u.Scheme, Host: strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), Path: path,
		Query: u.RawQuery, TLS: u.Scheme == "https",
		Header: noHeader{}, Client: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)}, ""
}

type noHeader struct{}

// Get returns nothing.
func (noHeader) Get(string) string { return "" }

// Values returns nothing.
func (noHeader) Values(string) []string { return nil }

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
