package route

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/internal/model"
)

// Prefix of the annotations that change how an Ingress is served.
const Prefix = "warren.dev/"

// options are the annotations of one Ingress.
type options struct {
	sslRedirect bool     // http is redirected to https for hosts with TLS
	tlsHosts    []string // of spec.tls, lower case
}

// parseOptions reads the annotations. An invalid or unknown one is a problem and has no effect. nil without any annotation.
func parseOptions(in *model.Ingress) (*options, []Problem) {
	var o *options
	var problems []Problem
	bad := func(key string, r Reason, message string) {
		problems = append(problems, Problem{Kind: "Ingress", Object: in.ObjectName, Field: "metadata.annotations[" + key + "]", Reason: r,
			Message: message})
	}
	for _, key := range slices.Sorted(maps.Keys(in.Annotations)) {
		name, ok := strings.CutPrefix(key, Prefix)
		if !ok {
			continue
		}
		value := in.Annotations[key]
		if name != "ssl-redirect" {
			bad(key, AnnotationUnsupported, "warren does not have this annotation; it has no effect")
			continue
		}
		if value != "true" && value != "false" {
			bad(key, AnnotationInvalid, fmt.Sprintf("%q is neither true nor false; it has no effect", value))
			continue
		}
		if o == nil {
			o = &options{}
		}
		o.sslRedirect = value == "true"
	}
	if o != nil {
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
	}
	return o, problems
}

// complete adds what holds for every request.
func (o *options) complete(*engine.Decision) {}

// acmePrefix is the path of ACME's HTTP-01 challenges (RFC 8555, section 8.3), which are never redirected.
const acmePrefix = "/.well-known/acme-challenge/"

// apply decides about a request before it is forwarded.
func (o *options) apply(e *Entry, r *engine.Request) (engine.Decision, bool) {
	if o.sslRedirect && r.Scheme == "http" && o.hasTLS(e.Host) && !strings.HasPrefix(r.Path, acmePrefix) {
		target := "https://" + r.Host + r.Path
		if r.Query != "" {
			target += "?" + r.Query
		}
		return engine.Decision{Status: http.StatusPermanentRedirect, Headers: [][2]string{{"Location", target}}, Rule: e.decision.Rule},
			true
	}
	return engine.Decision{}, false
}

// hasTLS reports whether spec.tls names the host of a rule, or a wildcard that covers it.
func (o *options) hasTLS(name string) bool {
	_, parent, _ := strings.Cut(name, ".")
	return slices.Contains(o.tlsHosts, name) || slices.Contains(o.tlsHosts, "*."+parent)
}
