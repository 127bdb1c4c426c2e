package route

import (
	"fmt"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// newHost compiles what a host serves from the Ingresses with rules for it, in their order.
func (c *Compiler) newHost(name, owner string, sources []*unit) *host {
	b := &hostBuilder{host: &host{name: name, owner: owner, sources: sources}, nginx: c.cfg.Nginx}
	for _, u := range sources {
		// As with ingress-nginx, one Ingress with regular expressions makes all paths of the host regular expressions.
		b.allRegexp = b.allRegexp || b.nginx && u.options != nil && u.options.useRegex
	}
	for _, canaries := range []bool{false, true} {
		for _, u := range sources {
			if u.isCanary() != canaries {
				continue
			}
			for i := range u.rules {
				if u.rules[i].host == name {
					b.rule(u, i)
				}
			}
			if b.fallback == nil && !canaries {
				b.fallback = u.fallback
			}
		}
	}
	slices.SortStableFunc(b.regex, func(x, y *Entry) int { return len(y.Path) - len(x.Path) })
	b.slashes()
	if len(b.www) > 0 && len(b.exact)+len(b.prefix)+len(b.regex) == 0 { // a host with rules of its own is not redirected
		b.put(b.www[0])
	}
	return b.host
}

// hostBuilder is a host that is being compiled.
type hostBuilder struct {
	*host
	nginx     bool
	allRegexp bool
	www       []*Entry // redirects to the host with or without www
}

func (b *hostBuilder) problem(u *unit, rule int, r Reason, format string, args ...any) {
	field := u.rules[rule].field
	if strings.HasPrefix(field, "spec.") {
		field += ".http.paths"
	}
	b.problems = append(b.problems, Problem{Kind: "Ingress", Object: u.in.ObjectName, Field: field, Reason: r,
		Message: fmt.Sprintf(format, args...)})
}

// rule adds the paths of one rule, or those of a canary to the paths that are there.
func (b *hostBuilder) rule(u *unit, i int) {
	for _, e := range u.rules[i].entries {
		if e.toHost != "" {
			b.www = append(b.www, e)
			continue
		}
		e, err := b.withRegexp(e)
		if err != nil {
			b.problem(u, i, PathInvalid, "path %s is no regular expression: %v; it is not served", u.rules[i].entries[0].Path, err)
			continue
		}
		at := b.find(e)
		switch {
		case !u.isCanary() && at == nil:
			b.add(e)
		case !u.isCanary():
			b.problem(u, i, PathConflict, "%s path %s of host %q is served by Ingress %s, which is older or precedes it", e.Type, e.Path,
				b.name, (*at).Ingress.ObjectName)
		case at == nil:
			b.problem(u, i, PathConflict, "no other Ingress has %s path %s of host %q, so that this canary has no effect", e.Type,
				e.Path, b.name)
		case (*at).canary != nil:
			b.problem(u, i, PathConflict, "%s path %s of host %q has another canary, Ingress %s", e.Type, e.Path, b.name,
				(*at).canary.entry.Ingress.ObjectName)
		case len(e.Backend.Endpoints) > 0:
			*at = withCanary(*at, e)
			b.put(*at)
		}
	}
}

// withRegexp compiles the path of a rule if it is a regular expression. It returns a copy then.
func (b *hostBuilder) withRegexp(e *Entry) (*Entry, error) {
	own := e.options != nil && e.options.useRegex && e.Type == model.PathImplementationSpecific
	if !b.allRegexp && !own {
		return e, nil
	}
	text := "^(?:" + e.Path + ")"
	if b.allRegexp {
		text = "(?i)" + text
	}
	r, err := parseRegexp(text)
	if err != nil {
		return e, err
	}
	out := *e
	out.regex = r
	return &out, nil
}

func prefixKey(path string) string { return strings.TrimSuffix(canonical(path), "/") }

// find returns the rule with the same path and kind, nil for none. put stores what it is changed to.
func (b *hostBuilder) find(e *Entry) *(*Entry) {
	var have *Entry
	switch {
	case e.regex != nil:
		i := slices.IndexFunc(b.regex, func(x *Entry) bool { return x.regex.String() == e.regex.String() })
		if i < 0 {
			return nil
		}
		return &b.regex[i]
	case e.Type == model.PathExact:
		have = b.exact[canonical(e.Path)]
	default:
		have = b.prefix[prefixKey(e.Path)]
	}
	if have == nil {
		return nil
	}
	return &have
}

func (b *hostBuilder) add(e *Entry) {
	if e.regex != nil {
		b.regex = append(b.regex, e)
		return
	}
	b.put(e)
}

// put stores a rule in its map.
func (b *hostBuilder) put(e *Entry) {
	switch {
	case e.regex != nil: // find returned its place
	case e.Type == model.PathExact:
		if b.exact == nil {
			b.exact = map[string]*Entry{}
		}
		b.exact[canonical(e.Path)] = e
	default:
		if b.prefix == nil {
			b.prefix = map[string]*Entry{}
		}
		key := prefixKey(e.Path)
		b.prefix[key] = e
		b.longest = max(b.longest, len(key))
	}
}

// slashes adds redirects as nginx does: a path that ends with a slash, other than of type Prefix, redirects requests without the slash.
func (b *hostBuilder) slashes() {
	if !b.nginx || b.allRegexp {
		return
	}
	var list []*Entry
	for path, e := range b.exact {
		if path != "/" && strings.HasSuffix(path, "/") {
			list = append(list, e)
		}
	}
	for key, e := range b.prefix {
		if key != "" && e.Type == model.PathImplementationSpecific && strings.HasSuffix(e.Path, "/") {
			list = append(list, e)
		}
	}
	for _, e := range list {
		key := prefixKey(e.Path)
		if b.exact[key] != nil || b.prefix[key] != nil && b.prefix[key] != e {
			continue
		}
		r := *e
		r.slash, r.Type, r.Path = true, model.PathExact, key
		b.put(&r)
	}
}

// escape writes a path in canonical form as it is sent: characters that a path cannot have are percent-encoded (RFC 3986, section 3.3).
func escape(path string) string {
	const hexDigits = "0123456789ABCDEF"
	plain := func(i int) bool {
		c := path[i]
		if c == '%' && i+2 < len(path) {
			_, ok1 := unhex(path[i+1])
			_, ok2 := unhex(path[i+2])
			return ok1 && ok2
		}
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("/-._~!$&'()*+,;=:@", c) >= 0
	}
	var out []byte
	for i := range len(path) {
		if plain(i) {
			out = append(out, path[i])
		} else {
			out = append(out, '%', hexDigits[path[i]>>4], hexDigits[path[i]&15])
		}
	}
	return string(out)
}
