package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
)

// carriers counts the open flows to an address by what forwards them.
func carriers(t *testing.T, l *Lab, node string, vip netip.Addr) (kernel, agent int) {
	t.Helper()
	var flows []api.Flow
	if err := json.Unmarshal([]byte(sh(t, l, node, l.Exe+" flows -o json")), &flows); err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		switch {
		case f.Service.Addr() != vip || f.State != "tcp-open":
		case f.Offloaded:
			kernel++
		default:
			agent++
		}
	}
	return kernel, agent
}

// toService is a Pod with the address of a Service.
func toService(p *Pod, vip netip.Addr) *Pod {
	c := *p
	c.Addresses = []netip.Addr{vip}
	return &c
}

const iperfPort = "\n  - {name: iperf, port: 5201}"

// invalidDrop is a rule of many firewalls: packets that connection tracking classifies as invalid are dropped.
const invalidDrop = "nft add table inet fw && nft add chain inet fw f '{ type filter hook forward priority 0; }' && nft add rule inet fw " +
	"f ct state invalid counter drop"

// The eBPF program forwards a flow from a Pod through a Service to a Pod of the same node after the agent has opened it. The flow
// continues while the agent is killed, other Services change, and a firewall drops invalid packets. If offload is not possible,
// the agent forwards the flow.
func TestOffload_AgentKilled_StreamContinues(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual, Node: map[string]NodeSpec{"n2": {Agent: map[string]any{"offload": false}}}})
	sh(t, l, "n1", invalidDrop)
	for _, node := range []string{"n1", "n2"} {
		client := labelled(t, l, node, "client"+node, "app=client")
		backend := labelled(t, l, node, "web"+node, "app=web"+node)
		applyYAML(t, l, strings.Replace(web("web"+node, "app: web"+node, ""), "\n  - {name: udp", iperfPort+"\n  - {name: udp", 1))
		for i, vip := range getSvc(t, l, "web"+node).ips(t) {
			mustConnect(t, fromPod(l, client), vip, 7, 7, backend.Name, client.Addresses[i])
			through(t, l, node, client, backend, vip)
		}
	}
}

// through runs a stream while its agent is killed and another Service is created.
func through(t *testing.T, l *Lab, node string, client, backend *Pod, vip netip.Addr) {
	t.Helper()
	inKernel := node == "n1"
	service := fmt.Sprintf(`warren_service_bytes_total{direction="request",service="default/web%s"}`, node)
	before := metric(t, l, node, service)
	s := stream(t, l, client, toService(backend, vip))
	carried := func(what string) {
		t.Helper()
		testutil.Eventually(t, what, func() error {
			kernel, agent := carriers(t, l, node, vip)
			if inKernel != (kernel > 0) || !inKernel && agent == 0 {
				return fmt.Errorf("%d flows carried by the kernel, %d by the agent", kernel, agent)
			}
			return nil
		})
	}
	carried("flows are carried")
	if n := metric(t, l, node, "warren_offloaded_flows"); (n > 0) != inKernel {
		t.Errorf("%s: warren_offloaded_flows %v", node, n)
	}
	if st, err := l.Status(t.Context(), node); err != nil || (st.Offload == "active") != inKernel {
		t.Errorf("%s: status reports %q %v", node, st.Offload, err)
	}
	first := packetsOf(t, l, node)
	testutil.Eventually(t, "the Service's bytes are counted", func() error {
		if n := metric(t, l, node, service) - before; n < 10<<20 {
			return fmt.Errorf("%v bytes", n)
		}
		return nil
	})
	if n := packetsOf(t, l, node) - first; inKernel && n > 1000 {
		t.Errorf("%d packets came through warren0 meanwhile", n)
	}
	applyYAML(t, l, web("other"+strconv.Itoa(int(vip.As16()[15])), "app: none", ""))
	carried("flows are carried after a change of the table")
	killAndStart(t, l, node)
	carried("flows are carried after the agent was killed")
	finish(t, s)
	if t.Failed() {
		t.Logf("%s %s\n%s", node, vip,
			sh(t, l, node, "curl -s 127.0.0.1:9551/metrics | grep -E 'warren_(service_dropped|flows)' | grep -v ' 0$'; nft list ruleset; "+
				l.Exe+" flows"))
		t.FailNow()
	}
}

// packetsOf is the number of packets that the host has sent to warren0.
func packetsOf(t *testing.T, l *Lab, node string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(sh(t, l, node,
		"ip -s -j link show warren0 | grep -o '\"tx\":{[^}]*' | grep -o '\"packets\":[0-9]*' | cut -d: -f2")))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Offloaded connections end when the Service loses their backend.
func TestOffload_BackendRemoved_ConnectionEnds(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 1, Family: Dual})
	client := labelled(t, l, "n1", "client", "app=client")
	backend := labelled(t, l, "n1", "web", "app=web")
	applyYAML(t, l, strings.Replace(web("web", "app: web", ""), "\n  - {name: udp", iperfPort+"\n  - {name: udp", 1))
	for _, vip := range getSvc(t, l, "web").ips(t) {
		mustConnect(t, fromPod(l, client), vip, 7, 7, backend.Name, netip.Addr{})
		s := stream(t, l, client, toService(backend, vip))
		testutil.Eventually(t, "the kernel carries the stream", func() error {
			if kernel, _ := carriers(t, l, "n1", vip); kernel == 0 {
				text := s.client.text()
				return errors.New("none yet: " + vip.String() + text[max(0, len(text)-200):])
			}
			return nil
		})
		sh(t, l, "n1", l.Exe+" pod label web app=gone")
		if out, _ := s.client.wait(t, 20e9); !strings.Contains(out, `"error":`) {
			t.Errorf("the stream has not ended by an error: %s", out)
		}
		sh(t, l, "n1", l.Exe+" pod label web app=web")
	}
}

// Traffic to a Pod with a qdisc on its interface passes that qdisc.
func TestOffload_QdiscOnPodInterface_AgentForwards(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 1})
	client := labelled(t, l, "n1", "client", "app=client")
	backend := labelled(t, l, "n1", "web", "app=web")
	applyYAML(t, l, strings.Replace(web("web", "app: web", ""), "\n  - {name: udp", iperfPort+"\n  - {name: udp", 1))
	vip := getSvc(t, l, "web").ips(t)[0]
	mustConnect(t, fromPod(l, client), vip, 7, 7, backend.Name, netip.Addr{})
	link := strings.TrimSpace(sh(t, l, "n1", "ip -o route get "+backend.Addresses[0].String()+" | grep -o 'dev [^ ]*' | cut -c5-"))
	s := stream(t, l, client, toService(backend, vip))
	carriedBy := func(who string) {
		t.Helper()
		testutil.Eventually(t, "carried by the "+who, func() error {
			// The control connection of iperf3 carries no packet meanwhile, so it stays where it is.
			if kernel, agent := carriers(t, l, "n1", vip); (who == "kernel") != (kernel > 0) || who == "agent" && agent == 0 {
				return fmt.Errorf("%d flows by the kernel, %d by the agent", kernel, agent)
			}
			return nil
		})
	}
	carriedBy("kernel")
	sh(t, l, "n1", "tc qdisc add dev "+link+" root pfifo limit 1000")
	carriedBy("agent")
	sh(t, l, "n1", "tc qdisc del dev "+link+" root")
	carriedBy("kernel")
	finish(t, s)
}
