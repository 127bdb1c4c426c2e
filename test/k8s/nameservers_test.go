//go:build k8s

package k8s

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// ConfigMap kube-system/kube-dns leads a zone to a server that is a Pod of another node; created, changed and deleted at
// run time, it holds at once.
func TestDNS_NameServersOfConfigMap_AreUsed(t *testing.T) {
	ns := namespace(t)
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: zone, namespace: %[1]s}
data:
  Corefile: |
    .:5353 {
      hosts {
        192.0.2.77 www.corp.example
      }
    }
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: %[1]s}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: %[2]s, command: [/coredns, -conf, /etc/zone/Corefile], volumeMounts: [{name: zone, mountPath: /etc/zone}]}]
  volumes: [{name: zone, configMap: {name: zone}}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: %[1]s}
spec: {nodeName: n1, terminationGracePeriodSeconds: 0, containers: [{name: c, image: %[2]s, args: [pause]}]}
`, ns, agnhost))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	server := kubectl(t, "-n", ns, "get", "pod", "server", "-o", "jsonpath={.status.podIP}")
	t.Cleanup(func() {
		_, _ = tryKubectl("-n", "kube-system", "delete", "configmap", "kube-dns", "--ignore-not-found")
	})
	set := func(data string) {
		t.Helper()
		apply(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-dns, namespace: kube-system}\ndata:\n"+data)
	}
	answer := func(what, expected string) {
		t.Helper()
		testutil.EventuallyWithin(t, 15*time.Second, what, func() error {
			out, err := fromPod(ns, "client", "dig", "+short", "+tries=1", "+timeout=3", "www.corp.example")
			if err != nil {
				return err
			}
			return want(strings.TrimSpace(out), expected)
		})
	}
	answer("an unknown zone", "")
	set(fmt.Sprintf("  stubDomains: '{\"corp.example\": [\"%s:5353\"]}'\n", server))
	answer("a stub domain whose server is a Pod of another node", "192.0.2.77")
	set("  stubDomains: 'not JSON'\n")
	time.Sleep(time.Second)
	answer("what cannot be read changes nothing", "192.0.2.77")
	set(fmt.Sprintf("  upstreamNameservers: '[\"%s:5353\"]'\n", server))
	answer("the same server for everything", "192.0.2.77")
	if out, err := fromPod(ns, "client", "dig", "+short", "+tries=1", "+timeout=3", "upstream.rig.test"); err != nil ||
		strings.TrimSpace(out) != "" {
		t.Errorf("the node's own server was queried nevertheless: %q, %v", out, err)
	}
	kubectl(t, "-n", "kube-system", "delete", "configmap", "kube-dns")
	answer("gone with the ConfigMap", "")
	testutil.EventuallyWithin(t, 15*time.Second, "the node's own servers again", func() error {
		out, err := fromPod(ns, "client", "dig", "+short", "+tries=1", "+timeout=3", "upstream.rig.test")
		if err != nil {
			return err
		}
		return want(out, outside)
	})
}
