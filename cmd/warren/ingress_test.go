package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// warren ingress lint reads a file with objects of other kinds, prints a line for each finding, and fails if one is an error.
func TestIngressLint_Manifests_FindingsArePrinted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.yaml")
	const manifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, annotations: {nginx.ingress.kubernetes.io/ANNOTATION}}
spec: {rules: [{host: x.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}]}}]}
`
	for annotation, c := range map[string]struct {
		fails bool
		want  string
	}{
		`enable-cors: "true"`:       {false, "1 Ingresses, 0 findings"},
		`backend-protocol: "HTTPS"`: {false, "change  Ingress default/web  metadata.annotations[nginx.ingress.kubernetes.io/backend-protocol]"},
		`server-snippet: "x"`:       {true, "error  Ingress default/web  metadata.annotations[nginx.ingress.kubernetes.io/server-snippet]"},
	} {
		if err := os.WriteFile(file, []byte(strings.Replace(manifest, "ANNOTATION", annotation, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		r := root()
		r.SetArgs([]string{"ingress", "lint", "-f", file})
		r.SetOut(&out)
		r.SetErr(&out)
		if err := r.Execute(); (err != nil) != c.fails || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: %v\n%s", annotation, err, out.String())
		}
	}
}

// warren ingress lint -o httproute prints HTTPRoutes, and what has no equivalent.
func TestIngressLint_HTTPRoute_IsPrinted(t *testing.T) {
	const manifest = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, annotations: {warren.dev/enable-cors: "true"}}
spec: {rules: [{host: x.test, http: {paths: [{path: /a, pathType: Exact, backend: {service: {name: a, port: {number: 80}}}}]}}]}
`
	var out, errOut strings.Builder
	r := root()
	r.SetArgs([]string{"ingress", "lint", "-f", "-", "-o", "httproute", "--gateway", "infra/gw"})
	r.SetIn(strings.NewReader(manifest))
	r.SetOut(&out)
	r.SetErr(&errOut)
	err := r.Execute()
	for _, want := range []string{"kind: HTTPRoute", "namespace: infra", "value: /a", "type: Exact"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	if err == nil || !strings.Contains(errOut.String(), "enable-cors") {
		t.Errorf("%v, standard error %q", err, errOut.String())
	}
}

// Invalid flags of warren ingress are all reported, with flag, value and what was expected.
func TestIngress_InvalidFlags_AllAreReported(t *testing.T) {
	r := root()
	r.SetArgs([]string{"ingress", "--trusted-proxies", "x", "--default-certificate", "y", "--balancing", "z", "--access-log-sample", "0"})
	err := r.Execute()
	for _, want := range []string{`--trusted-proxies "x"`, `--default-certificate "y"`, `--balancing "z"`, "--access-log-sample 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}
