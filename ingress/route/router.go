package route

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strings"

	"github.com/warrennet/warren/ingress/engine"
)

var _ engine.Router = (*Table)(nil)

// notFound is the decision for a request that nothing serves.
var notFound = engine.Decision{Status: http.StatusNotFound, Body: "no Ingress serves this host and path\n"}

// Route decides about a request.
func (t *Table) Route(r *engine.Request) engine.Decision {
	e := t.Lookup(r.Host, r.Path)
	if e == nil {
		return notFound
	}
	return e.route(r)
}

// route is the decision for a request that the rule serves.
func (e *Entry) route(r *engine.Request) engine.Decision {
	if e.options == nil && e.canary == nil && !e.slash && e.toHost == "" {
		return e.decision
	}
	return e.routeWithOptions(r)
}

func (e *Entry) routeWithOptions(r *engine.Request) engine.Decision {
	if e.toHost != "" {
		return redirect(http.StatusPermanentRedirect, r.Scheme+"://"+e.toHost+r.Path, r.Query, e.decision.Rule)
	}
	if e.slash {
		return redirect(http.StatusMovedPermanently, r.Scheme+"://"+r.Host+r.Path+"/", r.Query, e.decision.Rule)
	}
	decides := e.options != nil && e.options.decides
	if decides {
		if d, done := e.options.apply(e, r); done {
			return d
		}
	}
	d, backend, sticky := e.decision, e.Backend, e.session
	if e.canary != nil && e.canary.takes(r) {
		d, backend, sticky = e.canary.decision, e.canary.entry.Backend, e.canary.session
	}
	if !decides || d.Upstream.Pick == nil {
		return d
	}
	e.options.change(e, r, &d)
	switch {
	case sticky != nil:
		sticky.bind(backend, r, &d)
	case e.options.hash != nil:
		e.options.hash.bind(backend, r, &d)
	}
	return d
}

// decide makes the decision of a rule that does not depend on the request.
func decide(e *Entry) engine.Decision {
	rule := &engine.Rule{Namespace: e.Ingress.Namespace, Object: e.Ingress.Name, Host: e.Host, Path: e.Path,
		Service: e.Backend.Service.Name}
	if len(e.Backend.Endpoints) == 0 {
		return engine.Decision{Status: http.StatusServiceUnavailable, Body: "no endpoint is available\n", Rule: rule}
	}
	d := engine.Decision{Upstream: e.Backend.upstream, Rule: rule}
	if e.options != nil {
		e.options.complete(&d)
	}
	return d
}

// errNoCertificate is the error of a handshake without any certificate.
var errNoCertificate = errors.New("no certificate for this server name, and no default certificate")

// Certificate returns the certificate for the server name of a handshake.
func (t *Table) Certificate(_ int, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := t.certificateFor(strings.ToLower(hello.ServerName)); c != nil {
		return c, nil
	}
	return nil, errNoCertificate
}
