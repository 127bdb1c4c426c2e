package route

import (
	"math/rand/v2"
	"strings"

	"github.com/warrennet/warren/ingress/engine"
)

// canary is an alternative backend of a rule, from an Ingress with the annotation canary.
type canary struct {
	entry    *Entry // of the canary Ingress
	decision engine.Decision
	session  *session
}

// withCanary returns a copy of a rule that sends some requests to the backend of a canary. The options of the rule hold for both.
func withCanary(main, c *Entry) *Entry {
	out := *main
	alternative := *main
	alternative.Backend = c.Backend
	alternative.Ingress = c.Ingress
	d := decide(&alternative)
	out.canary = &canary{entry: c, decision: d}
	if main.session != nil {
		out.canary.session = newSession(&alternative)
	}
	return &out
}

// takes reports whether a request is for the canary: by header, then by cookie, then by weight.
func (c *canary) takes(r *engine.Request) bool {
	o := c.entry.options
	if o.canaryHeader != "" {
		v := r.Header.Get(o.canaryHeader)
		switch {
		case o.canaryValue != "":
			if v == o.canaryValue {
				return true
			}
		case o.canaryPattern != nil:
			if v != "" && o.canaryPattern.MatchString(v) {
				return true
			}
		case v == "always":
			return true
		case v == "never":
			return false
		}
	}
	if o.canaryCookie != "" {
		switch cookie(r.Header, o.canaryCookie) {
		case "always":
			return true
		case "never":
			return false
		}
	}
	return o.canaryWeight > 0 && rand.IntN(o.canaryTotal) < o.canaryWeight
}

// cookie is the value of a cookie, "" without it.
func cookie(h engine.HeaderView, name string) string {
	for _, line := range h.Values("Cookie") {
		for part := range strings.SplitSeq(line, ";") {
			if k, v, ok := strings.Cut(strings.TrimSpace(part), "="); ok && k == name {
				return v
			}
		}
	}
	return ""
}
