package route

import (
	"fmt"
	"strings"
	"testing"
)

func TestLint_EachDifference_IsReportedWithItsField(t *testing.T) {
	for _, c := range []struct {
		name  string
		level Level
		in    string
		want  string // part of field and message; "": no finding
	}{
		{"nothing", "", ingress("default/in", "", "x.test /a Prefix a"), ""},
		{"same", "", nginx(ingress("default/in", "", "x.test / Prefix a"), "enable-cors: true"), ""},
		{"unsupported", LevelError, nginx(ingress("default/in", "", "x.test / Prefix a"), "configuration-snippet: x"),
			"metadata.annotations[nginx.ingress.kubernetes.io/configuration-snippet] text of nginx' configuration"},
		{"invalid", LevelError, nginx(ingress("default/in", "", "x.test / Prefix a"), "proxy-read-timeout: long"), "expected seconds"},
		{"different", LevelChange, nginx(ingress("default/in", "", "x.test / Prefix a"), "backend-protocol: HTTPS"), "are not verified"},
		{"regexp, case", LevelChange, annotated(ingress("default/in", "", "x.test /A ImplementationSpecific a"), "use-regex: true"),
			"spec.rules[0].http.paths[0].path /A is a regular expression: it matches without case"},
		{"regexp of the host", LevelChange, annotated(ingress("default/in", "", "x.test /A ImplementationSpecific a"),
			"use-regex: true") +
			"---\n" + ingress("default/more", "", "x.test /b Exact a"), "/b is a regular expression because of Ingress default/in"},
		{"rewrite implies regexp", LevelChange, nginx(ingress("default/in", "", "x.test /A ImplementationSpecific a"),
			"rewrite-target: /$1"),
			"rewrite-target] implies use-regex"},
		{"slash", LevelChange, ingress("default/in", "", "x.test /dir/ Exact a"), "a request for /dir is redirected to /dir/"},
		{"normalised", LevelChange, ingress("default/in", "", "x.test /%61 Exact a"), "the path is compared as /a"},
		{"redirect by default", LevelChange, ingress("default/in", "tls: [{hosts: [x.test]}]", "x.test / Prefix a"),
			"spec.tls http is redirected"},
		{"host of another namespace", LevelError, ingress("one/in", "", "x.test / Prefix a") + "---\n" +
			ingress("two/in", "ingressClassName: nginx", "x.test /b Prefix a"), "HostConflict"},
		{"resource", LevelError, ingress("default/in", "defaultBackend: {resource: {kind: B, name: b}}"), "BackendResource"},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := Lint(parse(t, c.in))
			found := false
			for _, f := range list {
				found = found || f.Level == c.level && strings.Contains(f.Field+" "+f.Message, c.want)
			}
			if c.want == "" && len(list) > 0 || c.want != "" && !found {
				t.Errorf("findings %+v, expected %q", list, c.want)
			}
		})
	}
	if s := fmt.Sprint(Lint(parse(t, service("default/b", "10.0.0.1"), ingress("default/in", "",
		"x.test / Prefix a")))); !strings.Contains(s,
		"ServiceNotFound") {
		t.Errorf("with Services among the manifests: %s", s)
	}
}
