//go:build k8s

package k8s

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// cniCall runs the real plugin on a node with the real configuration, as a runtime does; prev is the result of an ADD
// for a CHECK, else "".
func cniCall(node, command, container, netns, prev string) (string, error) {
	filter := `.plugins[0] + {name: .name, cniVersion: .cniVersion}`
	if prev != "" {
		filter += " + {prevResult: " + prev + "}"
	}
	return try(node, "env", "CNI_COMMAND="+command, "CNI_CONTAINERID="+container, "CNI_NETNS="+netns, "CNI_IFNAME=eth0",
		"CNI_PATH=/opt/cni/bin",
		"sh", "-c", `jq "$1" /etc/cni/net.d/*warren*.conflist | /opt/cni/bin/warren-cni`, "call", filter)
}

// podNetns makes a network namespace on a node as a runtime does.
func podNetns(t *testing.T, node, name string) (path string) {
	t.Helper()
	run(t, node, "ip", "netns", "add", name)
	t.Cleanup(func() { _, _ = try(node, "ip", "netns", "del", name) })
	return "/run/netns/" + name
}

// attached are the Pods that a node's agent has records of, by container id, with their addresses.
func attached(node string) (map[string][]string, error) {
	out, err := try(node, "curl", "-fsS", "-m", "5", "--unix-socket", "/run/warren/agent.sock", "http://warren/v1/pods")
	if err != nil {
		return nil, err
	}
	var list []struct {
		ContainerID string   `json:"containerID"`
		Addresses   []string `json:"addresses"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	m := map[string][]string{}
	for _, p := range list {
		m[p.ContainerID] = p.Addresses
	}
	return m, nil
}

// What a kubelet may do to the plugin: DEL of what never was, ADD twice, CHECK, DEL twice, DEL without the namespace.
func TestCNI_PluginCalls_FollowTheSpecification(t *testing.T) {
	netns := podNetns(t, "n2", "calls")
	call := func(command, ns, prev string) (string, error) { return cniCall("n2", command, "calls", ns, prev) }
	if out, err := call("DEL", netns, ""); err != nil {
		t.Errorf("DEL before ADD: %v %s", err, out)
	}
	first, err := call("ADD", netns, "")
	if err != nil {
		t.Fatal(err)
	}
	var result struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal([]byte(first), &result); err != nil || len(result.IPs) != 2 {
		t.Fatalf("ADD of both families: %v %s", err, first)
	}
	if _, err := call("ADD", netns, ""); err == nil || !strings.Contains(err.Error(), "attached already") {
		t.Errorf("second ADD: %v; expected an error that it is attached", err)
	}
	if _, err := call("CHECK", netns, first); err != nil {
		t.Errorf("CHECK after the second ADD: %v", err)
	}
	for _, ip := range result.IPs {
		addr, _, _ := strings.Cut(ip.Address, "/")
		run(t, "n2", "ping", "-c", "1", "-W", "3", addr)
	}
	run(t, "n2", "ip", "netns", "del", "calls")
	for _, ns := range []string{netns, netns, ""} {
		if out, err := call("DEL", ns, ""); err != nil {
			t.Errorf("DEL with namespace %q: %v %s", ns, err, out)
		}
	}
	if have, err := attached("n2"); err != nil || have["calls"] != nil {
		t.Errorf("%v %v; expected nothing of the attachment", have, err)
	}
}
