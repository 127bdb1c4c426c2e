//go:build k8s

package k8s

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// From a bridge plugin, kube-proxy and CoreDNS to warren, as docs/kubernetes.md has it, without a moment in which Pods of
// the old network lose those of the new one. hack/test-k8s.sh runs it on a cluster of its own.
func TestMigration(t *testing.T) {
	if os.Getenv("WARREN_K8S_MIGRATE") == "" {
		t.Fatal("this test wants a cluster of its own that has another network: hack/test-k8s.sh makes one")
	}
	ns := namespace(t)
	old := onEachNode(t, ns, "old")
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: old, namespace: %s}
spec: {type: NodePort, selector: {app: old}, ports: [{port: 80, targetPort: 8080, nodePort: 30090}]}
`, ns))
	reachPods := func(when string, groups ...map[string]podInfo) {
		t.Helper()
		for _, a := range groups {
			for _, b := range groups {
				for _, from := range nodes {
					for _, to := range nodes {
						eventually(t, 20*time.Second, when+": "+a[from].Name+" on "+from+" to "+b[to].Name+" on "+to, func() error {
							_, err := fromPod(ns, a[from].Name, curlArgs("http://"+b[to].IP+":8080/hostname")...)
							return err
						})
					}
				}
			}
		}
	}
	reachAll := func(when string, groups ...map[string]podInfo) {
		t.Helper()
		reachPods(when, groups...)
		for _, a := range groups {
			for _, from := range nodes {
				eventually(t, 20*time.Second, when+": Service by name from "+from, func() error {
					_, err := fromPod(ns, a[from].Name, curlArgs("http://old/hostname")...)
					return err
				})
			}
		}
		for _, n := range nodes {
			eventually(t, 20*time.Second, when+": node port of "+n, func() error {
				_, err := hostname("ext", "http://"+nodeIP(n)+":30090/hostname")
				return err
			})
		}
	}
	reachAll("before", old)

	kubectl(t, "label", "node", "n1", "node-role.kubernetes.io/control-plane=", "--overwrite")
	kubectl(t, "apply", "-f", repoFile("deploy/kubeadm/warren.yaml"))
	eventually(t, 60*time.Second, "agents", func() error {
		_, err := tryKubectl("-n", "warren-system", "rollout", "status", "daemonset/warren", "--timeout=60s")
		return err
	})
	agentsReady(t)
	fresh := onEachNode(t, ns, "fresh")
	for _, n := range nodes {
		for _, o := range old {
			if fresh[n].IP == o.IP {
				t.Errorf("%s was given %s, which %s has", fresh[n].Name, o.IP, o.Name)
			}
		}
		if cidr := kubectl(t, "get", "node", n, "-o", "jsonpath={.spec.podCIDR}"); !strings.HasPrefix(fresh[n].IP, strings.TrimSuffix(cidr, "0/24")) {
			t.Errorf("%s on %s: %s is not in %s", fresh[n].Name, n, fresh[n].IP, cidr)
		}
	}
	reachPods("beside the old network, with kube-proxy", old, fresh)

	for _, n := range nodes {
		run(t, n, "sh", "-c", "p=$(cat /run/rig/kube-proxy.pid); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.05; done; kube-proxy --cleanup --config $RIG_STATE/"+n+"/kube-proxy.yaml")
	}
	reachAll("without kube-proxy", old, fresh)

	if ip := kubectl(t, "-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.selector}"); !strings.Contains(ip, "kube-dns") {
		t.Errorf("kube-dns was taken from CoreDNS without being asked: selector %s", ip)
	}
	kubectl(t, "-n", "warren-system", "patch", "configmap", "warren-config", "--type=merge", "-p", `{"data":{"config.yaml":"dns:\n  addresses: [10.43.0.10]\n"}}`)
	kubectl(t, "-n", "warren-system", "rollout", "restart", "daemonset/warren")
	kubectl(t, "-n", "warren-system", "rollout", "status", "daemonset/warren", "--timeout=120s")
	kubectl(t, "-n", "kube-system", "delete", "deployment", "coredns")
	reachAll("names from warren", old, fresh)

	for _, n := range nodes {
		run(t, n, "rm", "-f", "/etc/cni/net.d/10-reference.conflist")
	}
	kubectl(t, "-n", ns, "rollout", "restart", "daemonset/old")
	kubectl(t, "-n", ns, "rollout", "status", "daemonset/old", "--timeout=120s")
	for _, n := range nodes {
		run(t, n, "sh", "-c", "ip link del cni0; nft delete table ip rig-masq; true")
		for _, m := range nodes {
			if m != n {
				run(t, n, "sh", "-c", "ip route del $(ip route show | grep 'via "+nodeIP(m)+" ' | head -1) || true")
			}
		}
	}
	old = map[string]podInfo{}
	for _, p := range pods(t, ns, "app=old") {
		old[p.Node] = p
	}
	reachAll("after", old, fresh)
	for _, p := range pods(t, "warren-system", "app.kubernetes.io/component=agent") {
		if out, err := tryKubectl("-n", "warren-system", "exec", p.Name, "-c", "agent", "--", "/warren", "doctor"); err != nil {
			t.Errorf("doctor on %s: %v\n%s", p.Node, err, out)
		}
	}
}
