//go:build k8s

package k8s

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// hang stops processes of n1, so that their connections stay open without an answer; resume continues them.
// pids is a shell command that prints their ids.
func hang(t *testing.T, pids string) (resume func()) {
	t.Helper()
	run(t, "n1", "sh", "-c", "kill -STOP $("+pids+")")
	done := false
	return func() {
		if !done {
			done = true
			_, _ = try("n1", "sh", "-c", "kill -CONT $("+pids+")")
		}
	}
}

const (
	apiPid  = "cat /run/rig/kube-apiserver.pid"
	etcdPid = "pgrep -f '^[^ ]*warren etcd'" // warren's own
)

// insidePod runs a command in the network namespace of a node's Pod with this address, without asking the API server.
func insidePod(node, addr string, args ...string) (string, error) {
	find := `for n in /run/netns/*; do ip netns exec "${n##*/}" ip -o addr show eth0 2>/dev/null | grep -q " $1/" && found=${n##*/}; done
shift; [ -n "$found" ] || { echo "no Pod has it"; exit 1; }; exec ip netns exec "$found" "$@"`
	return try(node, append([]string{"bash", "-c", find, "inside", addr}, args...)...)
}

// Both stores hang, and an agent is killed: traffic of Pods and Services continues, names resolve, and Pods are attached and
// detached on every node, also by the agent that started from its disk.
func TestStores_BothHang_TrafficContinues(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	ip := nodePortService(t, ns, 30088)
	testutil.EventuallyWithin(t, 30*time.Second, "n2's agent persists the Service", func() error {
		_, err := try("n2", "grep", "-q", ip, "/var/lib/warren/snapshot.json")
		return err
	})
	resumeAPI := hang(t, apiPid)
	defer resumeAPI()
	resumeEtcd := hang(t, etcdPid)
	defer resumeEtcd()
	killAgent(t, "n2")
	agentsReady(t)
	name := "web." + ns + ".svc.cluster.local"
	ways := func() {
		t.Helper()
		for _, n := range nodes {
			for _, url := range []string{httpAt(web["n3"].IP, 8080, "/hostname"), httpAt(web["n1"].IP6, 8080, "/hostname"), "http://" + ip +
				"/hostname"} {
				testutil.EventuallyWithin(t, 30*time.Second, "from the Pod on "+n+" to "+url, func() error {
					_, err := insidePod(n, web[n].IP, curlArgs(url)...)
					return err
				})
			}
			testutil.EventuallyWithin(t, 30*time.Second, "name from the Pod on "+n, func() error {
				out, err := insidePod(n, web[n].IP, "dig", "+short", "+tries=1", "+timeout=2", "@10.43.0.10", name)
				if err != nil {
					return err
				}
				return want(out, ip)
			})
		}
	}
	ways()
	for _, n := range []string{"n2", "n3"} { // n2's agent was restarted, n3's was not
		netns := podNetns(t, n, "away")
		if out, err := cniCall(n, "ADD", "away", netns, ""); err != nil {
			t.Errorf("ADD on %s: %v %s", n, err, out)
		}
		testutil.EventuallyWithin(t, 30*time.Second, "the new Pod on "+n+" reaches another node's", func() error {
			_, err := try(n, append([]string{"ip", "netns", "exec", "away"}, curlArgs("http://"+web["n1"].IP+":8080/hostname")...)...)
			return err
		})
		if out, err := cniCall(n, "DEL", "away", netns, ""); err != nil {
			t.Errorf("DEL on %s: %v %s", n, err, out)
		}
	}
	ways()
	resumeEtcd()
	resumeAPI()
	testutil.EventuallyWithin(t, 60*time.Second, "the API server", func() error {
		_,
			err := tryKubectl("get", "--raw", "/readyz")
		return err
	})
	everythingWorks(t, ns, "web")
}

// The agents' service account is deleted and recreated, which revokes every token, and the API server restarts: agents continue
// with the last state, report that they are refused, and follow again as soon as their file has a valid token.
func TestStores_TokenRevoked_AgentsRecover(t *testing.T) {
	ns := namespace(t)
	onEachNode(t, ns, "web")
	ip := nodePortService(t, ns, 30089)
	uid := ""
	for _, p := range pods(t, "warren-system", "app.kubernetes.io/component=agent") {
		if p.Node == "n2" {
			uid = kubectl(t, "-n", "warren-system", "get", "pod", p.Name, "-o", "jsonpath={.metadata.uid}")
		}
	}
	kubectl(t, "-n", "warren-system", "delete", "serviceaccount", "warren-agent")
	kubectl(t, "apply", "-f", repoFile("deploy/kubeadm/warren.yaml"))
	healed := false
	heal := func() { // the kubelets keep their old tokens for an hour; new Pods get new ones
		if !healed {
			healed = true
			kubectl(t, "-n", "warren-system", "rollout", "restart", "daemonset/warren")
			kubectl(t, "-n", "warren-system", "rollout", "status", "daemonset/warren", "--timeout=120s")
		}
	}
	defer heal()
	run(t, "n1", "sh", "-c", "kill -9 $("+apiPid+")")
	testutil.EventuallyWithin(t, 60*time.Second, "another API server", func() error {
		_,
			err := tryKubectl("get", "--raw", "/readyz")
		return err
	})
	for _, n := range nodes {
		testutil.EventuallyWithin(t, 60*time.Second, "the agent of "+n+" reports that it is refused", func() error {
			out, err := try(n, "curl", "-fsS", "--unix-socket", "/run/warren/agent.sock", "http://warren/v1/status")
			if err == nil && !strings.Contains(out, "the API server is unreachable: ") {
				err = fmt.Errorf("%s", out)
			}
			return err
		})
	}
	apply(t, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: second, namespace: %s}\nspec: {selector: {app: web}, ports: "+
		"[{port: 80, targetPort: 8080}]}\n", ns))
	second := kubectl(t, "-n", ns, "get", "service", "second", "-o", "jsonpath={.spec.clusterIP}")
	if _, err := hostname("n2", "http://"+ip+"/hostname"); err != nil {
		t.Errorf("what the node knows no longer works: %v", err)
	}
	token := kubectl(t, "-n", "warren-system", "create", "token", "warren-agent", "--duration=10m")
	run(t, "n2", "sh", "-c", `printf %s "$1" >$(ls /var/lib/kubelet/pods/`+uid+
		`/volumes/kubernetes.io~projected/kube-api-access-*/..data/token)`, "write", token)
	testutil.EventuallyWithin(t, 60*time.Second, "the node with the new token follows", func() error {
		_, err := hostname("n2", "http://"+second+"/hostname")
		return err
	})
	heal()
	agentsReady(t)
	for _, n := range nodes {
		testutil.EventuallyWithin(t, 60*time.Second, n+" follows", func() error {
			_,
				err := hostname(n, "http://"+second+"/hostname")
			return err
		})
	}
}

// A range of Services comes and goes while everything runs.
func TestStores_ServiceRangeAdded_AgentsFollow(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	apply(t, "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.44.0.0/24, \"fd44::/112\"]}\n")
	defer func() { _, _ = tryKubectl("delete", "servicecidr", "more", "--ignore-not-found", "--wait=false") }()
	routes := func(yes bool) {
		t.Helper()
		for _, n := range nodes {
			for _, r := range [][]string{{"-4", "10.44.0.0/24"}, {"-6", "fd44::/112"}} {
				testutil.EventuallyWithin(t, 30*time.Second, fmt.Sprintf("route to %s on %s: %v", r[1], n, yes), func() error {
					out, err := try(n, "ip", r[0], "route", "show", "table", "all", r[1])
					if err == nil && strings.Contains(out, "warren0") != yes {
						err = fmt.Errorf("%q", out)
					}
					return err
				})
			}
		}
	}
	testutil.EventuallyWithin(t, 30*time.Second, "Ready", func() error {
		out, err := tryKubectl("get", "servicecidr", "more", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err != nil {
			return err
		}
		return want(out, "True")
	})
	routes(true)
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: far, namespace: %s}
spec: {ipFamilyPolicy: RequireDualStack, clusterIP: 10.44.0.20, clusterIPs: [10.44.0.20, "fd44::20"], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`, ns))
	for _, n := range nodes {
		for _, ip := range []string{"10.44.0.20", "fd44::20"} {
			testutil.EventuallyWithin(t, 15*time.Second, ip+" from the Pod on "+n, func() error {
				_, err := fromPod(ns, web[n].Name, curlArgs(httpAt(ip, 80, "/hostname"))...)
				return err
			})
			testutil.EventuallyWithin(t, 15*time.Second, ip+" from "+n,
				func() error { _, err := hostname(n, httpAt(ip, 80, "/hostname")); return err })
		}
	}
	kubectl(t, "-n", ns, "delete", "service", "far")
	kubectl(t, "delete", "servicecidr", "more", "--timeout=60s")
	routes(false)
}

// A Node that is being deleted takes no new connections of load balancers: 10256/healthz fails, /livez does not, and
// existing connections continue.
func TestNodes_BeingDeleted_HealthzFails(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	code := func(path string) (string, error) {
		return try("n3", "curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:10256"+path)
	}
	says := func(path, status string) {
		t.Helper()
		testutil.EventuallyWithin(t, 30*time.Second, path+" returns "+status, func() error {
			out, err := code(path)
			if err != nil {
				return err
			}
			return want(out, status)
		})
	}
	says("/healthz", "200")
	kubectl(t, "patch", "node", "n3", "--type=merge", "-p", `{"metadata":{"finalizers":["warren.dev/test"]}}`)
	release := func() {
		_, _ = tryKubectl("patch", "node", "n3", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	}
	defer release()
	kubectl(t, "delete", "node", "n3", "--wait=false")
	says("/healthz", "503")
	says("/livez", "200")
	if _, err := fromPod(ns, web["n1"].Name, curlArgs("http://"+web["n3"].IP+":8080/hostname")...); err != nil {
		t.Errorf("the Pod of a node that is being deleted: %v", err)
	}
	release()
	testutil.EventuallyWithin(t, 30*time.Second, "the Node is gone", func() error {
		out, err := tryKubectl("get", "node", "n3", "--ignore-not-found")
		if err != nil {
			return err
		}
		return want(out, "")
	})
	run(t, "n3", "sh", "-c", "kill $(cat /run/rig/kubelet.pid)") // registers when it starts
	testutil.EventuallyWithin(t, 90*time.Second, "the Node is back", func() error { return nodeReady("n3") })
	says("/healthz", "200")
	agentsReady(t)
}

// A second machine that calls itself n2 while the real one lives is refused with a reason; it claims nothing, and the real
// one notices nothing.
func TestNodes_TwoMachinesOneName_SecondIsRefused(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	wait := stream(ns, web["n1"].Name, web["n2"].IP, 8080, 6)
	before := agentStatus(t, "n2")
	dir := t.TempDir()
	var secret struct{ Data map[string]string }
	if err := json.Unmarshal([]byte(kubectl(t, "-n", "warren-system", "get", "secret", "warren-etcd-client", "-o", "json")),
		&secret); err != nil {
		t.Fatal(err)
	}
	for name, v := range secret.Data {
		raw, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	plug := exec.Command("bash", "-c", `. rig/lib.sh; plug_node x`)
	if out, err := plug.CombinedOutput(); err != nil {
		t.Fatalf("a third machine: %v %s", err, out)
	}
	defer func() { _, _ = shell("ip", "netns", "del", "wk-x") }()
	agent := exec.Command("ip", "netns", "exec", "wk-x", repoFile("bin/warren"), "agent", "--node-name=n2", "--etcd-endpoints=https://"+
		nodeIP("n1")+":52379",
		"--etcd-ca-file="+at("ca.crt"), "--etcd-cert-file="+at("tls.crt"), "--etcd-key-file="+at("tls.key"), "--state-dir="+at("state"),
		"--run-dir="+at("run"), "--uapi-dir="+at("uapi"), "--cni-conf-dir=")
	log := at("log")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	agent.Stdout, agent.Stderr = f, f
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = agent.Process.Signal(syscall.SIGTERM)
		_ = agent.Wait()
	}()
	testutil.EventuallyWithin(t, 60*time.Second, "a refusal with a reason", func() error {
		raw, err := os.ReadFile(log)
		if err == nil && !strings.Contains(string(raw), `belongs to another machine that is alive`) {
			err = fmt.Errorf("%s", raw)
		}
		return err
	})
	if err := wait(); err != nil {
		t.Errorf("a connection of the real n2 broke: %v", err)
	}
	if raw, err := os.ReadFile(log); err != nil || strings.Contains(string(raw), "msg=claimed") ||
		strings.Contains(string(raw), `"claimed"`) {
		t.Errorf("the second machine took Pod CIDRs: %v\n%s", err, raw)
	}
	if out, _ := shell("ip", "-n", "wk-x", "-o", "link", "show"); strings.Contains(out, "warren0") {
		t.Errorf("the second machine has a tunnel: %s", out)
	}
	if after := agentStatus(t, "n2"); !after.Ready || !slices.Equal(after.PodCIDRs, before.PodCIDRs) || len(after.Problems) > 0 {
		t.Errorf("n2 is %+v, was %+v", after, before)
	}
}
