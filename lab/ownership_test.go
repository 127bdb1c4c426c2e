package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

// evilService is a Service whose external IP and port belong to others. Its namespace precedes all others by name.
func evilService(ports string, addrs ...netip.Addr) string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: evil, namespace: aaa}
spec:
  selector: {app: evil}
  externalIPs: [%s]
  ports: [%s]
`, strings.Join(list, ", "), ports)
}

// A Service's external IPs take neither a ClusterIP, nor a node's address, nor a Pod's, nor the store's, although the operator permits
// every address. Of another address only the claimed ports are redirected. The agent recovers after a restart with the Service on
// its disk, and learns of its deletion.
func TestOwnership_ExternalIPs_TakeNothing(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Agent: map[string]any{"service": map[string]any{"externalIPs": []string{"0.0.0.0/0"}}}})
	client := labelled(t, l, "n2", "client", "app=client")
	victim := labelled(t, l, "n1", "victim", "app=victim")
	if _, err := l.RunPod(context.Background(), PodSpec{Node: "n1", Name: "evil", Namespace: "aaa",
		Labels: map[string]string{"app": "evil"}}); err != nil {
		t.Fatal(err)
	}
	applyYAML(t, l, web("victim", "app: victim", "  type: NodePort"))
	vip := getSvc(t, l, "victim").ips(t)[0]
	store, node := addrsOf(l.Spec.underlayAddrs("etcd1"))[0], addrsOf(l.Spec.underlayAddrs("n1"))[0]
	other := netip.MustParseAddr("192.168.77.99")
	sh(t, l, "etcd1", "ip addr add 192.168.77.99/24 dev eth0")
	begin(t, l, on(l, "etcd1"), l.Exe, "lab", "echo", "--http", "")
	answers := func(c asker, port uint16, host string) {
		t.Helper()
		testutil.Eventually(t, fmt.Sprintf("%s answers at port %d of %s", host, port, other), func() error {
			out, err := c.run(exe, "lab", "get", "--timeout", "5s", fmt.Sprintf("tcp://%s", netip.AddrPortFrom(other, port)))
			if err != nil || !strings.Contains(out, "host="+host) {
				return fmt.Errorf("%q: %w", out, err)
			}
			return nil
		})
	}
	answers(fromPod(l, client), 7, "etcd1")
	refused := []netip.Addr{vip, node, store, victim.Addresses[0]}
	applyYAML(t, l, evilService("{name: tcp, port: 7}, {name: udp, port: 7, protocol: UDP}, {name: store, port: 2379, targetPort: 7}",
		refused...))
	reported := func(n string) {
		t.Helper()
		testutil.Eventually(t, "the refused external IPs are reported by "+n, func() error {
			services, status := sh(t, l, n, l.Exe+" services"), sh(t, l, n, l.Exe+" status || true")
			for _, a := range refused {
				if !strings.Contains(services, a.String()+" ") || !strings.Contains(services, "REFUSED") {
					return fmt.Errorf("%s is not refused: %s", a, services)
				}
			}
			if !strings.Contains(status, "Service aaa/evil: external IP") {
				return errors.New(status)
			}
			return nil
		})
	}
	unharmed := func() {
		t.Helper()
		for _, c := range []asker{fromPod(l, client), fromPod(l, victim), fromMachine(l, "n2"), fromMachine(l, "n1")} {
			mustConnect(t, c, vip, 7, 7, "victim", netip.Addr{})
			mustConnect(t, c, victim.Addresses[0], 7, 7, "victim", netip.Addr{})
			mustConnect(t, c, store, 7, 7, "etcd1", netip.Addr{})
		}
		for _, n := range l.NodeNames() {
			if out := sh(t, l, n, "ip route show table 101; ip rule"); strings.Contains(out, store.String()) {
				t.Errorf("%s redirects the store's address:\n%s", n, out)
			}
		}
	}
	reported("n1")
	reported("n2")
	unharmed()
	for _, n := range l.NodeNames() { // the snapshot on the disk has the Service
		if err := l.Restart(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	unharmed()
	sh(t, l, "n1", l.Exe+" delete svc evil -n aaa")
	for _, n := range l.NodeNames() {
		testutil.Eventually(t, n+" learns of the deletion", func() error {
			if out := sh(t, l, n, l.Exe+" services"); strings.Contains(out, "aaa/evil") {
				return errors.New(out)
			}
			return nil
		})
	}
	applyYAML(t, l, evilService("{port: 9, targetPort: 7}", other))
	answers(fromPod(l, client), 9, "evil")
	answers(fromMachine(l, "n1"), 9, "evil")
	for _, c := range []asker{fromPod(l, client), fromMachine(l, "n2")} { // the other ports are those of the machine that has the address
		answers(c, 7, "etcd1")
	}
}

// A Pod gets none of the ports that warren, the store or another process of the node uses, and no address of others.
func TestOwnership_HostPorts_OfOthersAreRefused(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	victim := labelled(t, l, "n2", "victim", "app=victim")
	client := labelled(t, l, "n1", "client", "app=client")
	begin(t, l, on(l, "n1"), l.Exe, "lab", "echo", "--http", "")
	mustConnect(t, fromMachine(l, "n2"), addrsOf(l.Spec.underlayAddrs("n1"))[0], 7, 7, "n1", netip.Addr{})
	for _, c := range []struct {
		name string
		port PortMapping
		want string
	}{
		{"tunnel", PortMapping{51820, 5555, "udp", ""}, "tunnel"},
		{"heartbeats", PortMapping{9552, 9552, "udp", ""}, "heartbeats"},
		{"store", PortMapping{2379, 7, "tcp", ""}, "etcd"},
		{"process", PortMapping{7, 7, "tcp", ""}, "socket at"},
		{"process-udp", PortMapping{7, 7, "udp", ""}, "socket at"},
		{"pod-address", PortMapping{80, 80, "tcp", victim.Addresses[0].String()}, "not an address of this node"},
	} {
		_, err := l.RunPod(context.Background(), PodSpec{Node: "n1", Name: c.name, Namespace: "aaa", Ports: []PortMapping{c.port}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("host port %s: error %v, expected one with %q", c.name, err, c.want)
		}
	}
	if out := sh(t, l, "n1", "ip rule"); strings.Contains(out, "51820") || strings.Contains(out, "9552") {
		t.Errorf("rules: %s", out)
	}
	mustConnect(t, fromPod(l, client), victim.Addresses[0], 7, 7, "victim", client.Addresses[0])
}
