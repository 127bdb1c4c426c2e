//go:build k8s

package k8s

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// One apply over a running cluster is harmless, and leaves what the operator wrote.
func TestManifest_AppliedTwice_KeepsAuthority(t *testing.T) {
	before := kubectl(t, "-n", "warren-system", "get", "secret", "warren-etcd-ca", "-o", "jsonpath={.metadata.uid}")
	kubectl(t, "apply", "-f", repoFile("deploy/kubeadm/warren.yaml"))
	kubectl(t, "-n", "warren-system", "rollout", "status", "daemonset/warren", "--timeout=120s")
	if after := kubectl(t, "-n", "warren-system", "get", "secret", "warren-etcd-ca", "-o", "jsonpath={.metadata.uid}"); after != before {
		t.Error("the authority was recreated")
	}
	agentsReady(t)
}

// Each node's block is the one that Kubernetes set aside for it, and the Pods' addresses lie in it.
func TestNodes_PodCIDRs_AreClaimed(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	for _, n := range nodes {
		cidr := kubectl(t, "get", "node", n, "-o", "jsonpath={.spec.podCIDR}")
		prefix := strings.TrimSuffix(cidr, "0/24")
		if !strings.HasPrefix(web[n].IP, prefix) {
			t.Errorf("the Pod on %s has %s, which is not in the node's podCIDR %s", n, web[n].IP, cidr)
		}
	}
}

// Cluster DNS is a Service that tools find, although each node answers it itself.
func TestDNS_ClusterService_ServedByEveryNode(t *testing.T) {
	if ips := kubectl(t, "-n", "kube-system", "get", "service", "kube-dns", "-o",
		"jsonpath={.spec.clusterIPs[*]}"); ips != "10.43.0.10 fd43::a" {
		t.Errorf("kube-dns has %q; expected the kubelets' clusterDNS 10.43.0.10 and fd43::a", ips)
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		testutil.EventuallyWithin(t, 30*time.Second, family+" endpoints", func() error {
			out, err := tryKubectl("-n", "kube-system", "get", "endpointslices", "-l", "kubernetes.io/service-name=kube-dns", "-o",
				`jsonpath={.items[?(@.addressType=="`+family+`")].endpoints[*].addresses[0]}`)
			if n := len(strings.Fields(out)); err == nil && n != len(nodes) {
				err = fmt.Errorf("%d endpoints: %s", n, out)
			}
			return err
		})
	}
	for _, n := range nodes {
		for _, proto := range []string{"+notcp", "+tcp"} {
			for _, server := range []string{"10.43.0.10", "fd43::a"} {
				if out := run(t, n, "dig", "+short", proto, "@"+server, "kubernetes.default.svc.cluster.local"); out != "10.43.0.1" {
					t.Errorf("%s queries %s %s: %q", n, server, proto, out)
				}
			}
		}
	}
}

// A static Pod is attached like any other.
func TestNodes_StaticPod_IsAttached(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	run(t, "n2", "sh", "-c", fmt.Sprintf(
		"cat >/etc/kubernetes/manifests/fixed.yaml <<'Y'\napiVersion: v1\nkind: Pod\nmetadata: {name: fixed, namespace: %s}\nspec: "+
			"{terminationGracePeriodSeconds: 0, containers: [{name: c, image: %q, args: [netexec]}]}\nY", ns, agnhost))
	defer func() { _, _ = try("n2", "rm", "-f", "/etc/kubernetes/manifests/fixed.yaml") }()
	testutil.EventuallyWithin(t, 60*time.Second, "the static Pod", func() error {
		ip, err := tryKubectl("-n", ns, "get", "pod", "fixed-n2", "-o", "jsonpath={.status.podIP}")
		if err != nil || ip == "" {
			return fmt.Errorf("address %q %w", ip, err)
		}
		_, err = fromPod(ns, web["n1"].Name, curlArgs("http://"+ip+":8080/hostname")...)
		return err
	})
}

// A Node object that is deleted and recreated with the same disk keeps its block, and its Pods continue.
func TestNodes_NodeObjectRecreated_KeepsItsBlock(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	block := func() string {
		return run(t, "n3", "curl", "-fsS", "--unix-socket", "/run/warren/agent.sock", "http://warren/v1/status")
	}
	before := cut(block(), `"podCIDRs":[`, "]")
	kubectl(t, "delete", "node", "n3")
	run(t, "n3", "sh", "-c", "kill $(cat /run/rig/kubelet.pid)")
	testutil.EventuallyWithin(t, 90*time.Second, "the node is back and Ready", func() error {
		out, err := tryKubectl("get", "node", "n3", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err != nil {
			return err
		}
		return want(out, "True")
	})
	if after := cut(block(), `"podCIDRs":[`, "]"); after != before {
		t.Errorf("block %s, before %s", after, before)
	}
	kubectl(t, "-n", ns, "rollout", "status", "daemonset/web", "--timeout=90s")
	for _, p := range pods(t, ns, "app=web") {
		testutil.EventuallyWithin(t, 30*time.Second, "Pod on "+p.Node, func() error {
			_, err := fromPod(ns, web["n1"].Name, curlArgs("http://"+p.IP+":8080/hostname")...)
			return err
		})
	}
}

func cut(s, after, before string) string {
	_, s, _ = strings.Cut(s, after)
	s, _, _ = strings.Cut(s, before)
	return s
}

// A drained node gives its Pods away and takes new ones again.
func TestNodes_Drain_PodsMove(t *testing.T) {
	ns := namespace(t)
	deployment(t, ns, 4, "netexec")
	ip := nodePortService(t, ns, 30085)
	kubectl(t, "drain", "n2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--pod-selector=app=web", "--timeout=60s")
	defer func() { _, _ = tryKubectl("uncordon", "n2") }()
	kubectl(t, "-n", ns, "rollout", "status", "deployment/web", "--timeout=90s")
	for range 10 {
		if _, err := hostname("n2", "http://"+ip+"/hostname"); err != nil {
			t.Error(err)
		}
	}
}

// The capabilities of the DaemonSet and the runtime's seccomp profile let the agent have the kernel carry flows inside a node.
func TestOffload_DaemonSetCapabilities_Active(t *testing.T) {
	for _, p := range pods(t, "warren-system", "app.kubernetes.io/component=agent") {
		var status struct{ Offload string }
		out := kubectl(t, "-n", "warren-system", "exec", p.Name, "-c", "agent", "--", "/warren", "status", "-o", "json")
		if err := json.Unmarshal([]byte(out), &status); err != nil || status.Offload != "active" {
			t.Errorf("on %s flows are carried by the %s %v", p.Node, status.Offload, err)
		}
	}
}

// The doctor has nothing to complain about on a node of this cluster.
func TestDoctor_HealthyCluster_NoFindings(t *testing.T) {
	for _, p := range pods(t, "warren-system", "app.kubernetes.io/component=agent") {
		out, err := tryKubectl("-n", "warren-system", "exec", p.Name, "-c", "agent", "--", "/warren", "doctor")
		if err != nil {
			t.Errorf("doctor on %s: %v\n%s", p.Node, err, out)
		}
	}
}
