//go:build k8s

package k8s

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// reboot cuts the power of nodes and starts them again.
func reboot(t *testing.T, args ...string) {
	t.Helper()
	start := time.Now()
	if out, err := shell(append([]string{"rig/reboot.sh"}, args...)...); err != nil {
		t.Fatalf("reboot %v: %v\n%s", args, err, out)
	}
	t.Logf("%v booted after %.0f s", args, time.Since(start).Seconds())
}

func nodeReady(n string) error {
	out, err := tryKubectl("get", "node", n, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	if err != nil {
		return err
	}
	return want(out, "True")
}

// settled checks that all Pods of a node are Ready and have exactly the addresses in the agent's records.
func settled(node string) error {
	out, err := tryKubectl("get", "pods", "-A", "--field-selector", "spec.nodeName="+node, "-o", "json")
	if err != nil {
		return err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ HostNetwork bool }
			Status   struct {
				Phase      string
				PodIPs     []struct{ IP string }
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return err
	}
	var pods, kept []string
	for _, p := range list.Items {
		for _, c := range p.Status.Conditions {
			if c.Type == "Ready" && c.Status != "True" {
				return fmt.Errorf("%s is %s and not Ready", p.Metadata.Name, p.Status.Phase)
			}
		}
		for _, a := range p.Status.PodIPs {
			if !p.Spec.HostNetwork {
				pods = append(pods, a.IP)
			}
		}
	}
	have, err := attached(node)
	if err != nil {
		return err
	}
	for _, addrs := range have {
		kept = append(kept, addrs...)
	}
	pods, kept = canonicalSet(strings.Join(pods, " ")), canonicalSet(strings.Join(kept, " "))
	if !slices.Equal(pods, kept) {
		return fmt.Errorf("Pods have %v, the agent keeps %v", pods, kept)
	}
	return nil
}

// everythingWorks: Pods of every node reach those of every node, a Service by its name, and the API server.
func everythingWorks(t *testing.T, ns, service string) {
	t.Helper()
	agentsReady(t)
	for _, n := range nodes {
		testutil.EventuallyWithin(t, 120*time.Second, n+" is Ready", func() error { return nodeReady(n) })
		testutil.EventuallyWithin(t, 120*time.Second, "Pods of "+n+" and their addresses", func() error { return settled(n) })
	}
	for _, from := range pods(t, ns, "app=web") {
		for _, to := range pods(t, ns, "app=web") {
			testutil.EventuallyWithin(t, 30*time.Second, "Pod "+from.Node+" to Pod "+to.Node, func() error {
				for _, ip := range []string{to.IP, to.IP6} {
					if _, err := fromPod(ns, from.Name, curlArgs(httpAt(ip, 8080, "/hostname"))...); err != nil {
						return err
					}
				}
				return nil
			})
		}
		for _, url := range []string{"http://" + service + "/hostname", "https://kubernetes.default.svc/livez"} {
			testutil.EventuallyWithin(t, 30*time.Second, from.Node+" to "+url, func() error {
				_, err := fromPod(ns, from.Name, curlArgs(url, "-k")...)
				return err
			})
		}
	}
}

// A node loses its power: its Pods come back, and no address stays reserved for sandboxes that were never detached.
func TestNodes_Reboot_PodsReturn(t *testing.T) {
	ns := namespace(t)
	onEachNode(t, ns, "web")
	nodePortService(t, ns, 30087)
	netns := podNetns(t, "n3", "ghost")
	if out, err := cniCall("n3", "ADD", "ghost", netns, ""); err != nil {
		t.Fatal(err, out)
	}
	boot := func() string { return kubectl(t, "get", "node", "n3", "-o", "jsonpath={.status.nodeInfo.bootID}") }
	before, status := boot(), agentStatus(t, "n3")
	reboot(t, "n3")
	testutil.EventuallyWithin(t, 60*time.Second, "the kubelet reports a new boot", func() error {
		if boot() == before {
			return fmt.Errorf("boot id %s", before)
		}
		return nil
	})
	everythingWorks(t, ns, "web")
	if have, err := attached("n3"); err != nil || have["ghost"] != nil {
		t.Errorf("%v %v; expected nothing of a sandbox that died with the node", have, err)
	}
	if out, err := cniCall("n3", "DEL", "ghost", netns, ""); err != nil {
		t.Errorf("DEL after the reboot: %v %s", err, out)
	}
	if after := agentStatus(t, "n3"); !slices.Equal(after.PodCIDRs, status.PodCIDRs) {
		t.Errorf("blocks %v, before the reboot %v", after.PodCIDRs, status.PodCIDRs)
	}
}

// All nodes lose their power at once, the API server and both etcds with them.
func TestNodes_PowerCut_NoAddressIsLost(t *testing.T) {
	ns := namespace(t)
	onEachNode(t, ns, "web")
	nodePortService(t, ns, 30086)
	reboot(t, nodes...)
	testutil.EventuallyWithin(t, 120*time.Second, "the API server", func() error {
		_,
			err := tryKubectl("get", "--raw", "/readyz")
		return err
	})
	everythingWorks(t, ns, "web")
}

// A node comes back under its old name with an empty disk: it is a new machine with new blocks, and its Pods are made
// in those. The old blocks stay claimed until an operator removes the former identity.
func TestNodes_NewDisk_NewIdentity(t *testing.T) {
	ns := namespace(t)
	onEachNode(t, ns, "web")
	nodePortService(t, ns, 30091)
	before := agentStatus(t, "n3")
	reboot(t, "--new-disk", "n3")
	everythingWorks(t, ns, "web")
	after := agentStatus(t, "n3")
	if len(after.PodCIDRs) != 2 || slices.Contains(before.PodCIDRs, after.PodCIDRs[0]) {
		t.Errorf("blocks %v; expected others than the old disk's %v", after.PodCIDRs, before.PodCIDRs)
	}
	released := kubectl(t, "-n", "warren-system", "exec", "ds/warren", "-c", "agent", "--", "/warren", "node", "rm", "--former", "n3")
	for _, b := range before.PodCIDRs {
		if !strings.Contains(released, "released "+b) {
			t.Errorf("warren node rm --former: %q; expected %s", released, b)
		}
	}
	everythingWorks(t, ns, "web")
}

// nodeStatus is what the tests want of `warren status`.
type nodeStatus struct {
	Ready    bool
	PodCIDRs []string
	Problems []string
}

func agentStatus(t *testing.T, node string) (s nodeStatus) {
	t.Helper()
	if err := json.Unmarshal([]byte(run(t, node, "curl", "-fsS", "--unix-socket", "/run/warren/agent.sock", "http://warren/v1/status")),
		&s); err != nil {
		t.Fatal(err)
	}
	return s
}
