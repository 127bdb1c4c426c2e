package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// Level is how much a Finding matters.
type Level string

// The levels.
const (
	LevelError  Level = "error"  // something is invalid or has no effect
	LevelChange Level = "change" // warren does it, but not exactly as ingress-nginx
)

// Finding is what changes for one object when warren serves it instead of ingress-nginx.
type Finding struct {
	Object  string `json:"object"` // kind namespace/name
	Field   string `json:"field"`
	Level   Level  `json:"level"`
	Message string `json:"message"`
}

// Lint compares how ingress-nginx and warren serve Ingresses of any class. Backends are checked only if there are Services among the
// objects, and endpoints and Secrets not at all.
func Lint(in *model.IngressObjects) []Finding {
	l := linter{regexHosts: map[string]*model.Ingress{}}
	for _, x := range in.Ingresses {
		if isRegexp(x) {
			for _, r := range x.Rules {
				l.regexHosts[strings.ToLower(r.Host)] = x
			}
		}
	}
	for _, x := range in.Ingresses {
		l.annotations(x)
		l.behaviours(x)
	}
	l.problems(in)
	slices.SortStableFunc(l.out, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Field, b.Field)) })
	return l.out
}

type linter struct {
	regexHosts map[string]*model.Ingress // hosts with regular expressions, and an Ingress that causes it
	out        []Finding
}

func (l *linter) add(x *model.Ingress, field string, level Level, format string, args ...any) {
	l.out = append(l.out, Finding{"Ingress " + x.ObjectName.String(), field, level, fmt.Sprintf(format, args...)})
}

// setting is the value of an annotation with either prefix.
func setting(x *model.Ingress, name string) string {
	return cmp.Or(x.Annotations[Prefix+name], x.Annotations[NginxPrefix+name])
}

func isRegexp(x *model.Ingress) bool {
	return setting(x, "use-regex") == "true" || x.Annotations[NginxPrefix+"rewrite-target"] != ""
}

func (l *linter) annotations(x *model.Ingress) {
	for _, key := range slices.Sorted(maps.Keys(x.Annotations)) {
		name, ok := strings.CutPrefix(key, NginxPrefix)
		if !ok {
			if name, ok = strings.CutPrefix(key, Prefix); !ok {
				continue
			}
		}
		field := "metadata.annotations[" + key + "]"
		if p := newOptions(x).set(name, x.Annotations[key]); p.Reason != "" {
			l.add(x, field, LevelError, "%s", p.Message)
		} else if a := catalogue[name]; a.Support == Different && a.Note != "" {
			l.add(x, field, LevelChange, "%s", a.Note)
		}
	}
}

// behaviours finds the behaviours of ingress-nginx that break migrations.
func (l *linter) behaviours(x *model.Ingress) {
	const onlyWith = "only with --nginx-annotations"
	if x.Annotations[NginxPrefix+"rewrite-target"] != "" && x.Annotations[NginxPrefix+"use-regex"] == "" {
		l.add(x, "metadata.annotations["+NginxPrefix+"rewrite-target]", LevelChange, "implies use-regex %s", onlyWith)
	}
	if setting(x, "ssl-redirect") == "" && len(x.TLS) > 0 {
		l.add(x, "spec.tls", LevelChange, "http is redirected to https by default %s; otherwise set %sssl-redirect", onlyWith, Prefix)
	}
	for i, r := range x.Rules {
		cause := l.regexHosts[strings.ToLower(r.Host)]
		for j, p := range r.Paths {
			at := fmt.Sprintf("spec.rules[%d].http.paths[%d].path", i, j)
			switch {
			case cause == x && p.Type == model.PathImplementationSpecific:
				l.add(x, at, LevelChange, "%s is a regular expression: it matches without case %s", p.Path, onlyWith)
			case cause != nil:
				l.add(x, at, LevelChange, "%s is a regular expression because of Ingress %s %s; otherwise it is of type %s", p.Path,
					cause.ObjectName, onlyWith, p.Type)
			case len(p.Path) > 1 && strings.HasSuffix(p.Path, "/") && p.Type != model.PathPrefix:
				l.add(x, at, LevelChange, "a request for %s is redirected to %s %s", strings.TrimSuffix(p.Path, "/"), p.Path, onlyWith)
			case p.Type == model.PathImplementationSpecific && p.Path != "/" && p.Path != "":
				l.add(x, at, LevelChange, "ImplementationSpecific %s matches whole path elements only, not %sx", p.Path, p.Path)
			}
			if p.Path != "" && canonical(p.Path) != p.Path && cause == nil {
				l.add(x, at, LevelChange, "the path is compared as %s", canonical(p.Path))
			}
		}
	}
}

// problems are those of the compiler for all Ingresses, whatever their class.
func (l *linter) problems(in *model.IngressObjects) {
	all := *in
	all.Classes, all.Ingresses, all.Secrets = nil, nil, nil
	by := map[model.ObjectName]*model.Ingress{}
	for _, x := range in.Ingresses {
		y := *x
		y.Class, y.ClassAnnotation, y.TLS = "", "", nil
		all.Ingresses = append(all.Ingresses, &y)
		by[x.ObjectName] = x
	}
	for _, p := range New(Config{Classless: true, Nginx: true}).Compile(&all).Problems {
		x := by[p.Object]
		switch p.Reason {
		case EndpointsMissing, AnnotationInvalid, AnnotationUnsupported:
			continue
		case ServiceNotFound, ServicePortNotFound:
			if len(in.Services) == 0 {
				continue
			}
		}
		if x != nil {
			l.add(x, p.Field, LevelError, "%s: %s", p.Reason, p.Message)
		}
	}
}
