package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/testutil"
)

// putEnv makes this program write records into etcd, with the certificate of the node where it runs. It names the etcd servers;
// see putRecords.
const putEnv = "WARREN_LAB_PUT"

// putRecords reads a JSON object of records by key below the cluster's prefix and writes them.
func putRecords() int {
	err := func() error {
		var all map[string][]byte
		if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil {
			return err
		}
		cli, err := client.New(client.Config{Endpoints: strings.Split(os.Getenv(putEnv), ","), Cluster: "lab-t",
			CAFile: pkiInside + "/ca.crt", CertFile: pkiInside + "/tls.crt", KeyFile: pkiInside + "/tls.key"})
		if err != nil {
			return err
		}
		defer cli.Close()
		for key, raw := range all {
			ctx, cancel := client.Request(context.Background())
			_, err := cli.Put(ctx, cli.Key(key), string(raw))
			cancel()
			if err != nil {
				return fmt.Errorf("put %s: %w", key, err)
			}
		}
		return nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// badRecords are records that no agent writes: node records with endpoints that no packet can be sent to, addresses and MTUs of no
// node, and damaged ones.
func badRecords(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"nodes/garbage": []byte("{"), "nodes/newer": []byte(`{"v":1000,"value":{}}`), "nodes/": []byte(`{}`),
		"blocks/10.42.200.0-24": []byte("\x00"), "blocks/garbage": []byte(`{"v":1,"value":{}}`), "alive/garbage": []byte("\xff"),
		"revoked/garbage": []byte(`{"v":1,"value":{"node":"other"}}`), "pods/a/b": []byte("null")}
	for i, change := range []func(*model.Node){
		func(n *model.Node) { n.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:51820")} },
		func(n *model.Node) { n.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.168.77.99:0")} },
		func(n *model.Node) { n.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("224.0.0.1:51820")} },
		func(n *model.Node) {
			n.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("[::ffff:192.168.77.99]:51820")}
		},
		func(n *model.Node) {
			n.Addresses = []netip.Addr{netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("::1")}
		},
		func(n *model.Node) { n.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} },
		func(n *model.Node) { n.MTU = 1 },
	} {
		n := model.Node{Name: fmt.Sprintf("bad%d", i), Identity: fmt.Sprint("bad", i), PublicKey: model.Key{9, byte(i)}, MTU: 1420}
		change(&n)
		out["nodes/"+n.Name] = testutil.Value[[]byte](t)(model.Encode(1, n))
	}
	return out
}

// Objects and records that cannot be carried out keep no agent from readiness after a restart (E2, E3): port 65535 as target,
// endpoint and host port, and the records of badRecords. All other objects are served, and new Pods are attached.
func TestBadRecords_AgentsRestarted_AreReadyAndServeTheRest(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	client, backend := labelled(t, l, "n1", "client", "app=client"), labelled(t, l, "n2", "web", "app=web")
	applyYAML(t, l, web("web", "app: web", "  type: NodePort"))
	vips := getSvc(t, l, "web").ips(t)
	for _, vip := range vips {
		mustConnect(t, fromPod(l, client), vip, 7, 7, backend.Name, netip.Addr{})
	}
	if _, err := l.RunPod(t.Context(), PodSpec{Node: "n1", Name: "last", Namespace: "aaa",
		Ports: []PortMapping{{65535, 65535, "tcp", ""}, {65535, 65535, "udp", ""}}}); err != nil {
		t.Error(err)
	}
	applyYAML(t, l, `
apiVersion: v1
kind: Service
metadata: {name: top, namespace: aaa}
spec: {ports: [{port: 80, targetPort: 65535}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: top-1, namespace: aaa, labels: {kubernetes.io/service-name: top}}
addressType: IPv4
ports: [{port: 65535}]
endpoints: [{addresses: [192.168.77.11]}, {addresses: [192.168.77.12]}]
`)
	records := testutil.Value[[]byte](t)(json.Marshal(badRecords(t)))
	var out bytes.Buffer
	if err := l.Exec("n2", Cmd{Args: []string{"env", putEnv + "=" + strings.Join(l.Spec.etcdURLs(etcdClientPort), ","),
		testutil.Value[string](t)(os.Executable())}, Stdin: bytes.NewReader(records), Stdout: &out, Stderr: &out}); err != nil {
		t.Fatal(err, out.String())
	}
	for _, n := range l.NodeNames() {
		testutil.Eventually(t, "report of the records by "+n, func() error {
			st, err := l.Status(t.Context(), n)
			if err != nil {
				return err
			}
			return contains(strings.Join(st.Problems, "\n"), "nodes/garbage")
		})
		killAndStart(t, l, n)
	}
	for _, vip := range vips {
		mustConnect(t, fromPod(l, client), vip, 7, 7, backend.Name, netip.Addr{})
	}
	mustCall(t, l, run(t, l, "n1", "new1"), run(t, l, "n2", "new2"))
	if text := sh(t, l, "n1", "ip route show table all"); strings.Contains(text, "mtu 1 ") {
		t.Errorf("a route with an MTU of 1 byte: %s", text)
	}
}
