//go:build k8s

package k8s

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// The migration from flannel (vxlan, the bridge plugin), kube-proxy (nftables) and CoreDNS to warren and back, node by node, as in
// docs/kubernetes.md. Meanwhile probers send requests to Pods, Services, node ports and DNS names four times a second.
// hack/test-k8s.sh runs it on a separate cluster.
func TestMigration_FlannelAndBack_RequestsSucceed(t *testing.T) {
	if os.Getenv("WARREN_K8S_MIGRATE") == "" {
		t.Fatal("this test needs a separate cluster with another network: hack/test-k8s.sh makes one")
	}
	m := &migration{ns: namespace(t), probers: newProbers(), stop: map[string]func(){}}
	t.Cleanup(func() {
		for _, n := range slices.Sorted(maps.Keys(m.stop)) {
			m.stop[n]()
		}
		m.probers.report(t, migrationAllowances())
	})
	before := map[string]string{}
	for _, n := range nodes {
		before[n] = leftOn(t, n)
	}
	m.phase(t, "before")
	m.serve(t)
	m.pods = onEachNode(t, m.ns, "client")
	m.stop["ext"] = m.probers.start(t, "ext", "", m.nodePorts())
	m.probe(t)
	m.reach(t)

	m.there(t)
	m.back(t)

	for _, n := range nodes {
		after := leftOn(t, n)
		lacks := func(all, line string) bool { return !slices.Contains(strings.Split(all, "\n"), line) }
		for _, line := range strings.Split(after, "\n") {
			if lacks(before[n], line) {
				t.Errorf("left on %s: %s", n, line)
			}
		}
		for _, line := range strings.Split(before[n], "\n") {
			if lacks(after, line) {
				t.Errorf("%s no longer has: %s", n, line)
			}
		}
	}
}

// migrationAllowances are the failed requests that each phase tolerates. The numbers are the most that ten runs had
// (docs/kubernetes.md), with a margin of a few requests.
func migrationAllowances() map[string][]allowance {
	const inFlight, kept, names = 4, 6, 12
	out := map[string][]allowance{
		"kube-proxy again": {{"kept", kept}, {"node port of", inFlight}},
	}
	for _, n := range nodes {
		// A connection through a Service lives in the flow table of the proxy that translated it.
		out["kube-proxy off "+n] = []allowance{{"kept", kept}}
		// A request to a node port of one node for a Pod of another may be in flight while the path between the two changes.
		out["agent on "+n] = []allowance{{"node port of", inFlight}}
		// A DNS query to a CoreDNS Pod that ends may remain without an answer, and the resolver does not repeat it in time.
		out[n+" drained"] = []allowance{{"name from", names}}
		// Between the end of its agent and its uninstallation a node has no route to Pods of other nodes.
		out[n+" back on flannel"] = []allowance{{"name from", names}, {"from node " + n, inFlight}}
	}
	return out
}

type migration struct {
	ns      string
	pods    map[string]podInfo // by node: the clients, which serve as well
	service string             // cluster address of `web`
	probers *probers
	stop    map[string]func() // probers by node
}

// serve creates Service web: three Pods with a preStop delay, one on each node if possible.
func (m *migration) serve(t *testing.T) {
	t.Helper()
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: %[1]s}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30090}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: %[1]s}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}}
      containers:
      - name: web
        image: %[2]s
        args: [netexec]
        readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 4}}}
`, m.ns, agnhost))
	kubectl(t, "-n", m.ns, "rollout", "status", "deployment/web", "--timeout=90s")
	m.service = kubectl(t, "-n", m.ns, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
}

func (m *migration) nodePorts() (out []probe) {
	for _, n := range nodes {
		out = append(out, probe{What: "node port of " + n, URL: "http://" + nodeIP(n) + ":30090/hostname"})
	}
	return out
}

// probe starts the probers that do not run: in the client Pod of each node, and on the nodes themselves.
func (m *migration) probe(t *testing.T) {
	t.Helper()
	start := func(key, node, podIP string, list ...probe) {
		if m.stop[key] == nil {
			m.stop[key] = m.probers.start(t, node, podIP, list)
		}
	}
	name := probe{Name: "web." + m.ns + ".svc.cluster.local.", At: "10.43.0.10:53"}
	for _, n := range nodes {
		service := probe{URL: "http://" + m.service + "/hostname"}
		start(n+" node", n, "", service.of("Service from node "+n), name.of("name from node "+n))
		start(n+" Pod", n, m.pods[n].IP, service.of("Service from a Pod on "+n), name.of("name from a Pod on "+n),
			service.kept("Service from a Pod on "+n))
		for _, to := range nodes {
			p := probe{URL: "http://" + m.pods[to].IP + ":8080/hostname"}
			what := "Pod on " + to + " from a Pod on " + n
			start(n+" Pod to "+to, n, m.pods[n].IP, p.of(what), p.kept(what))
		}
	}
}

func (p probe) of(what string) probe { p.What = what; return p }

func (p probe) kept(what string) probe { p.What, p.Kept = what+", kept connection", true; return p }

// quiet stops the probers in the client Pod of a node and those that send requests to it.
func (m *migration) quiet(node string) {
	for key, stop := range m.stop {
		if strings.HasPrefix(key, node+" Pod") || strings.HasSuffix(key, " to "+node) {
			stop()
			delete(m.stop, key)
		}
	}
}

func (m *migration) phase(t *testing.T, name string) {
	t.Helper()
	t.Logf("%s: %s", time.Now().Format("15:04:05"), name)
	m.probers.begin(name)
}

// reach checks every path from every Pod and node, also by name.
func (m *migration) reach(t *testing.T, more ...podInfo) {
	t.Helper()
	all := append(slices.Collect(maps.Values(m.pods)), more...)
	slices.SortFunc(all, func(a, b podInfo) int { return cmp.Compare(a.Name, b.Name) })
	for _, from := range all {
		for _, to := range all {
			testutil.EventuallyWithin(t, 20*time.Second, from.Name+" on "+from.Node+" to "+to.Name+" on "+to.Node, func() error {
				_, err := fromPod(m.ns, from.Name, curlArgs("http://"+to.IP+":8080/hostname")...)
				return err
			})
		}
		testutil.EventuallyWithin(t, 20*time.Second, "Service by name from "+from.Name+" on "+from.Node, func() error {
			_, err := fromPod(m.ns, from.Name, curlArgs("http://web/hostname")...)
			return err
		})
	}
	for _, n := range nodes {
		testutil.EventuallyWithin(t, 20*time.Second, "node port of "+n, func() error {
			_, err := hostname("ext", "http://"+nodeIP(n)+":30090/hostname")
			return err
		})
	}
}

// one creates a Pod on a node.
func (m *migration) one(t *testing.T, name, node string) podInfo {
	t.Helper()
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s}}
spec:
  nodeName: %[3]s
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: %[4]s, args: [netexec]}]
`, m.ns, name, node, agnhost))
	kubectl(t, "-n", m.ns, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
	return pods(t, m.ns, "app="+name)[0]
}

// renew recreates the client Pod of a node.
func (m *migration) renew(t *testing.T, node string) {
	t.Helper()
	m.quiet(node)
	kubectl(t, "-n", m.ns, "delete", "pod", m.pods[node].Name)
	m.findClients(t)
	m.probe(t)
}

// findClients waits for a Ready client on every node.
func (m *migration) findClients(t *testing.T) {
	t.Helper()
	kubectl(t, "-n", m.ns, "rollout", "status", "daemonset/client", "--timeout=90s")
	m.pods = map[string]podInfo{}
	for _, p := range pods(t, m.ns, "app=client") {
		m.pods[p.Node] = p
	}
}

// doctorOn returns the problems and warnings of `warren doctor` on a node, by check.
func doctorOn(t *testing.T, node string) map[string]string {
	t.Helper()
	for _, p := range pods(t, "warren-system", "app.kubernetes.io/component=agent") {
		if p.Node != node {
			continue
		}
		// The doctor exits with an error if it has findings; its output is complete nevertheless.
		raw, failed := tryKubectl("-n", "warren-system", "exec", p.Name, "-c", "agent", "--", "/warren", "doctor", "-o", "json")
		var found []struct{ Check, Level, Text string }
		if err := json.Unmarshal([]byte(raw), &found); err != nil {
			t.Fatalf("doctor on %s: %v: %q: %v", node, err, raw, failed)
		}
		if failed != nil && !slices.ContainsFunc(found, func(f struct{ Check, Level, Text string }) bool { return f.Level == "problem" }) {
			t.Fatalf("doctor on %s: %v", node, failed)
		}
		out := map[string]string{}
		for _, f := range found {
			if f.Level == "problem" || f.Level == "warning" {
				out[f.Check] += f.Level + ": " + f.Text + "\n"
			}
		}
		return out
	}
	t.Fatalf("no agent on %s", node)
	return nil
}

// expectDoctor compares the findings of the doctor on a node with parts of their text by check. Other findings are errors.
func expectDoctor(t *testing.T, when, node string, want map[string]string) {
	t.Helper()
	found := doctorOn(t, node)
	for check, text := range want {
		if !strings.Contains(found[check], text) {
			t.Errorf("%s: doctor on %s reports %q for %s, expected %q", when, node, found[check], check, text)
		}
	}
	for check, text := range found {
		if _, ok := want[check]; !ok {
			t.Errorf("%s: doctor on %s: %s: %s", when, node, check, text)
		}
	}
}

// there migrates to warren.
func (m *migration) there(t *testing.T) {
	m.phase(t, "warren without agents")
	kubectl(t, "label", "node", "n1", "node-role.kubernetes.io/control-plane=", "--overwrite")
	kubectl(t, "label", "node", "--all", "warren.dev/agent=no")
	apply(t, `
apiVersion: v1
kind: Namespace
metadata: {name: warren-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: warren-config, namespace: warren-system}
data: {config.yaml: "dns: {addresses: [10.43.0.10]}"}
`)
	kubectl(t, "apply", "-f", repoFile("deploy/kubeadm/warren.yaml"))
	testutil.EventuallyWithin(t, 60*time.Second, "the objects that agents wait for", func() error {
		_, err := tryKubectl("-n", "warren-system", "get", "configmap/warren-cluster", "secret/warren-etcd-client")
		return err
	})
	var fresh []podInfo
	for _, n := range nodes {
		m.phase(t, "agent on "+n)
		kubectl(t, "label", "node", n, "warren.dev/agent-")
		testutil.EventuallyWithin(t, 60*time.Second, "agent on "+n, func() error {
			for _, p := range pods(t, "warren-system", "app.kubernetes.io/component=agent") {
				if p.Node == n {
					_, err := tryKubectl("-n", "warren-system", "wait", "--for=condition=Ready", "pod/"+p.Name, "--timeout=1s")
					return err
				}
			}
			return errWrong
		})
		p := m.one(t, "fresh-"+n, n)
		cidr := kubectl(t, "get", "node", n, "-o", "jsonpath={.spec.podCIDR}")
		if !strings.HasPrefix(p.IP, strings.TrimSuffix(cidr, "0/24")) || p.IP == m.pods[n].IP {
			t.Errorf("%s on %s has %s; the node's Pod CIDR is %s, the old Pod has %s", p.Name, n, p.IP, cidr, m.pods[n].IP)
		}
		if links := run(t, n, "ip", "-o", "link"); strings.Count(links, "wrn") != 1 {
			t.Errorf("the Pod on %s was not attached by warren:\n%s", n, links)
		}
		fresh = append(fresh, p)
		m.reach(t, fresh...)
		expectDoctor(t, "with flannel and kube-proxy", n, map[string]string{
			"agent": "it serves the Services of this node", "kube-proxy": "kube-proxy's rules are in the kernel",
			"conflist": "10-flannel.conflist configures another network", "other network": "dev cni0"})
	}
	agentsReady(t)
	for _, n := range nodes {
		m.phase(t, "kube-proxy off "+n)
		run(t, n, "sh", "-c", "p=$(cat /run/rig/kube-proxy.pid); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.05; done; kube-proxy "+
			"--cleanup --config $RIG_STATE/"+n+"/kube-proxy.yaml; "+forget)
		m.reach(t, fresh...)
	}
	m.phase(t, "CoreDNS removed")
	if s := kubectl(t, "-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.selector}"); !strings.Contains(s,
		"kube-dns") {
		t.Errorf("kube-dns was taken from CoreDNS without a request: selector %s", s)
	}
	kubectl(t, "-n", "kube-system", "delete", "deployment", "coredns")
	m.reach(t, fresh...)

	m.phase(t, "Pods recreated")
	kubectl(t, "-n", m.ns, "rollout", "restart", "deployment/web")
	kubectl(t, "-n", m.ns, "rollout", "status", "deployment/web", "--timeout=120s")
	for _, n := range nodes {
		m.renew(t, n)
	}

	m.phase(t, "flannel removed")
	for _, n := range nodes {
		run(t, n, "sh", "-c", `p=$(cat /run/rig/flanneld.pid); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.05; done
rm -rf /etc/cni/net.d/10-flannel.conflist /run/flannel /var/lib/cni/networks/cbr0
ip link del cni0; ip link del flannel.1
iptables-save | grep -v -i flannel | iptables-restore`)
	}
	m.reach(t, fresh...)
	for _, n := range nodes {
		expectDoctor(t, "with warren alone", n, nil)
	}
	kubectl(t, "-n", m.ns, "delete", "pod", "-l", "app in (fresh-n1, fresh-n2, fresh-n3)")
}

// back migrates from warren.
func (m *migration) back(t *testing.T) {
	for _, step := range []struct{ phase, what string }{{"CoreDNS again", "dns"}, {"kube-proxy again", "proxy"},
		{"flannel again", "flannel"}} {
		m.phase(t, step.phase)
		if out, err := shell("rig/reference.sh", step.what); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		m.reach(t)
	}
	for _, n := range nodes {
		expectDoctor(t, "back to kube-proxy", n, map[string]string{
			"agent": "it serves the Services of this node", "kube-proxy": "kube-proxy's rules are in the kernel",
			"conflist": "10-flannel.conflist configures another network", "other network": "dev flannel.1"})
	}
	kubectl(t, "apply", "-f", repoFile("deploy/kubeadm/uninstall.yaml"))
	kubectl(t, "-n", "kube-system", "create", "poddisruptionbudget", "coredns", "--selector=k8s-app=kube-dns", "--min-available=1")
	kubectl(t, "-n", m.ns, "create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=2")
	for i := len(nodes) - 1; i >= 0; i-- { // the node of etcd and the controller last
		m.leave(t, nodes[i], nodes[:i])
	}
	m.phase(t, "warren deleted")
	kubectl(t, "delete", "-f", repoFile("deploy/kubeadm/warren.yaml"), "-f", repoFile("deploy/kubeadm/uninstall.yaml"), "--timeout=120s")
	run(t, "n1", "rm", "-r", "/var/lib/warren-etcd")
	kubectl(t, "label", "node", "--all", "warren.dev/agent-")
	m.reach(t)
}

// forget deletes conntrack entries of DNS queries: a query from a port that was used before would still go to the former server.
const forget = "conntrack -D -p udp --orig-dst 10.43.0.10 2>/dev/null || true"

// leave migrates a node from warren to flannel; the other nodes still have agents.
func (m *migration) leave(t *testing.T, node string, others []string) {
	m.phase(t, node+" drained")
	kubectl(t, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
	m.phase(t, node+" back on flannel")
	m.quiet(node)
	kubectl(t, "label", "node", node, "warren.dev/agent=no")
	testutil.EventuallyWithin(t, 90*time.Second, "uninstalled on "+node, func() error {
		for _, p := range pods(t, "warren-uninstall", "app.kubernetes.io/component=uninstall") {
			if p.Node == node {
				_, err := tryKubectl("-n", "warren-uninstall", "wait", "--for=condition=Ready", "pod/"+p.Name, "--timeout=1s")
				return err
			}
		}
		return errWrong
	})
	if len(others) > 0 {
		testutil.EventuallyWithin(t, 30*time.Second, "node rm "+node, func() error {
			_, err := tryKubectl("-n", "warren-system", "exec", "ds/warren", "-c", "agent", "--", "/warren", "node", "rm", node)
			return err
		})
	}
	run(t, "ext", "sh", "-c", `kubectl get pods -A --field-selector spec.nodeName=$1 -o go-template='{{range .items}}{{if not .spec.hostNetwork}}{{.metadata.namespace}} {{.metadata.name}}{{"\n"}}{{end}}{{end}}' |
	  while read -r ns pod; do kubectl -n "$ns" delete pod "$pod"; done`, "sh", node)
	run(t, node, "sh", "-c", forget)
	kubectl(t, "uncordon", node)
	m.findClients(t)
	m.probe(t)
	m.reach(t)
}

// leftOn is the network state of a node, which must be the same before and after.
func leftOn(t *testing.T, node string) string {
	t.Helper()
	return run(t, node, "sh", "-c", `echo "links:"; ip -o link | awk '{print $2}' | grep -v -E '^(veth|lo:|cni0)' | sort
echo "rules:"; ip rule; ip -6 rule
echo "routes:"
ip route show table main | grep -v 'dev cni0' | sort
ip route show table all | grep -E 'proto 119|warren|table 1[0-9][0-9]'
ip -6 route show table all | grep -E 'proto 119|warren'
echo "chains:"
nft list chains | grep -E '^table|chain' |
  grep -v -E 'chain (PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING|CNI-)|/(tcp|udp)/' | sort
echo "sysctls:"; sysctl -a 2>/dev/null | grep -E '^net\.ipv[46]\.(ip_forward|ip_local_reserved_ports|conf\.(all|default|eth0)\.)' | sort
echo "ports:"
ss -tlnH | awk '{print $4}' | grep -E ':(9551|9552|10249|10256|51820|5238[01]|52379|53)$' | sort
ss -ulnH | awk '{print $4}' | grep -E ':(51820|53)$' | sort
echo "files:"
ls -d /etc/cni/net.d/* /opt/cni/bin/*warren* /run/*warren* /var/lib/*warren* /run/wireguard /var/lib/cni/results/warren* 2>/dev/null
true`)
}
