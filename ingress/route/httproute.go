package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// Manifest is an object of the Gateway API as it is written.
type Manifest = map[string]any

// HTTPRoutes converts Ingresses to HTTPRoutes (gateway.networking.k8s.io/v1) for a Gateway, "name" or "namespace/name". The Gateway needs
// a listener named http, and one named https for hosts with TLS. What has no equivalent is a Finding.
func HTTPRoutes(in *model.IngressObjects, gateway string) ([]Manifest, []Finding) {
	c := converter{services: map[model.ObjectName]*model.Service{}, canaries: map[string]*model.Ingress{}}
	c.gateway.Namespace, c.gateway.Name, _ = strings.Cut(gateway, "/")
	if c.gateway.Name == "" {
		c.gateway = model.ObjectName{Name: gateway}
	}
	for _, s := range in.Services {
		c.services[s.ObjectName] = s
	}
	parser := New(Config{Nginx: true})
	list := slices.SortedFunc(slices.Values(in.Ingresses), byAge)
	all := map[*model.Ingress]*options{}
	for _, x := range list {
		o, _ := parser.parseOptions(x) // Lint reports the problems
		all[x] = o
		if o.canary {
			for _, r := range x.Rules {
				for _, p := range r.Paths {
					c.canaries[pathKey(x, r.Host, &p)] = x
				}
			}
		}
	}
	for _, x := range list {
		if !all[x].canary {
			c.ingress(x, all[x], all)
		}
	}
	return c.out, c.findings
}

type converter struct {
	gateway  model.ObjectName
	services map[model.ObjectName]*model.Service
	canaries map[string]*model.Ingress // by the path that they are for
	out      []Manifest
	findings []Finding
}

func pathKey(x *model.Ingress, host string, p *model.IngressPath) string {
	return fmt.Sprintf("%s %s %d %s", x.Namespace, strings.ToLower(host), p.Type, p.Path)
}

func (c *converter) missing(x *model.Ingress, field, format string, args ...any) {
	c.findings = append(c.findings, Finding{"Ingress " + x.ObjectName.String(), field, LevelError, fmt.Sprintf(format, args...)})
}

// converted are the annotations that have an equivalent.
var converted = []string{"app-root", "backend-protocol", "canary", "canary-by-header", "canary-by-header-value", "canary-weight",
	"canary-weight-total", "force-ssl-redirect", "permanent-redirect", "permanent-redirect-code", "proxy-read-timeout", "rewrite-target",
	"server-alias", "service-upstream", "ssl-redirect", "strip-prefix", "upstream-vhost", "use-regex", "x-forwarded-prefix"}

func (c *converter) ingress(x *model.Ingress, o *options, all map[*model.Ingress]*options) {
	for _, key := range slices.Sorted(maps.Keys(x.Annotations)) {
		_, name, ok := strings.Cut(key, "/")
		if ok && (strings.HasPrefix(key, Prefix) || strings.HasPrefix(key, NginxPrefix)) && !slices.Contains(converted, name) {
			c.missing(x, "metadata.annotations["+key+"]", "has no equivalent in HTTPRoute")
		}
	}
	if len(x.Rules) == 0 && x.Default != nil {
		c.route(x, o, x.Name, nil, []any{c.rule(x, o, "spec.defaultBackend", nil, nil, x.Default)})
	}
	for i, r := range x.Rules {
		var rules []any
		for j := range r.Paths {
			p := &r.Paths[j]
			at := fmt.Sprintf("spec.rules[%d].http.paths[%d]", i, j)
			canary := c.canaries[pathKey(x, r.Host, p)]
			if canary != nil {
				rules = append(rules, c.headerRules(canary, all[canary], o, at, r.Host, p)...)
			}
			rule := c.rule(x, o, at+".backend", p, nil, &p.Backend)
			if canary != nil {
				c.weights(rule, canary, all[canary], r.Host, p)
			}
			rules = append(rules, rule)
		}
		if x.Default != nil {
			rules = append(rules, c.rule(x, o, "spec.defaultBackend", nil, nil, x.Default))
		}
		name := x.Name
		if len(x.Rules) > 1 {
			name = fmt.Sprintf("%s-%d", x.Name, i+1)
		}
		var hosts []any
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
		for _, a := range o.aliases {
			hosts = append(hosts, a)
		}
		c.route(x, o, name, hosts, rules)
	}
}

// route adds a route, and one that redirects to https if the Ingress does.
func (c *converter) route(x *model.Ingress, o *options, name string, hosts, rules []any) {
	secure := false
	for _, h := range hosts {
		secure = secure || o.hasTLS(h.(string))
	}
	redirects := o.forceSSL || *o.sslRedirect && secure
	add := func(name, section string, rules []any) {
		parent := Manifest{"name": c.gateway.Name}
		if c.gateway.Namespace != "" {
			parent["namespace"] = c.gateway.Namespace
		}
		if section != "" {
			parent["sectionName"] = section
		}
		spec := Manifest{"parentRefs": []any{parent}, "rules": rules}
		if len(hosts) > 0 {
			spec["hostnames"] = hosts
		}
		c.out = append(c.out, Manifest{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
			"metadata": Manifest{"name": name, "namespace": x.Namespace}, "spec": spec})
	}
	if !redirects {
		add(name, "", rules)
		return
	}
	add(name, "https", rules)
	add(name+"-redirect", "http", []any{Manifest{"filters": []any{Manifest{"type": "RequestRedirect",
		"requestRedirect": Manifest{"scheme": "https", "statusCode": 301}}}}})
}

// rule converts one path; nil is any path. headers are further conditions.
func (c *converter) rule(x *model.Ingress, o *options, field string, p *model.IngressPath, headers []any,
	backend *model.IngressBackend) Manifest {
	rule := Manifest{}
	match := Manifest{}
	if p != nil {
		kind := "PathPrefix"
		if p.Type == model.PathExact {
			kind = "Exact"
		}
		if o.useRegex && p.Type == model.PathImplementationSpecific {
			kind = "RegularExpression"
		}
		match["path"] = Manifest{"type": kind, "value": cmp.Or(p.Path, "/")}
	}
	if len(headers) > 0 {
		match["headers"] = headers
	}
	if len(match) > 0 {
		rule["matches"] = []any{match}
	}
	if filters := c.filters(x, o, p); len(filters) > 0 {
		rule["filters"] = filters
	}
	if o.redirect == "" {
		if ref := c.backend(x, field, backend); ref != nil {
			rule["backendRefs"] = []any{ref}
		}
	}
	if o.read > 0 {
		rule["timeouts"] = Manifest{"backendRequest": o.read.String()}
	}
	return rule
}

func (c *converter) filters(x *model.Ingress, o *options, p *model.IngressPath) (out []any) {
	if o.redirect != "" {
		scheme, rest, _ := strings.Cut(o.redirect, "://")
		host, path, _ := strings.Cut(rest, "/")
		to := Manifest{"scheme": scheme, "hostname": host, "statusCode": o.redirectCode}
		to["path"] = Manifest{"type": "ReplaceFullPath", "replaceFullPath": "/" + path}
		return []any{Manifest{"type": "RequestRedirect", "requestRedirect": to}}
	}
	rewrite := Manifest{}
	switch {
	case o.stripPrefix:
		rewrite["path"] = Manifest{"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
	case groupReference.MatchString(o.rewrite):
		c.missing(x, "metadata.annotations", "rewrite-target %s has groups, which HTTPRoute does not have", o.rewrite)
	case o.rewrite != "":
		rewrite["path"] = Manifest{"type": "ReplaceFullPath", "replaceFullPath": o.rewrite}
	}
	if o.vhost != "" {
		rewrite["hostname"] = o.vhost
	}
	if len(rewrite) > 0 {
		out = append(out, Manifest{"type": "URLRewrite", "urlRewrite": rewrite})
	}
	if o.forwardedPrefix != "" {
		out = append(out, Manifest{"type": "RequestHeaderModifier", "requestHeaderModifier": Manifest{"set": []any{
			Manifest{"name": "X-Forwarded-Prefix", "value": o.forwardedPrefix}}}})
	}
	if o.appRoot != "" && p != nil {
		c.missing(x, "metadata.annotations", "app-root needs a rule for Exact / with a RequestRedirect, which is not made")
	}
	return out
}

// backend is a reference to a Service's port, which HTTPRoute has by number only.
func (c *converter) backend(x *model.Ingress, field string, b *model.IngressBackend) Manifest {
	if b.Resource != "" {
		c.missing(x, field, "%s: a resource backend", b.Resource)
		return nil
	}
	port := b.Port
	if b.PortName != "" {
		if s := c.services[model.ObjectName{Namespace: x.Namespace, Name: b.Service}]; s != nil {
			for _, p := range s.Ports {
				if p.Name == b.PortName {
					port = p.Port
				}
			}
		}
	}
	if port == 0 {
		c.missing(x, field, "port %s of Service %s: its number is not known; add the Service to the manifests", b.PortName, b.Service)
		return nil
	}
	return Manifest{"name": b.Service, "port": int(port)}
}

// weights adds a canary's backend with its weight.
func (c *converter) weights(rule Manifest, canary *model.Ingress, o *options, host string, p *model.IngressPath) {
	refs, _ := rule["backendRefs"].([]any)
	b := backendOf(canary, host, p)
	if o.canaryWeight == 0 || b == nil || len(refs) != 1 {
		return
	}
	if ref := c.backend(canary, "spec.rules", b); ref != nil {
		ref["weight"] = o.canaryWeight
		refs[0].(Manifest)["weight"] = max(o.canaryTotal-o.canaryWeight, 0)
		rule["backendRefs"] = append(refs, ref)
	}
}

// headerRules are rules for requests that select the canary by a header.
func (c *converter) headerRules(canary *model.Ingress, o, main *options, at, host string, p *model.IngressPath) []any {
	if o.canaryCookie != "" || o.canaryPattern != nil {
		c.missing(canary, "metadata.annotations", "canary-by-cookie and canary-by-header-pattern have no equivalent in HTTPRoute")
	}
	b := backendOf(canary, host, p)
	if o.canaryHeader == "" || b == nil {
		return nil
	}
	header := Manifest{"name": o.canaryHeader, "type": "Exact", "value": cmp.Or(o.canaryValue, "always")}
	return []any{c.rule(canary, main, at, p, []any{header}, b)}
}

func backendOf(x *model.Ingress, host string, p *model.IngressPath) *model.IngressBackend {
	for _, r := range x.Rules {
		for i := range r.Paths {
			if strings.EqualFold(r.Host, host) && r.Paths[i].Path == p.Path && r.Paths[i].Type == p.Type {
				return &r.Paths[i].Backend
			}
		}
	}
	return nil
}
