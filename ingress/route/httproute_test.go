package route

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestHTTPRoutes_Ingresses_AreConverted(t *testing.T) {
	in := parse(t, service("default/a", "10.0.0.1"),
		annotated(ingress("default/main", "tls: [{hosts: [x.test]}]", "x.test /p Prefix a"), "ssl-redirect: true", "strip-prefix: true",
			"proxy-read-timeout: 5", "limit-rps: 5"),
		annotated(ingress("default/canary", "", "x.test /p Prefix b"), "canary: true", "canary-weight: 20", "canary-by-header: X-C"),
		strings.Replace(ingress("default/fallback", "defaultBackend: {service: {name: a, port: {name: http}}}"), "---", "", 1),
		ingress("default/unknown", "defaultBackend: {service: {name: nosuch, port: {name: http}}}"))
	routes, findings := HTTPRoutes(in, "infra/gw")
	var got []string
	for _, r := range routes {
		raw, err := yaml.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(raw))
	}
	const head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: "
	want := []string{head + `main
  namespace: default
spec:
  hostnames:
  - x.test
  parentRefs:
  - name: gw
    namespace: infra
    sectionName: https
  rules:
  - backendRefs:
    - name: b
      port: 80
    filters:
    - type: URLRewrite
      urlRewrite:
        path:
          replacePrefixMatch: /
          type: ReplacePrefixMatch
    matches:
    - headers:
      - name: X-C
        type: Exact
        value: always
      path:
        type: PathPrefix
        value: /p
    timeouts:
      backendRequest: 5s
  - backendRefs:
    - name: a
      port: 80
      weight: 80
    - name: b
      port: 80
      weight: 20
    filters:
    - type: URLRewrite
      urlRewrite:
        path:
          replacePrefixMatch: /
          type: ReplacePrefixMatch
    matches:
    - path:
        type: PathPrefix
        value: /p
    timeouts:
      backendRequest: 5s
`, head + `main-redirect
  namespace: default
spec:
  hostnames:
  - x.test
  parentRefs:
  - name: gw
    namespace: infra
    sectionName: http
  rules:
  - filters:
    - requestRedirect:
        scheme: https
        statusCode: 301
      type: RequestRedirect
`, head + `fallback
  namespace: default
spec:
  parentRefs:
  - name: gw
    namespace: infra
  rules:
  - backendRefs:
    - name: a
      port: 80
`, head + `unknown
  namespace: default
spec:
  parentRefs:
  - name: gw
    namespace: infra
  rules:
  - {}
`}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
	var messages []string
	for _, f := range findings {
		messages = append(messages, f.Object+" "+f.Message)
	}
	wantFindings := []string{"Ingress default/main has no equivalent in HTTPRoute",
		"Ingress default/unknown port http of Service nosuch: its number is not known; add the Service to the manifests"}
	if d := cmp.Diff(wantFindings, messages); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
}
