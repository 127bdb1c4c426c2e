//go:build k8s

// Package k8s proves warren on a real Kubernetes: three nodes in network namespaces, no network but warren's.
// `make test-k8s` starts the cluster (rig/) and runs these tests; nothing here leaves the machine.
package k8s

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// The cluster that rig/up.sh makes.
const agnhost = "localhost/agnhost:rig"

var (
	subnet  = cmp.Or(os.Getenv("RIG_NET"), "192.168.87") // as in rig/lib.sh
	outside = subnet + ".200"                            // the outside host, which is also the upstream DNS server

	subnet6  = cmp.Or(os.Getenv("RIG_NET6"), "fd87:")
	outside6 = subnet6 + ":200"
)

var nodes = []string{"n1", "n2", "n3"}

func nodeIP(n string) string  { return subnet + ".1" + n[1:] }
func nodeIP6(n string) string { return subnet6 + ":1" + n[1:] }

// try runs a command in a node ("n1") or on the outside host ("ext").
func try(where string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "rig/in.sh", append([]string{where}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s%s", where, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func run(t *testing.T, where string, args ...string) string {
	t.Helper()
	out, err := try(where, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func tryKubectl(args ...string) (string, error) {
	return try("ext", append([]string{"kubectl"}, args...)...)
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "ext", append([]string{"kubectl"}, args...)...)
}

func applyText(text string) error {
	f, err := os.CreateTemp("", "manifest")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	_, err = tryKubectl("apply", "-f", f.Name())
	return err
}

func apply(t *testing.T, text string) {
	t.Helper()
	if err := applyText(text); err != nil {
		t.Fatal(err)
	}
}

// namespace makes one for the test, removed at its end.
func namespace(t *testing.T) string {
	t.Helper()
	ns := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	kubectl(t, "create", "namespace", ns)
	t.Cleanup(func() { _, _ = tryKubectl("delete", "namespace", ns, "--wait=false") })
	testutil.EventuallyWithin(t, 30*time.Second, "service account", func() error {
		_, err := tryKubectl("-n", ns, "get", "serviceaccount", "default")
		return err
	})
	return ns
}

// onEachNode is a Deployment's worth of agnhost netexec Pods: one on each node, labelled app=name; their names and
// addresses by node.
func onEachNode(t *testing.T, ns, name string) map[string]podInfo {
	t.Helper()
	apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: %[3]s, args: [netexec], readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}}
`, ns, name, agnhost))
	kubectl(t, "-n", ns, "rollout", "status", "daemonset/"+name, "--timeout=90s")
	out := map[string]podInfo{}
	for _, p := range pods(t, ns, "app="+name) {
		out[p.Node] = p
	}
	if len(out) != len(nodes) {
		t.Fatalf("Pods %v; expected one on each node", out)
	}
	return out
}

// deployment makes one named web of agnhost Pods with these arguments (YAML) and waits for it.
func deployment(t *testing.T, ns string, replicas int, args string) {
	t.Helper()
	apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 30
      containers:
      - {name: web, image: %[3]s, args: [%[4]s], readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}}
`, ns, replicas, agnhost, args))
	kubectl(t, "-n", ns, "rollout", "status", "deployment/web", "--timeout=90s")
}

// podInfo has a Pod's first address, and its second one if it has two.
type podInfo struct{ Name, Node, IP, IP6 string }

func pods(t *testing.T, ns, selector string) (out []podInfo) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name, DeletionTimestamp string }
			Spec     struct{ NodeName string }
			Status   struct {
				PodIP, Phase string
				PodIPs       []struct{ IP string }
			}
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "-n", ns, "get", "pods", "-l", selector, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.Metadata.DeletionTimestamp == "" {
			i := podInfo{Name: p.Metadata.Name, Node: p.Spec.NodeName, IP: p.Status.PodIP}
			if len(p.Status.PodIPs) == 2 {
				i.IP6 = p.Status.PodIPs[1].IP
			}
			out = append(out, i)
		}
	}
	return out
}

// fromPod runs a command in a Pod.
func fromPod(ns, pod string, args ...string) (string, error) {
	return tryKubectl(append([]string{"-n", ns, "exec", pod, "--"}, args...)...)
}

func curlArgs(url string, more ...string) []string {
	return append([]string{"curl", "-fsS", "-m", "5"}, append(more, url)...)
}

// hostname queries an agnhost for its name.
func hostname(where, url string, more ...string) (string, error) {
	out, err := try(where, curlArgs(url, more...)...)
	return strings.TrimSpace(out), err
}

func repoFile(path string) string {
	abs, err := filepath.Abs(filepath.Join("../..", path))
	if err != nil {
		panic(err)
	}
	return abs
}

// deploy is what a newcomer does: a label where the cluster has none, and one apply.
func deploy() error {
	out, err := tryKubectl("get", "nodes")
	if err != nil || !strings.Contains(out, "NotReady") {
		return fmt.Errorf("the nodes must not be Ready before they have a network: %w\n%s", err, out)
	}
	if _, err := tryKubectl("label", "node", "n1", "node-role.kubernetes.io/control-plane=", "--overwrite"); err != nil {
		return err
	}
	if _, err := tryKubectl("apply", "-f", repoFile("deploy/kubeadm/warren.yaml")); err != nil {
		return err
	}
	_, err = tryKubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
	return err
}

func TestMain(m *testing.M) {
	if config := os.Getenv(probeEnv); config != "" {
		os.Exit(probeMain(config))
	}
	if os.Getenv("WARREN_K8S_MIGRATE") != "" {
		if out, err := shell("rig/reference.sh", "flannel", "proxy", "dns"); err != nil {
			fmt.Fprintln(os.Stderr, "reference network:", err, out)
			os.Exit(1)
		}
	} else if os.Getenv("WARREN_K8S_DEPLOYED") == "" {
		start := time.Now()
		if err := deploy(); err != nil {
			fmt.Fprintln(os.Stderr, "deploy:", err)
			for _, a := range [][]string{{"get", "pods", "-A", "-o", "wide"}, {"get", "events", "-A"},
				{"-n", "warren-system", "describe", "pods"}} {
				out, _ := tryKubectl(a...)
				fmt.Fprintln(os.Stderr, out)
			}
			os.Exit(1)
		}
		fmt.Printf("one apply made %d nodes Ready after %.1f s\n", len(nodes), time.Since(start).Seconds())
	}
	os.Exit(m.Run())
}

var errWrong = errors.New("wrong answer")

func want(got, expected string) error {
	if strings.TrimSpace(got) != expected {
		return fmt.Errorf("%w: %q, expected %q", errWrong, got, expected)
	}
	return nil
}

// shell runs a command in the machine's own namespaces, for the switch between the nodes.
func shell(args ...string) (string, error) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	return string(out), err
}
