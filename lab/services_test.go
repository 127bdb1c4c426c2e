package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
)

// applyYAML applies manifests on a node.
func applyYAML(t *testing.T, l *Lab, yaml string) string {
	t.Helper()
	var out bytes.Buffer
	if err := l.Exec("n1", Cmd{Args: []string{l.Exe, "apply", "-f", "-"}, Stdin: strings.NewReader(yaml), Stdout: &out,
		Stderr: &out}); err != nil {
		t.Fatalf("apply: %v\n%s\n%s", err, out.String(), yaml)
	}
	return out.String()
}

// svc has the fields of a Service that the tests read.
type svc struct {
	Spec struct {
		ClusterIPs []string `json:"clusterIPs"`
		Ports      []struct {
			Port     int `json:"port"`
			NodePort int `json:"nodePort"`
		} `json:"ports"`
	} `json:"spec"`
}

func getSvc(t *testing.T, l *Lab, name string) (s svc) {
	t.Helper()
	out := sh(t, l, "n1", l.Exe+" get svc "+name+" -o json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("get svc %s: %v\n%s", name, err, out)
	}
	return s
}

func (s svc) ips(t *testing.T) (out []netip.Addr) {
	t.Helper()
	for _, x := range s.Spec.ClusterIPs {
		a, err := netip.ParseAddr(x)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// web is a Service with every protocol and port of the echo server.
func web(name, selector, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {%s}
  ports:
  - {name: http, port: 8080, targetPort: 80}
  - {name: tcp, port: 7}
  - {name: udp, port: 7, protocol: UDP}
%s
`, name, selector, more)
}

func labelled(t *testing.T, l *Lab, node, name, label string) *Pod {
	t.Helper()
	k, v, _ := strings.Cut(label, "=")
	p, err := l.RunPod(context.Background(), PodSpec{Node: node, Name: name, Labels: map[string]string{k: v}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// asker runs commands as a client: in a Pod or on a machine.
type asker struct {
	name string
	run  func(args ...string) (string, error)
	at   []netip.Addr // its own addresses, if the server must receive them
}

func fromPod(l *Lab, p *Pod) asker {
	return asker{p.Name, func(args ...string) (string, error) { return l.PodOutput(p, args...) }, p.Addresses}
}

func fromMachine(l *Lab, m string) asker {
	return asker{m, func(args ...string) (string, error) { return l.Output(m, args...) }, addrsOf(l.Spec.underlayAddrs(m))}
}

// connect connects to an address over TCP and UDP and returns the two greetings.
func (c asker) connect(a netip.Addr, tcp, udp int) (overTCP, overUDP string, err error) {
	if overTCP, err = c.run(exe, "lab", "get", "--timeout", "5s", fmt.Sprintf("tcp://%s", netip.AddrPortFrom(a, uint16(tcp)))); err != nil {
		return "", "", fmt.Errorf("TCP %s port %d: %w", a, tcp, err)
	}
	overUDP, err = c.run(exe, "lab", "get", "--timeout", "5s", fmt.Sprintf("udp://%s", netip.AddrPortFrom(a, uint16(udp))))
	if err != nil {
		err = fmt.Errorf("UDP %s port %d: %w", a, udp, err)
	}
	return overTCP, overUDP, err
}

func family[T any](list []T, is4 func(T) bool, v4 bool) (out []T) {
	for _, x := range list {
		if is4(x) == v4 {
			out = append(out, x)
		}
	}
	return out
}

// mustConnect connects until one of the hosts answers. seen is the client address that the answer must contain, invalid for any.
func mustConnect(t *testing.T, c asker, a netip.Addr, tcp, udp int, hosts string, seen netip.Addr) {
	t.Helper()
	testutil.Eventually(t, fmt.Sprintf("%s -> %s", c.name, a), func() error {
		x, y, err := c.connect(a, tcp, udp)
		if err != nil {
			return err
		}
		for _, line := range []string{x, y} {
			host := strings.TrimPrefix(strings.Fields(line)[0], "host=")
			if !strings.Contains(" "+hosts+" ", " "+host+" ") {
				return fmt.Errorf("answered by %q, expected one of %s", line, hosts)
			}
			if want := "client=" + strings.TrimSuffix(netip.AddrPortFrom(seen, 0).String(), "0"); seen.IsValid() &&
				!strings.Contains(line, want) {
				return fmt.Errorf("the backend saw %q, expected %s", line, want)
			}
		}
		return nil
	})
}

// Every kind of client reaches every kind of backend by ClusterIP and NodePort, over TCP and UDP, in both families. The backend
// receives the client's own address wherever that is possible.
func TestServices_EveryClientAndBackend_Connects(t *testing.T) {
	l := start(t, Spec{Nodes: 3, Family: Dual})
	here, there := labelled(t, l, "n1", "here", "app=here"), labelled(t, l, "n2", "there", "app=there")
	client := labelled(t, l, "n1", "client", "app=client")
	t.Log(applyYAML(t, l, web("here", "app: here", "  type: NodePort")+"---"+web("there", "app: there", "  type: NodePort")+"---"+
		web("none", "app: none", "")))
	wire := capture(t, l, "n1", "eth0", "net 10.42.0.0/16 or net fd42::/48 or net 10.43.0.0/16 or net fd43::/112")
	isV4 := netip.Addr.Is4
	for _, b := range []*Pod{here, there} {
		s := getSvc(t, l, b.Name)
		nodePort, nodePortUDP := s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort
		for _, v4 := range []bool{true, false} {
			vip := family(s.ips(t), isV4, v4)[0]
			own := family(client.Addresses, isV4, v4)[0]
			mustConnect(t, fromPod(l, client), vip, 7, 7, b.Name, own)     // Pod: its own address
			mustConnect(t, fromPod(l, b), vip, 7, 7, b.Name, netip.Addr{}) // hairpin
			direct := family(b.Addresses, isV4, v4)[0]
			mustConnect(t, fromPod(l, client), direct, 7, 7, b.Name, own)            // directly; replies from that port are redirected
			mustConnect(t, fromMachine(l, "n1"), direct, 7, 7, b.Name, netip.Addr{}) // likewise
			mustConnect(t, fromMachine(l, "n1"), vip, 7, 7, b.Name, netip.Addr{})    // the node itself
			mustConnect(t, fromMachine(l, "n3"), vip, 7, 7, b.Name, netip.Addr{})    // another node
			if v4 {
				mustConnect(t, fromMachine(l, "n1"), netip.MustParseAddr("127.0.0.1"), nodePort, nodePortUDP, b.Name, netip.Addr{})
			} else {
				mustConnect(t, fromMachine(l, "n1"), netip.IPv6Loopback(), nodePort, nodePortUDP, b.Name, netip.Addr{})
			}
			for _, n := range []string{"n1", "n2", "n3"} { // by the Pod-net address
				inside := podNetAddr(t, l, n, v4)
				mustConnect(t, fromPod(l, client), inside, nodePort, nodePortUDP, b.Name, netip.Addr{})
				mustConnect(t, fromMachine(l, n), inside, nodePort, nodePortUDP, b.Name, netip.Addr{})
			}
			for _, n := range []string{"n1", "n2", "n3"} { // outside, by every node
				addr := family(addrsOf(l.Spec.underlayAddrs(n)), isV4, v4)[0]
				seen := netip.Addr{}
				if n == b.Node {
					seen = family(addrsOf(l.Spec.underlayAddrs("etcd1")), isV4, v4)[0]
				}
				mustConnect(t, fromMachine(l, "etcd1"), addr, nodePort, nodePortUDP, b.Name, seen)
				mustConnect(t, fromPod(l, client), addr, nodePort, nodePortUDP, b.Name, netip.Addr{})
				mustConnect(t, fromMachine(l, "n1"), addr, nodePort, nodePortUDP, b.Name, netip.Addr{})
			}
		}
	}
	none := getSvc(t, l, "none")
	for _, a := range none.ips(t) {
		for _, c := range []asker{fromPod(l, client), fromMachine(l, "n1")} {
			if out, err := c.run("timeout", "5", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/7", a)); err == nil ||
				!strings.Contains(err.Error(), "Connection refused") {
				t.Errorf("%s -> %s without endpoints: %v %s, expected a refusal at once", c.name, a, err, out)
			}
			if out, err := c.run("timeout", "5", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/4444", a)); err == nil ||
				!strings.Contains(err.Error(), "Connection refused") {
				t.Errorf("%s -> %s unknown port: %v %s, expected a refusal at once", c.name, a, err, out)
			}
		}
	}
	if text := wire(); text != "" {
		t.Errorf("on the wire outside the tunnel:\n%s", text)
	}
}

// podNetAddr is a node's Pod-net address.
func podNetAddr(t *testing.T, l *Lab, node string, v4 bool) netip.Addr {
	t.Helper()
	var st api.Status
	if err := json.Unmarshal([]byte(sh(t, l, node, l.Exe+" status -o json")), &st); err != nil {
		t.Fatal(err)
	}
	for _, b := range st.PodCIDRs {
		if b.Addr().Is4() == v4 {
			return b.Addr().Next()
		}
	}
	t.Fatalf("%s has no block of that family: %v", node, st.PodCIDRs)
	return netip.Addr{}
}

// A Service follows changes of its endpoints on several nodes at once.
func TestServices_PodsChange_BackendsFollow(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := labelled(t, l, "n1", "client", "app=client")
	applyYAML(t, l, web("web", "app: web", ""))
	vip := getSvc(t, l, "web").ips(t)[0]
	a := labelled(t, l, "n1", "a", "app=web")
	mustConnect(t, fromPod(l, client), vip, 7, 7, "a", client.Addresses[0])
	b := labelled(t, l, "n2", "b", "app=web")
	seen := map[string]bool{}
	testutil.Eventually(t, "both backends answer", func() error {
		x, _, err := fromPod(l, client).connect(vip, 7, 7)
		if err == nil {
			seen[strings.Fields(x)[0]] = true
		}
		if len(seen) < 2 {
			return fmt.Errorf("only %v %v", seen, err)
		}
		return nil
	})
	if err := l.RemovePod(a); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "only the second answers", func() error {
		for range 5 {
			x, _, err := fromPod(l, client).connect(vip, 7, 7)
			if err != nil || !strings.HasPrefix(x, "host=b ") {
				return fmt.Errorf("%q %v", x, err)
			}
		}
		return nil
	})
	mustConnect(t, fromPod(l, b), vip, 7, 7, "b", netip.Addr{})
	env := sh(t, l, "n1", l.Exe+" env -n default")
	if !strings.Contains(env, "WEB_SERVICE_HOST="+vip.String()) {
		t.Errorf("env printed %s", env)
	}
	late := labelled(t, l, "n2", "late", "app=late")
	if out, err := l.Output("n2", "sh", "-c", fmt.Sprintf("tr '\\0' '\\n' </proc/%d/environ", late.PID)); err != nil ||
		!strings.Contains(out, "WEB_SERVICE_PORT_HTTP=8080") {
		t.Errorf("the Pod's environment: %v %s", err, out)
	}
	if out := sh(t, l, "n1", l.Exe+" flows"); !strings.Contains(out, vip.String()+":7") {
		t.Errorf("flows printed %s", out)
	}
	for filter, hit := range map[string]bool{"--service default/web": true, "--pod default/client": true, "--address " +
		client.Addresses[0].String(): true,
		"--address 192.0.2.99": false, "--service default/web --address 192.0.2.99": false} {
		if out := sh(t, l, "n1", l.Exe+" flows "+filter); strings.Contains(out, vip.String()+":7") != hit {
			t.Errorf("flows %s printed %s", filter, out)
		}
	}
	if out := sh(t, l, "n1", "timeout -s INT 1 "+l.Exe+" flows -w --service default/web || true"); !strings.Contains(out, "+ TCP") {
		t.Errorf("flows -w printed %s", out)
	}
	if out := sh(t, l, "n1", l.Exe+" endpoints default/web"); !strings.Contains(out, "default/b") || !strings.Contains(out, "ready") ||
		!strings.Contains(out, "tcp:7/TCP") {
		t.Errorf("endpoints printed %s", out)
	}
}

// Egress has the node's address, and replies reach the Pod: TCP, UDP and ping.
func TestMasquerade_PodToExternalNetwork_HasNodeAddress(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	p := labelled(t, l, "n1", "p", "app=p")
	begin(t, l, on(l, "etcd1"), l.Exe, "lab", "echo", "--http", "")
	wire := capture(t, l, "etcd1", "eth0", "net 10.42.0.0/16 or net fd42::/48")
	for _, v4 := range []bool{true, false} {
		world := family(addrsOf(l.Spec.underlayAddrs("etcd1")), netip.Addr.Is4, v4)[0]
		node := family(addrsOf(l.Spec.underlayAddrs("n1")), netip.Addr.Is4, v4)[0]
		mustConnect(t, fromPod(l, p), world, 7, 7, "etcd1", node)
		if out, err := l.PodOutput(p, "ping", "-c2", "-i0.2", "-W3", world.String()); err != nil {
			t.Errorf("ping to an external network: %v\n%s", err, out)
		}
	}
	if text := wire(); text != "" {
		t.Errorf("a Pod's address left the cluster:\n%s", text)
	}
}

// A host program that listens on a port of the masquerade range is reachable from everywhere, and egress of Pods still works.
func TestMasquerade_HostProgramInPortRange_KeepsItsPort(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	near, far := run(t, l, "n1", "near"), run(t, l, "n2", "far")
	begin(t, l, on(l, "etcd1"), l.Exe, "lab", "echo", "--http", "")
	begin(t, l, on(l, "n1"), l.Exe, "lab", "echo", "--http", ":15021", "--tcp", ":27017", "--udp", ":27017")
	for _, v4 := range []bool{true, false} {
		node := family(addrsOf(l.Spec.underlayAddrs("n1")), netip.Addr.Is4, v4)[0]
		for _, c := range []asker{fromMachine(l, "etcd1"), fromMachine(l, "n2"), fromMachine(l, "n1"), fromPod(l, near)} {
			testutil.Eventually(t, fmt.Sprintf("%s reaches %s:27017", c.name, node), func() error {
				_, _, err := c.connect(node, 27017, 27017)
				return err
			})
		}
		testutil.Eventually(t, "a Pod of another node", func() error {
			_, err := l.PodOutput(far, "curl", "-sS", "--max-time", "5", fmt.Sprintf("http://%s/", netip.AddrPortFrom(node, 15021)))
			return err
		})
		world := family(addrsOf(l.Spec.underlayAddrs("etcd1")), netip.Addr.Is4, v4)[0]
		for range 5 {
			mustConnect(t, fromPod(l, near), world, 7, 7, "etcd1", node)
		}
	}
}

// externalTrafficPolicy Local: the source is kept, and a node without a backend does not answer outside clients. Clients
// inside are held to local backends by internalTrafficPolicy, and at the cluster address only.
func TestServices_ExternalTrafficPolicyLocal_PreservesClient(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	labelled(t, l, "n2", "b", "app=b")
	applyYAML(t, l, web("b", "app: b", "  type: NodePort\n  externalTrafficPolicy: Local\n  internalTrafficPolicy: Local"))
	s, client := getSvc(t, l, "b"), labelled(t, l, "n1", "client", "app=client")
	tcp, udp := s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort
	outside := fromMachine(l, "etcd1")
	mustConnect(t, outside, l.Spec.underlayAddrs("n2")[0].Addr(), tcp, udp, "b", outside.at[0])
	if out, err := outside.run("timeout", "1", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", l.Spec.underlayAddrs("n1")[0].Addr(),
		tcp)); err == nil || strings.Contains(err.Error(), "refused") {
		t.Errorf("a node without a backend answered an outside client: %v %s", err, out)
	}
	for _, inside := range []asker{fromMachine(l, "n1"), fromPod(l, client)} {
		mustConnect(t, inside, l.Spec.underlayAddrs("n1")[0].Addr(), tcp, udp, "b", netip.Addr{})
		if out, err := inside.run("timeout", "1", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/7", s.ips(t)[0])); err == nil ||
			strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: a cluster address without a local backend answered: %v %s", inside.name, err, out)
		}
	}
}

// A connection through a Service outlives kill -9 of the agents at either end.
func TestFlows_AgentRestarted_ConnectionsContinue(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	labelled(t, l, "n1", "near", "app=near")
	labelled(t, l, "n2", "far", "app=far")
	client := labelled(t, l, "n1", "client", "app=client")
	applyYAML(t, l, web("near", "app: near", "")+"---"+web("far", "app: far", ""))
	var talks []*task
	for _, name := range []string{"near", "far"} {
		vip := getSvc(t, l, name).ips(t)[0]
		mustConnect(t, fromPod(l, client), vip, 7, 7, name, client.Addresses[0])
		script := fmt.Sprintf(
			`exec 3<>/dev/tcp/%s/7
			read -r x <&3
			for i in $(seq 1 60); do
				echo line$i >&3
				read -r y <&3 || exit 9
				[ "$y" = line$i ] || exit 8
				echo $y
				sleep .1
			done
			echo done`, vip)
		talks = append(talks, begin(t, l, in(l, client), "bash", "-c", script))
	}
	for _, k := range talks {
		testutil.Eventually(t, "talk", func() error {
			if !strings.Contains(k.text(), "line3\n") {
				return errors.New(k.text())
			}
			return nil
		})
	}
	for _, n := range []string{"n1", "n2"} {
		if err := l.StopAgent(n, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := l.StartAgent(n); err != nil {
			t.Fatal(err)
		}
		if err := l.waitNode(context.Background(), n); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range talks {
		if text, err := k.wait(t, 60e9); err != nil || !strings.HasSuffix(strings.TrimSpace(text), "done") {
			t.Errorf("the connection broke: %v\n%s", err, tail(text, 3))
		}
	}
}

// handMade is a Service without a selector, with one EndpointSlice.
func handMade(name, addr string, port int, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  ports: [{name: tcp, port: 7, targetPort: %d}, {name: udp, port: 7, protocol: UDP, targetPort: %d}]
%s
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-1, labels: {kubernetes.io/service-name: %s}}
addressType: IPv4
ports: [{name: tcp, port: %d}, {name: udp, port: %d, protocol: UDP}]
endpoints: [{addresses: [%s]}]
`, name, port, port, more, name, name, port, port, addr)
}

// Backends that are not Pods: this node, another node, a machine outside of the cluster. Nodes receive packets with the Pod's own
// address, external networks with the address of the Pod's node.
func TestServices_BackendsOutsidePodRanges_Work(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	client := labelled(t, l, "n1", "client", "app=client")
	const port = 8099
	for _, m := range []string{"n1", "n2", "etcd1"} {
		begin(t, l, on(l, m), l.Exe, "lab", "echo", "--tcp", fmt.Sprintf(":%d", port), "--udp", fmt.Sprintf(":%d", port), "--http", "")
	}
	addr := func(m string) netip.Addr { return l.Spec.underlayAddrs(m)[0].Addr() }
	applyYAML(t, l, handMade("self", addr("n1").String(), port, "")+"---"+handMade("other", addr("n2").String(), port, "")+"---"+
		handMade("world", addr("etcd1").String(), port, ""))
	for _, tc := range []struct {
		service, host string
		seen          netip.Addr
	}{{"self", "n1", client.Addresses[0]}, {"other", "n2", client.Addresses[0]}, {"world", "etcd1", addr("n1")}} {
		vip := getSvc(t, l, tc.service).ips(t)[0]
		mustConnect(t, fromPod(l, client), vip, 7, 7, tc.host, tc.seen)
		mustConnect(t, fromMachine(l, "n1"), vip, 7, 7, tc.host, netip.Addr{})
	}
}

// A host port forwards to a Pod: from outside, from Pods, from the node itself by its address and by 127.0.0.1, separately for TCP
// and UDP. It is closed when the Pod ends.
func TestHostPort_AllClients_ReachThePod(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	client := labelled(t, l, "n2", "client", "app=client")
	p, err := l.RunPod(context.Background(), PodSpec{Node: "n1", Name: "p", Ports: []PortMapping{{8081, 7, "tcp", ""},
		{8081, 7, "udp", ""}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range addrsOf(l.Spec.underlayAddrs("n1")) {
		outside := family(addrsOf(l.Spec.underlayAddrs("etcd1")), netip.Addr.Is4, u.Is4())[0]
		mustConnect(t, fromMachine(l, "etcd1"), u, 8081, 8081, "p", outside)
		mustConnect(t, fromPod(l, client), u, 8081, 8081, "p", netip.Addr{})
		mustConnect(t, fromMachine(l, "n1"), u, 8081, 8081, "p", netip.Addr{})
		mustConnect(t, fromMachine(l, "n2"), u, 8081, 8081, "p", netip.Addr{})
	}
	mustConnect(t, fromMachine(l, "n1"), netip.MustParseAddr("127.0.0.1"), 8081, 8081, "p", netip.Addr{})
	if err := l.RemovePod(p); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "the host port is gone", func() error {
		if out := sh(t, l, "n1", "ip rule; ip -6 rule"); strings.Contains(out, "8081") {
			return errors.New(out)
		}
		return nil
	})
}

// The health check node port reports local endpoints in the format of kube-proxy. It is closed when the policy changes.
func TestHealthCheckNodePort_LocalEndpoints_AreCounted(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	labelled(t, l, "n2", "b", "app=b")
	applyYAML(t, l, web("b", "app: b", "  type: LoadBalancer\n  externalTrafficPolicy: Local"))
	port := strings.TrimSpace(sh(t, l, "n1", l.Exe+" get svc b -o json | jq .spec.healthCheckNodePort"))
	for i, want := range []string{`503 {"service":{"namespace":"default","name":"b"},"localEndpoints":0,"serviceProxyHealthy":true}`,
		`200 {"service":{"namespace":"default","name":"b"},"localEndpoints":1,"serviceProxyHealthy":true}`} {
		for _, u := range addrsOf(l.Spec.underlayAddrs(nodeName(i + 1))) {
			testutil.Eventually(t, "health of "+u.String(), func() error {
				out, err := l.Output("etcd1", "curl", "-sS", "--max-time", "3", "-w", "%{http_code}", "http://"+host(u)+":"+port+"/")
				code := out[max(0, len(out)-3):]
				if got := code + " " + strings.TrimSpace(strings.TrimSuffix(out, code)); err == nil && got != want {
					err = fmt.Errorf("%q, expected %q", got, want)
				}
				return err
			})
		}
	}
	applyYAML(t, l, web("b", "app: b", "  type: LoadBalancer"))
	testutil.Eventually(t, "the port is closed", func() error {
		if out, err := l.Output("etcd1", "curl", "-sS", "--max-time", "1", "http://"+host(l.Spec.underlayAddrs("n2")[0].Addr())+":"+port+
			"/"); err == nil {
			return errors.New(out)
		}
		return nil
	})
}

// A Service is reachable at its externalIPs from inside and outside. With session affinity a client keeps its backend. With the
// internal traffic policy Local only backends of the node are used.
func TestServices_ExternalIPsAffinityInternalPolicy_Apply(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Agent: map[string]any{"service": map[string]any{"externalIPs": []string{"198.51.100.0/24"}}}})
	client := labelled(t, l, "n1", "client", "app=client")
	labelled(t, l, "n1", "a", "app=web")
	labelled(t, l, "n2", "b", "app=web")
	applyYAML(t, l, web("ext", "app: web", "  externalIPs: [198.51.100.7]")+"---"+web("sticky", "app: web", "  sessionAffinity: ClientIP")+
		"---"+web("local", "app: web", "  internalTrafficPolicy: Local"))
	ext := netip.MustParseAddr("198.51.100.7")
	mustConnect(t, fromPod(l, client), ext, 7, 7, "a b", client.Addresses[0])
	sh(t, l, "etcd1", "ip route add 198.51.100.7/32 via 192.168.77.11")
	mustConnect(t, fromMachine(l, "etcd1"), ext, 7, 7, "a b", netip.Addr{})
	vip := getSvc(t, l, "sticky").ips(t)[0]
	testutil.Eventually(t, "both backends known", func() error {
		out := sh(t, l, "n1", l.Exe+" services default/sticky")
		if strings.Count(out, "10.42.") < 4 {
			return errors.New(out)
		}
		return nil
	})
	first := ""
	for range 12 {
		x, _, err := fromPod(l, client).connect(vip, 7, 7)
		if err != nil {
			t.Fatal(err)
		}
		if h := strings.Fields(x)[0]; first == "" {
			first = h
		} else if h != first {
			t.Fatalf("a sticky client was led to %s after %s", h, first)
		}
	}
	for range 8 {
		mustConnect(t, fromPod(l, client), getSvc(t, l, "local").ips(t)[0], 7, 7, "a", client.Addresses[0])
	}
}

// nonMasquerade: these destinations receive the Pod's own address. nodePortAddresses: only these addresses serve node ports.
func TestSettings_NodePortAddressesAndNonMasquerade_Apply(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 1})
	p := labelled(t, l, "n1", "p", "app=p")
	applyYAML(t, l, web("p", "app: p", "  type: NodePort"))
	s := getSvc(t, l, "p")
	begin(t, l, on(l, "etcd1"), l.Exe, "lab", "echo", "--http", "")
	world := addrsOf(l.Spec.underlayAddrs("etcd1"))[0]
	node := addrsOf(l.Spec.underlayAddrs("n1"))[0]
	mustConnect(t, fromPod(l, p), world, 7, 7, "etcd1", node)
	mustConnect(t, fromMachine(l, "etcd1"), node, s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort, "p", world)
	sh(t, l, "n1", fmt.Sprintf("printf 'nonMasquerade: [%s/32]\\nnodePortAddresses: [127.0.0.0/8]\\n' >>/etc/warren/config.yaml", world))
	sh(t, l, "etcd1", fmt.Sprintf("ip route add %s/32 via %s", p.Addresses[0], node))
	if err := l.Restart(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	mustConnect(t, fromPod(l, p), world, 7, 7, "etcd1", p.Addresses[0])
	mustConnect(t, fromMachine(l, "etcd1"), p.Addresses[0], 7, 7, "p", world) // past the Service, from one of its target ports
	mustConnect(t, fromMachine(l, "n1"), netip.MustParseAddr("127.0.0.1"), s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort,
		"p", netip.Addr{})
	if out, _, err := fromMachine(l, "etcd1").connect(node, s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort); err == nil {
		t.Errorf("the node's address still serves the node port: %s", out)
	}
}
