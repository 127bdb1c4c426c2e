package route

import (
	"crypto/tls"
	"regexp"
	"strings"

	"github.com/warrennet/warren/ingress/engine"
	"github.com/warrennet/warren/internal/model"
)

// Entry is one path of a rule, or a default backend.
type Entry struct {
	Ingress *model.Ingress
	Host    string // of the rule: "", a host name or "*.example.com"
	Path    string // "" of a default backend
	Type    model.PathType
	Backend *Backend

	options  *options
	decision engine.Decision
	regex    *regexp.Regexp // nil: the path is no regular expression
	canary   *canary        // nil: without one
	slash    bool           // the request is redirected to its path with a final slash
	toHost   string         // the request is redirected to this host, "": it is not
	session  *session       // nil: without session cookies
}

// host is what one host of rules serves.
type host struct {
	name     string
	owner    string // namespace
	exact    map[string]*Entry
	regex    []*Entry          // the longest first
	prefix   map[string]*Entry // by path without the final slash
	longest  int               // of the keys of prefix
	fallback *Entry            // default backend of an Ingress with a rule for this host

	sources  []*unit // what it was compiled from, in their order
	problems []Problem
}

// Table is everything that requests are routed by. It is immutable.
type Table struct {
	Revision int64
	Problems []Problem // sorted by object
	// Served are the Ingresses of warren's classes, oldest first.
	Served []*model.Ingress

	hosts     map[string]*host // by host name
	wildcards map[string]*host // by what follows "*."
	any       *host            // rules without a host; nil without one
	fallback  *Entry           // default backend of an Ingress without rules
	shared    sharedHosts

	certificates map[string]*tls.Certificate // by host name
	wildcardCert map[string]*tls.Certificate // by what follows "*."
	defaultCert  *tls.Certificate
}

// hostOf selects the host that serves a name: exact, else wildcard, else the rules without a host. nil if there is none.
func (t *Table) hostOf(name string) *host {
	if h := t.hosts[name]; h != nil {
		return h
	}
	if i := strings.IndexByte(name, '.'); i > 0 {
		if h := t.wildcards[name[i+1:]]; h != nil {
			return h
		}
	}
	return t.any
}

// Lookup returns what serves a host (lower case, without port) and a path. It is nil if nothing does. It does not allocate for a path
// in canonical form, and costs the same for any number of hosts.
func (t *Table) Lookup(name, path string) *Entry {
	h := t.hostOf(name)
	if h == nil {
		return t.fallback
	}
	if e := h.lookup(canonical(path)); e != nil {
		return e
	}
	if h.fallback != nil {
		return h.fallback
	}
	// Another namespace's default backend must not receive the requests for this namespace's host.
	if f := t.fallback; f != nil && (h == t.any || f.Ingress.Namespace == h.owner || t.shared.has(h.name)) {
		return f
	}
	return nil
}

// lookup finds the rule for a path in canonical form. At most as many prefixes are tried as the longest rule has elements.
func (h *host) lookup(path string) *Entry {
	if e := h.exact[path]; e != nil {
		return e
	}
	for _, e := range h.regex {
		if e.regex.MatchString(path) {
			return e
		}
	}
	if len(h.prefix) == 0 {
		return nil
	}
	p := strings.TrimSuffix(path, "/")
	if len(p) > h.longest {
		if p[h.longest] != '/' {
			p = p[:h.longest]
			p = p[:max(strings.LastIndexByte(p, '/'), 0)]
		} else {
			p = p[:h.longest]
		}
	}
	for {
		if e := h.prefix[p]; e != nil {
			return e
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return nil
		}
		p = p[:i]
	}
}

// Hosts is the number of hosts with rules.
func (t *Table) Hosts() int {
	n := len(t.hosts) + len(t.wildcards)
	if t.any != nil {
		n++
	}
	return n
}

// sharedHosts are the hosts that Ingresses of several namespaces may have.
type sharedHosts map[string]bool

func (s sharedHosts) has(name string) bool {
	if len(s) == 0 {
		return false
	}
	_, parent, _ := strings.Cut(name, ".")
	return s["*"] || s[name] || name != "" && s["*."+parent]
}
