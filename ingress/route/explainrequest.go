package route

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/warrennet/warren/ingress/engine"
)

// Explain returns how a request would be routed, without counting it.
func (t *Table) Explain(r *engine.Request) Explanation {
	x := Explanation{Host: r.Host, Path: canonical(r.Path)}
	if x.Path != r.Path {
		x.because("path %s is matched as %s", r.Path, x.Path)
	}
	h := t.explainHost(&x)
	e := t.Lookup(r.Host, r.Path)
	if h != nil {
		t.explainPath(&x, h, e)
	}
	if e == nil {
		if t.fallback != nil && h != nil {
			x.because("the default backend of Ingress %s is of another namespace than the host", t.fallback.Ingress.ObjectName)
		}
		x.because("nothing serves the request: status 404")
		x.Status = http.StatusNotFound
		return x
	}
	v := t.view(e)
	x.Rule = &v
	for _, p := range t.ProblemsOf(e.Ingress.ObjectName) {
		x.Problems = append(x.Problems, p.String())
	}
	d := e.route(r)
	if d.Upstream.Pick == nil {
		x.Status = d.Status
		for _, f := range d.Headers {
			if f[0] == "Location" {
				x.Location = f[1]
			}
		}
		x.because("the response is status %d %s", d.Status, strings.TrimSpace(x.Location+" "+e.Backend.message))
		return x
	}
	x.Balancing = string(e.Backend.balancing)
	if c := e.Backend.choose(nil); c != nil {
		x.Choice = c.Addr.String()
	}
	if e.Backend.Draining {
		x.because("no endpoint of Service %s is ready; those that still serve while they terminate are used", e.Backend.Service)
	}
	x.because("one of %d endpoints of Service %s is selected (%s)", len(e.Backend.Endpoints), e.Backend.Service, e.Backend.balancing)
	return x
}

func (x *Explanation) because(format string, args ...any) {
	x.Why = append(x.Why, fmt.Sprintf(format, args...))
}

func (t *Table) explainHost(x *Explanation) *host {
	h := t.hostOf(x.Host)
	_, parent, _ := strings.Cut(x.Host, ".")
	switch {
	case h == nil:
		x.because("no rule is for host %q, and no rule is without a host", x.Host)
		return nil
	case h == t.hosts[x.Host]:
		x.because("host %s has rules of its own", x.Host)
	case h == t.wildcards[parent]:
		x.because("host %s has no rules of its own; wildcard *.%s matches", x.Host, parent)
	default:
		x.because("host %s has no rules of its own; the rules without a host apply", x.Host)
	}
	return h
}

func (t *Table) explainPath(x *Explanation, h *host, e *Entry) {
	for _, o := range h.entries() {
		if o != e {
			x.Considered = append(x.Considered, t.view(o))
		}
	}
	switch {
	case e == nil || e == t.fallback && e != h.fallback:
		x.because("no path of this host matches %s", x.Path)
	case e == h.fallback && e.Path == "":
		x.because("no path of this host matches %s; its Ingress %s has a default backend", x.Path, e.Ingress.ObjectName)
	default:
		x.because("%s path %s matches (an exact path first, then the longest)", e.Type, e.Path)
	}
}
