package route

import (
	"net/http"
	"slices"
	"strings"

	"github.com/warrennet/warren/ingress/engine"
)

// cors are the fields of cross-origin responses, with the defaults of ingress-nginx.
type cors struct {
	origins                          []string
	methods, headers, expose, maxAge string
	credentials                      bool
}

var defaultCORS = cors{origins: []string{"*"}, methods: "GET, PUT, POST, DELETE, PATCH, OPTIONS",
	headers: "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
	maxAge:  "1728000", credentials: true}

// allowed is the value of Access-Control-Allow-Origin for an origin, "" for none.
func (c *cors) allowed(origin string) string {
	if origin == "" {
		return ""
	}
	if slices.Contains(c.origins, "*") {
		return "*"
	}
	for _, o := range c.origins {
		scheme, suffix, wildcard := strings.Cut(o, "://*.")
		if o == origin {
			return origin
		}
		if wildcard && strings.HasPrefix(origin, scheme+"://") && strings.HasSuffix(origin, "."+suffix) {
			label := strings.TrimSuffix(strings.TrimPrefix(origin, scheme+"://"), "."+suffix)
			if label != "" && !strings.ContainsAny(label, "./:@") {
				return origin
			}
		}
	}
	return ""
}

// fields are those of a response for an origin.
func (c *cors) fields(origin string) (out [][2]string) {
	out = append(out, [2]string{"Access-Control-Allow-Origin", origin})
	if c.credentials {
		out = append(out, [2]string{"Access-Control-Allow-Credentials", "true"})
	}
	if c.expose != "" {
		out = append(out, [2]string{"Access-Control-Expose-Headers", c.expose})
	}
	if origin != "*" {
		out = append(out, [2]string{"Vary", "Origin"})
	}
	return out
}

// preflight answers a preflight request (Fetch standard, "CORS-preflight fetch").
func (c *cors) preflight(origin string, rule *engine.Rule) engine.Decision {
	fields := append(c.fields(origin), [2]string{"Access-Control-Allow-Methods", c.methods}, [2]string{"Access-Control-Allow-Headers",
		c.headers}, [2]string{"Access-Control-Max-Age", c.maxAge})
	return engine.Decision{Status: http.StatusNoContent, Headers: fields, Rule: rule}
}
