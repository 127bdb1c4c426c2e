package route

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
)

// options are the annotations of one Ingress. They are immutable after finish.
type options struct {
	nginx    bool     // annotations of ingress-nginx count, with its behaviour
	tlsHosts []string // of spec.tls, lower case

	sslRedirect *bool
	forceSSL    bool
	hsts        string

	redirect, temporal         string
	redirectCode, temporalCode int
	appRoot                    string

	rewrite         string
	useRegex        bool
	stripPrefix     bool
	vhost           string
	forwardedPrefix string

	protocol            string
	connect, read, send time.Duration
	tries               int
	balancing           Balancing
	defaultBackend      string

	allow, deny []netip.Prefix
	corsOn      bool
	cors        cors

	canary                    bool
	canaryHeader, canaryValue string
	canaryPattern             *regexp.Regexp
	canaryCookie              string
	canaryWeight, canaryTotal int

	affinity string
	cookie   http.Cookie // of affinity, without value
	hash     hashKey
	www      bool
	aliases  []string
	maxBody  int64 // bytes, 0: no limit

	decides bool // something depends on the request
}

func newOptions(in *model.Ingress) *options {
	o := &options{redirectCode: http.StatusMovedPermanently, temporalCode: http.StatusFound, cors: defaultCORS, canaryTotal: 100,
		cookie: http.Cookie{Name: "INGRESSCOOKIE", Path: "/", HttpOnly: true}}
	for _, t := range in.TLS {
		for _, h := range t.Hosts {
			o.tlsHosts = append(o.tlsHosts, strings.ToLower(h))
		}
		if len(t.Hosts) == 0 {
			for _, r := range in.Rules {
				o.tlsHosts = append(o.tlsHosts, strings.ToLower(r.Host))
			}
		}
	}
	return o
}

// finish derives what the annotations together mean.
func (o *options) finish() {
	if o.sslRedirect == nil {
		o.sslRedirect = &o.nginx // the default of ingress-nginx is true
	}
	if o.nginx && o.rewrite != "" {
		o.useRegex = true
	}
	o.decides = *o.sslRedirect || o.forceSSL || o.hsts != "" || o.redirect != "" || o.temporal != "" || o.appRoot != "" ||
		o.rewrite != "" || o.stripPrefix || len(o.allow) > 0 || len(o.deny) > 0 || o.corsOn || o.affinity != "" ||
		o.hash != nil
}

// upstreamTLS is the configuration for backends with HTTPS. As with ingress-nginx their certificates are not verified: they are in
// the cluster, and have no name that could be verified.
var upstreamTLS = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}

// complete adds to the decision of a rule what holds for every request.
func (o *options) complete(d *engine.Decision) {
	switch o.protocol {
	case "HTTP":
		d.Upstream.TLS, d.Upstream.H2C = nil, false
	case "HTTPS", "GRPCS":
		d.Upstream.TLS, d.Upstream.H2C = upstreamTLS, false
	case "GRPC":
		d.Upstream.TLS, d.Upstream.H2C = nil, true
	}
	d.Timeouts = engine.Timeouts{Connect: o.connect, Read: o.read, Write: o.send}
	d.Retry.Attempts, d.MaxBody = o.tries, o.maxBody
	if o.vhost == "" && o.forwardedPrefix == "" {
		return
	}
	d.Rewrite = &engine.Rewrite{Host: o.vhost}
	if o.forwardedPrefix != "" {
		d.Rewrite.Request.Set = [][2]string{{"X-Forwarded-Prefix", o.forwardedPrefix}}
	}
}

// acmePrefix is the path of ACME's HTTP-01 challenges (RFC 8555, section 8.3), which are never redirected.
const acmePrefix = "/.well-known/acme-challenge/"

// apply decides about a request before it is forwarded: done is true if it is not.
func (o *options) apply(e *Entry, r *engine.Request) (d engine.Decision, done bool) {
	rule := e.decision.Rule
	if netx.Contains(o.deny, r.Client.Addr()) || len(o.allow) > 0 && !netx.Contains(o.allow, r.Client.Addr()) {
		return engine.Decision{Status: http.StatusForbidden, Body: "forbidden\n", Rule: rule}, true
	}
	acme := strings.HasPrefix(r.Path, acmePrefix)
	if r.Scheme == "http" && !acme && (o.forceSSL || *o.sslRedirect && o.hasTLS(e.Host)) {
		return redirect(http.StatusPermanentRedirect, "https://"+r.Host+r.Path, r.Query, rule), true
	}
	switch {
	case acme:
	case o.temporal != "":
		return redirect(o.temporalCode, o.temporal, "", rule), true
	case o.redirect != "":
		return redirect(o.redirectCode, o.redirect, "", rule), true
	case o.appRoot != "" && r.Path == "/":
		return redirect(http.StatusFound, r.Scheme+"://"+r.Host+o.appRoot, "", rule), true
	}
	if o.corsOn && r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
		if origin := o.cors.allowed(r.Header.Get("Origin")); origin != "" {
			return o.cors.preflight(origin, rule), true
		}
	}
	return engine.Decision{}, false
}

func redirect(status int, target, query string, rule *engine.Rule) engine.Decision {
	if query != "" {
		target += "?" + query
	}
	return engine.Decision{Status: status, Headers: [][2]string{{"Location", target}}, Rule: rule}
}

// change adds to the decision for a request what depends on it.
func (o *options) change(e *Entry, r *engine.Request, d *engine.Decision) {
	path := e.rewritePath(r.Path)
	var origin string
	if o.corsOn {
		origin = o.cors.allowed(r.Header.Get("Origin"))
	}
	hsts := o.hsts != "" && r.Scheme == "https"
	if path == "" && origin == "" && !hsts {
		return
	}
	w := engine.Rewrite{}
	if d.Rewrite != nil {
		w = *d.Rewrite
	}
	w.Path = path
	w.Response.Set = slices.Clone(w.Response.Set)
	if origin != "" {
		w.Response.Set = append(w.Response.Set, o.cors.fields(origin)...)
	}
	if hsts {
		w.Response.Set = append(w.Response.Set, [2]string{"Strict-Transport-Security", o.hsts})
	}
	d.Rewrite = &w
}

// rewritePath is the path that the backend receives, "" for that of the request.
func (e *Entry) rewritePath(path string) string {
	o := e.options
	switch {
	case o.stripPrefix && e.Type != model.PathExact && e.regex == nil:
		rest := strings.TrimPrefix(canonical(path), strings.TrimSuffix(canonical(e.Path), "/"))
		if !strings.HasPrefix(rest, "/") {
			rest = "/" + rest
		}
		return escape(rest)
	case o.rewrite == "":
		return ""
	case e.regex == nil:
		return escape(groupReference.ReplaceAllString(o.rewrite, ""))
	}
	m := e.regex.FindStringSubmatch(canonical(path))
	out := groupReference.ReplaceAllStringFunc(o.rewrite, func(ref string) string {
		if n := int(ref[1] - '0'); n < len(m) {
			return m[n]
		}
		return ""
	})
	if !strings.HasPrefix(out, "/") {
		out = "/" + out
	}
	return escape(out)
}

// hasTLS reports whether spec.tls names the host of a rule, or a wildcard that covers it.
func (o *options) hasTLS(name string) bool {
	_, parent, _ := strings.Cut(name, ".")
	return slices.Contains(o.tlsHosts, name) || slices.Contains(o.tlsHosts, "*."+parent)
}
