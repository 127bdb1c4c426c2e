//go:build k8s

package k8s

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// The manifest serves Ingresses at an address of a pool: by host and path, with TLS, with a status, with Events for problems, and without
// a failed request while Pods of the backend and of the ingress are replaced.
func TestIngress_Manifest_ServesAndReplacesWithoutFailures(t *testing.T) {
	ns := namespace(t)
	apply(t, fmt.Sprintf("apiVersion: warren.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: ingress}\nspec: {addresses: [%s.230/32], "+
		"namespaces: [warren-ingress]}\n", subnet))
	t.Cleanup(func() { _, _ = tryKubectl("delete", "addresspool", "ingress") })
	kubectl(t, "apply", "-f", repoFile("deploy/kubeadm/ingress.yaml"))
	t.Cleanup(func() { _, _ = tryKubectl("delete", "-f", repoFile("deploy/kubeadm/ingress.yaml"), "--wait=false") })
	kubectl(t, "-n", "warren-ingress", "rollout", "status", "daemonset/warren-ingress", "--timeout=120s")
	address := subnet + ".230"

	deployment(t, ns, 3, `netexec, --delay-shutdown, "10"`)
	secret := testutil.TLSSecret(t, ns+"/web-tls", "web.test")
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: %[1]s}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: %[1]s}
spec:
  ingressClassName: warren
  tls: [{hosts: [web.test], secretName: web-tls}]
  rules:
  - host: web.test
    http:
      paths:
      - {path: /hostname, pathType: Exact, backend: {service: {name: web, port: {name: http}}}}
      - {path: /clientip, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: wrong, namespace: %[1]s}
spec:
  ingressClassName: warren
  rules: [{host: wrong.test, http: {paths: [{path: /, pathType: Prefix, backend: {resource: {kind: Bucket, name: b}}}]}}]
---
`, ns)+secret)
	ca := certificateFile(t, secret)
	call := func(url string) (string, error) {
		out, err := try("ext", "curl", "-sS", "-m", "5", "--cacert", ca, "-w", "%{http_code}", "--connect-to", "web.test::"+address+":",
			url)
		return strings.TrimSpace(out), err
	}
	for url, wants := range map[string]string{"http://web.test/hostname": "200", "https://web.test/hostname": "200",
		"http://web.test/other": "404"} {
		testutil.EventuallyWithin(t, 30*time.Second, url, func() error {
			out, err := call(url)
			if err == nil && (!strings.HasSuffix(out, wants) || wants == "200" && !strings.HasPrefix(out, "web-")) {
				err = fmt.Errorf("%w: %s", errWrong, out)
			}
			return err
		})
	}
	testutil.EventuallyWithin(t, 15*time.Second, "the status", func() error {
		out, err := tryKubectl("-n", ns, "get", "ingress", "web", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
		if err != nil {
			return err
		}
		return want(out, address)
	})
	testutil.EventuallyWithin(t, 15*time.Second, "the Event", func() error {
		out, err := tryKubectl("-n", ns, "get", "events", "--field-selector", "involvedObject.name=wrong", "-o",
			"jsonpath={.items[*].reason}")
		if err == nil && !strings.Contains(out, "BackendResource") {
			err = errors.New(out)
		}
		return err
	})
	if out := kubectl(t, "-n", "warren-ingress", "exec", "ds/warren-ingress", "--", "/warren", "ingress", "route",
		"http://web.test/hostname"); !strings.Contains(out, ns+"/web") {
		t.Errorf("warren ingress route printed %s", out)
	}
	replaceUnderLoad(t, ns, address)
}

// certificateFile writes the certificate of a Secret's manifest where the outside host reads it.
func certificateFile(t *testing.T, secret string) string {
	t.Helper()
	_, text, _ := strings.Cut(secret, "tls.crt: |\n")
	text, _, _ = strings.Cut(text, "  tls.key")
	f, err := os.CreateTemp("", "ca")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	for line := range strings.Lines(text) {
		if _, err := fmt.Fprintln(f, strings.TrimSpace(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// replaceUnderLoad replaces the Pods of the backend and those of the ingress while requests are sent from outside of the cluster.
func replaceUnderLoad(t *testing.T, ns, address string) {
	t.Helper()
	replaced := filepath.Join(t.TempDir(), "replaced")
	load := background(func() (string, error) {
		return try("ext", "bash", "-c", fmt.Sprintf(`n=0; while [ ! -e %s ]; do
curl -fsS -m 5 --connect-to web.test::%s: http://web.test/hostname >/dev/null || { echo "failed after $n requests" >&2; exit 1; }
n=$((n+1)); done; echo $n`, replaced, address))
	})
	for _, n := range []string{"6", "1", "4"} {
		kubectl(t, "-n", ns, "scale", "deployment/web", "--replicas="+n)
		kubectl(t, "-n", ns, "rollout", "status", "deployment/web", "--timeout=60s")
	}
	kubectl(t, "-n", ns, "rollout", "restart", "deployment/web")
	kubectl(t, "-n", ns, "rollout", "status", "deployment/web", "--timeout=90s")
	kubectl(t, "-n", "warren-ingress", "rollout", "restart", "daemonset/warren-ingress")
	kubectl(t, "-n", "warren-ingress", "rollout", "status", "daemonset/warren-ingress", "--timeout=180s")
	testutil.Must(t, os.WriteFile(replaced, nil, 0o600))
	if err := load(); err != nil {
		t.Errorf("a request failed while Pods were replaced: %v", err)
	}
}
