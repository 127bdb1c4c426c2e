//go:build k8s

package k8s

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// Every Pod reaches every Pod, every node every Pod, every Pod every node, names, the API server and external networks.
func TestTraffic_PodsNodesExternal_AllPaths(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: %s}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
`, ns))
	ok := func(what string, f func() error) {
		t.Helper()
		testutil.EventuallyWithin(t, 15*time.Second, what, f)
	}
	for _, a := range nodes {
		for _, b := range nodes {
			ok("Pod "+a+" to Pod "+b, func() error {
				out, err := fromPod(ns, web[a].Name, curlArgs("http://"+web[b].IP+":8080/clientip")...)
				if err == nil && !strings.HasPrefix(out, web[a].IP+":") {
					err = fmt.Errorf("%s sees %s; expected the Pod's own %s", b, out, web[a].IP)
				}
				return err
			})
			ok("node "+a+" to Pod "+b, func() error {
				out, err := hostname(a, "http://"+web[b].IP+":8080/hostname")
				if err != nil {
					return err
				}
				return want(out, web[b].Name)
			})
			ok("Pod "+a+" to the kubelet of "+b, func() error {
				_, err := fromPod(ns, web[a].Name, "curl", "-sk", "-m", "5", "-o", "/dev/null", "https://"+nodeIP(b)+":10250/healthz")
				return err
			})
			ok("node port of "+b+" from Pod "+a, func() error {
				_, err := fromPod(ns, web[a].Name, curlArgs("http://"+nodeIP(b)+":30080/hostname")...)
				return err
			})
			ok("node port of "+b+" from node "+a, func() error {
				_, err := hostname(a, "http://"+nodeIP(b)+":30080/hostname")
				return err
			})
		}
		ok("localhost node port of "+a, func() error { _, err := hostname(a, "http://127.0.0.1:30080/hostname"); return err })
		ok("node port of "+a+" from outside", func() error {
			_, err := hostname("ext", "http://"+nodeIP(a)+":30080/hostname")
			return err
		})
		ok("Service by name from "+a, func() error {
			_, err := fromPod(ns, web[a].Name, curlArgs("http://web/hostname")...)
			return err
		})
		ok("API server by name from "+a, func() error {
			_, err := fromPod(ns, web[a].Name, "curl", "-fsSk", "-m", "5", "https://kubernetes.default.svc/livez")
			return err
		})
		ok("outside name from "+a, func() error {
			out, err := fromPod(ns, web[a].Name, "dig", "+short", "upstream.rig.test")
			if err != nil {
				return err
			}
			return want(out, outside)
		})
		ok("outside host from "+a, func() error {
			out, err := fromPod(ns, web[a].Name, "dig", "+short", "@"+outside, "upstream.rig.test")
			if err != nil {
				return err
			}
			return want(out, outside)
		})
		ok("getent from "+a, func() error {
			_, err := fromPod(ns, web[a].Name, "getent", "hosts", "web."+ns+".svc.cluster.local")
			return err
		})
		if out, err := tryKubectl("-n", ns, "logs", web[a].Name); err != nil || out == "" {
			t.Errorf("logs of the Pod on %s: %q, %v", a, out, err)
		}
	}
}

// The ports of kube-proxy that tools query.
func TestTraffic_KubeProxyPorts_Answer(t *testing.T) {
	for _, n := range nodes {
		if out := run(t, n, "curl", "-fsS", "http://127.0.0.1:10256/healthz"); !strings.Contains(out, "lastUpdated") ||
			!strings.Contains(out, `"nodeEligible": true`) {
			t.Errorf("healthz of %s: %s", n, out)
		}
		run(t, n, "curl", "-fsS", "http://127.0.0.1:10256/livez")
		if out := run(t, n, "curl", "-fsS", "http://127.0.0.1:10249/proxyMode"); out != "warren" {
			t.Errorf("proxyMode of %s: %q", n, out)
		}
		if out := run(t, n, "curl", "-fsS", "http://127.0.0.1:10249/metrics"); !strings.Contains(out, "warren_ready 1") {
			t.Errorf("metrics of %s lack warren_ready", n)
		}
	}
}

// A Service changes its kind and its ports while clients look.
func TestTraffic_ServiceTypes_Answer(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	client := web["n2"].Name
	svc := func(spec string) {
		t.Helper()
		apply(t, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: %s}\nspec: %s\n", ns, spec))
	}
	get := func(url string) func() error {
		return func() error { _, err := fromPod(ns, client, curlArgs(url)...); return err }
	}
	svc(`{selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}`)
	testutil.EventuallyWithin(t, 10*time.Second, "ClusterIP", get("http://s/hostname"))
	svc(`{selector: {app: web}, ports: [{name: http, port: 81, targetPort: 8080}]}`)
	testutil.EventuallyWithin(t, 10*time.Second, "another port", get("http://s:81/hostname"))
	if err := get("http://s/hostname")(); err == nil {
		t.Error("the old port still answers")
	}
	svc(`{type: NodePort, selector: {app: web}, ports: [{name: http, port: 81, targetPort: 8080, nodePort: 30099}]}`)
	testutil.EventuallyWithin(t, 10*time.Second, "NodePort", func() error {
		_, err := hostname("ext", "http://"+nodeIP("n3")+
			":30099/hostname")
		return err
	})
	svc(`{type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, ports: [{name: http, port: 81, targetPort: 8080, nodePort: 30099}]}`)
	for _, n := range nodes {
		testutil.EventuallyWithin(t, 10*time.Second, "externalTrafficPolicy Local keeps the client's address", func() error {
			out, err := hostname("ext", "http://"+nodeIP(n)+":30099/clientip")
			if err == nil && !strings.HasPrefix(out, outside+":") {
				err = fmt.Errorf("%s sees %s", n, out)
			}
			return err
		})
		testutil.EventuallyWithin(t, 10*time.Second, "and the node's own Pod", func() error {
			out, err := hostname("ext", "http://"+nodeIP(n)+":30099/hostname")
			if err != nil {
				return err
			}
			return want(out, web[n].Name)
		})
	}
	svc(`{type: ClusterIP, internalTrafficPolicy: Local, selector: {app: web}, ports: [{name: http, port: 81, targetPort: 8080}]}`)
	testutil.EventuallyWithin(t, 10*time.Second, "internalTrafficPolicy Local", func() error {
		for range 6 {
			out, err := fromPod(ns, client, curlArgs("http://s:81/hostname")...)
			if err != nil {
				return err
			}
			if err := want(out, client); err != nil {
				return err
			}
		}
		return nil
	})
	if _, err := hostname("ext", "http://"+nodeIP("n3")+":30099/hostname", "--connect-timeout", "1"); err == nil {
		t.Error("the node port still answers")
	}
	svc(`{type: ClusterIP, sessionAffinity: ClientIP, internalTrafficPolicy: Cluster, selector: {app: web}, ports: [{name: http, port: 81, targetPort: 8080}]}`)
	testutil.EventuallyWithin(t, 10*time.Second, "sessionAffinity", func() error {
		first := ""
		for range 8 {
			out, err := fromPod(ns, client, curlArgs("http://s:81/hostname")...)
			if err != nil {
				return err
			}
			if first == "" {
				first = out
			}
			if out != first {
				return fmt.Errorf("%s, then %s", first, out)
			}
		}
		return nil
	})
	kubectl(t, "-n", ns, "delete", "service", "s")
	svc(`{type: ExternalName, externalName: upstream.rig.test}`)
	testutil.EventuallyWithin(t, 10*time.Second, "ExternalName", func() error {
		out, err := fromPod(ns, client, "dig", "+short", "+search", "s")
		if err == nil && !strings.Contains(out, outside) {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
	kubectl(t, "-n", ns, "delete", "service", "s")
	svc(`{clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}`)
	testutil.EventuallyWithin(t, 10*time.Second, "headless", func() error {
		out, err := fromPod(ns, client, "dig", "+short", "+search", "s")
		if n := len(strings.Fields(out)); err == nil && n != len(nodes) {
			err = fmt.Errorf("%d addresses", n)
		}
		return err
	})
}

// No endpoints: refused at once, not a timeout; and a Service that gets its first one works at once.
func TestTraffic_ServiceWithoutEndpoints_Refuses(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	apply(t, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: none, namespace: %s}\nspec: {selector: {app: nothing}, ports: "+
		"[{port: 80, targetPort: 8080}]}\n", ns))
	testutil.EventuallyWithin(t, 10*time.Second, "refused", func() error {
		out, err := fromPod(ns, web["n1"].Name, "sh", "-c", "curl -sS -m 5 http://none/ 2>&1; true")
		if err == nil && !strings.Contains(out, "ouldn't connect") {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
	kubectl(t, "-n", ns, "patch", "service", "none", "-p", `{"spec":{"selector":{"app":"web"}}}`)
	testutil.EventuallyWithin(t, 10*time.Second, "works", func() error {
		_, err := fromPod(ns, web["n1"].Name, curlArgs("http://none/hostname")...)
		return err
	})
}
