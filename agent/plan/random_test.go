package plan

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/records"
	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// world draws objects that the API server accepts, and records that another node can write into etcd. Most of its values are those
// of the cluster of testInput and those at the ends of their ranges.
type world struct{ *rand.Rand }

func oneOf[T any](w world, of ...T) T { return of[w.IntN(len(of))] }

// listOf draws up to n values.
func listOf[T any](w world, n int, draw func() T) (out []T) {
	for range w.IntN(n + 1) {
		out = append(out, draw())
	}
	return out
}

// address draws addresses of the node, the gateway, the control plane, Pods, Services, load balancers, other machines, and special
// ones.
func (w world) address() string {
	switch w.IntN(8) {
	case 0:
		return fmt.Sprintf("10.42.%d.%d", w.IntN(4), w.IntN(256))
	case 1:
		return fmt.Sprintf("10.43.0.%d", w.IntN(256))
	case 2:
		return fmt.Sprintf("fd42:0:0:%d::%x", w.IntN(4), w.IntN(4))
	}
	return oneOf(w, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.53", "192.0.2.100", "192.0.2.101", "192.0.2.254", "203.0.113.9",
		"203.0.113.10", "198.51.100.1", "198.51.100.255", "8.8.8.8", "127.0.0.1", "127.0.0.53", "169.254.169.254", "169.254.20.10",
		"224.0.0.1", "240.0.0.1", "255.255.255.255", "0.0.0.0", "10.43.255.255", "::", "::1", "::ffff:192.0.2.1", "fe80::1", "ff02::1",
		"fd42::", "fd43::9", "2001:db8::1", "64:ff9b::c000:201")
}

func (w world) port() int32 {
	return oneOf(w, 1, 22, 53, 80, 443, 2379, 6443, 9551, 10250, 10256, 30000, 30080, 32767, 51820, 51821, 65535, 1+w.Int32N(65535))
}

func (w world) protocol() corev1.Protocol {
	return oneOf(w, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

func (w world) text() string {
	return oneOf(w, "", "a", "web", "10.43.0.9", "192.0.2.1, 10.43.0.9", "true", "-1", "99999999999999999999", "[]", "\x00", "203.0.113.9,",
		"é", "default/web", "*")
}

// service draws a Service of any type.
func (w world) service(i int) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: oneOf(w, "default", "team", "kube-system"), Name: fmt.Sprintf("x%d", i),
		UID: "random", CreationTimestamp: metav1.NewTime(time.Unix(1000+w.Int64N(1000), 0)), Labels: map[string]string{},
		Annotations: map[string]string{oneOf(w, "warren.dev/allow-shared-ip-with", "warren.dev/address-pool", "warren.dev/x",
			"service.kubernetes.io/topology-mode"): w.text()}}}
	if w.IntN(10) == 0 {
		s.Labels["service.kubernetes.io/service-proxy-name"] = w.text()
	}
	s.Spec.Type = oneOf(w, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer,
		corev1.ServiceTypeExternalName)
	s.Spec.ExternalName = oneOf(w, "", "example.com", "localhost", "10.43.0.1")
	// The API server assigns ClusterIPs and node ports: two Services never have the same.
	s.Spec.ClusterIPs = []string{oneOf(w, fmt.Sprintf("10.43.1.%d", i), fmt.Sprintf("fd43::1:%x", i), "None")}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	s.Spec.ExternalIPs = listOf(w, 5, w.address)
	s.Spec.LoadBalancerIP = oneOf(w, "", w.address(), w.text())
	s.Spec.LoadBalancerSourceRanges = listOf(w, 2, func() string { return oneOf(w, "0.0.0.0/0", "192.0.2.0/24", "::/0", w.text()) })
	s.Spec.ExternalTrafficPolicy = oneOf(w, corev1.ServiceExternalTrafficPolicyLocal, corev1.ServiceExternalTrafficPolicyCluster, "")
	s.Spec.HealthCheckNodePort = oneOf(w, 0, 31000+int32(i))
	s.Spec.SessionAffinity = oneOf(w, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)
	s.Spec.PublishNotReadyAddresses = w.IntN(2) == 0
	for range w.IntN(3) {
		in := corev1.LoadBalancerIngress{IP: w.address()}
		if w.IntN(4) == 0 {
			in = corev1.LoadBalancerIngress{Hostname: w.text()}
		}
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, in)
	}
	ports := 1 + w.IntN(3)
	if w.IntN(30) == 0 {
		ports = 1000
	}
	for n := range ports {
		p := corev1.ServicePort{Name: fmt.Sprintf("p%d", n), Protocol: w.protocol(), Port: w.port()}
		if s.Spec.Type != corev1.ServiceTypeClusterIP {
			p.NodePort = oneOf(w, 0, int32(30100+i*10+n%10), 30000+w.Int32N(50))
		}
		p.TargetPort = oneOf(w, intstr.FromInt32(w.port()), intstr.FromString("http"), intstr.FromInt32(0), intstr.FromString("65535"))
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
	return s
}

// slice draws an EndpointSlice of one of the drawn Services or of the innocent one: anybody who may write slices can do that in his
// own namespace only.
func (w world) slice(i int, s *corev1.Service) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: fmt.Sprintf("s%d", i),
		Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}}}
	out.AddressType = oneOf(w, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6,
		discoveryv1.AddressTypeFQDN)
	for n := range 1 + w.IntN(3) {
		name, proto := oneOf(w, fmt.Sprintf("p%d", n), ""), w.protocol()
		p := discoveryv1.EndpointPort{Name: &name, Protocol: &proto}
		if w.IntN(8) > 0 {
			number := oneOf(w, w.port(), w.port(), 0)
			p.Port = &number
		}
		out.Ports = append(out.Ports, p)
	}
	addresses := w.IntN(6)
	if w.IntN(30) == 0 {
		addresses = 1000
	}
	for range addresses {
		e := discoveryv1.Endpoint{Addresses: append(listOf(w, 1, w.text), w.address())}
		ready, node := w.IntN(3) > 0, oneOf(w, "n1", "n2", "n3", "", "no-such-node")
		e.Conditions.Ready, e.NodeName = oneOf(w, &ready, nil), &node
		if w.IntN(2) == 0 {
			e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: oneOf(w, "default", "team", ""), Name: w.text()}
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}

// record draws what another node, n4 to n9, can write under its own name: valid, odd, or damaged.
func (w world) record(name string) (model.Node, bool) {
	addr := func() netip.Addr { return netip.MustParseAddr(w.address()) }
	n := model.Node{Name: name, Identity: oneOf(w, "id-"+name, "id1", "id2", ""), PublicKey: testKey(byte(1 + w.IntN(9))),
		NextPublicKey: testKey(byte(w.IntN(9))), MTU: oneOf(w, 0, -1, 1, 68, 1280, 1420, 65535, 1<<40), Zone: w.text(), Version: w.text(),
		AcceptedKeys: listOf(w, 3, func() model.Key { return testKey(byte(w.IntN(9))) }), Addresses: listOf(w, 4, addr),
		Endpoints: listOf(w, 3, func() netip.AddrPort { return netip.AddrPortFrom(addr(), uint16(w.port()*int32(w.IntN(2)))) }),
		PodCIDRs:  listOf(w, 3, w.prefix)}
	// An endpoint precedes load balancer addresses, because no object may cut off a peer (docs/security.md).
	n.Endpoints = slices.DeleteFunc(n.Endpoints, func(e netip.AddrPort) bool { return e.Addr() == innocentLB })
	if w.IntN(20) == 0 {
		n.Addresses = append(n.Addresses, netip.Addr{}, netip.MustParseAddr("fe80::1%eth0"))
		n.PodCIDRs = append(n.PodCIDRs, netip.Prefix{})
	}
	raw, err := model.Encode(1, n)
	if err != nil {
		panic(err)
	}
	if w.IntN(10) == 0 {
		raw[w.IntN(len(raw))] ^= byte(1 << w.IntN(8))
	}
	n, err = records.DecodeNode(raw, name)
	return n, err == nil
}

func (w world) prefix() netip.Prefix {
	a := netip.MustParseAddr(w.address())
	bits := oneOf(w, 0, 1, 8, 16, 24, a.BitLen()-1, a.BitLen())
	return netip.PrefixFrom(a, bits).Masked()
}

// draw fills the input with drawn objects, records and Pods.
func (w world) draw(in *Input) {
	snap := in.Snapshot
	var all []*corev1.Service
	for i := range 1 + w.IntN(12) {
		s := w.service(i)
		all = append(all, s)
		snap.Services = append(snap.Services, objects.Service(s))
	}
	for i := range w.IntN(20) {
		if s, ok := objects.Slice(w.slice(i, oneOf(w, all...))); ok {
			snap.Slices = append(snap.Slices, s)
		}
	}
	for i := range w.IntN(6) {
		if n, ok := w.record(fmt.Sprintf("n%d", i+4)); ok {
			snap.Nodes = append(snap.Nodes, n)
		}
	}
	for range w.IntN(6) {
		p := w.prefix()
		if slices.ContainsFunc(snap.Blocks, func(b model.Block) bool { return b.CIDR == p }) {
			continue // etcd has one record of a block
		}
		snap.Blocks = append(snap.Blocks, model.Block{CIDR: p, Node: fmt.Sprintf("n%d", 1+w.IntN(9)),
			Identity: oneOf(w, "id1", "id2", "id-n4", "x"), Claimed: time.Unix(2000+w.Int64N(1000), 0)})
	}
	slices.SortFunc(snap.Services, func(a, b model.Service) int { return a.Compare(b.ObjectName) })
	slices.SortFunc(snap.Slices, func(a, b model.EndpointSlice) int { return a.Compare(b.ObjectName) })
	slices.SortFunc(snap.Blocks, func(a, b model.Block) int { return a.CIDR.Compare(b.CIDR) })
	for i := range w.IntN(3) {
		p := Pod{Link: fmt.Sprintf("wrnx%d", i), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 42, 0, byte(100 + i)})}}
		p.HostPorts = listOf(w, 4, func() model.HostPort {
			return model.HostPort{Protocol: oneOf(w, model.TCP, model.UDP, model.SCTP), HostPort: uint16(w.port()),
				ContainerPort: uint16(w.port()), HostIP: oneOf(w, netip.Addr{}, netip.MustParseAddr(w.address()))}
		})
		in.Pods = append(in.Pods, p)
	}
}

// innocentLB is the load balancer address of the innocent user.
var innocentLB = ip("203.0.113.10")

// innocentInput is testInput with what the node needs, a Pod, and the Services of a user who does everything right.
func innocentInput() Input {
	in := testInput()
	snap := in.Snapshot
	for i := range snap.Blocks {
		snap.Blocks[i].Claimed = time.Unix(1000, 0)
	}
	snap.ServiceCIDRs = []netip.Prefix{pfx("10.43.0.0/16"), pfx("fd43::/112")}
	in.DNS = []netip.Addr{ip("10.43.0.10")}
	in.Underlay.Gateways = []netip.Addr{ip("192.0.2.254")}
	in.NodeRanges = []netip.Prefix{pfx("192.0.2.0/24")}
	in.ExternalIPs = []netip.Prefix{pfx("203.0.113.0/24"), pfx("198.51.100.0/24")}
	in.Control = []Control{{ip("192.0.2.100"), 2379, "address of an etcd server"}, {ip("192.0.2.101"), 6443, "address of an API server"},
		{ip("192.0.2.53"), 0, "address of an upstream DNS server"}}
	name := model.ObjectName{Namespace: "innocent", Name: "web"}
	in.Pods = []Pod{{Link: "wrn1", Addrs: []netip.Addr{ip("10.42.0.3")}}}
	snap.Services = []model.Service{{ObjectName: name, UID: "innocent", Created: time.Unix(1, 0), Type: model.LoadBalancer,
		ClusterIPs: []netip.Addr{ip("10.43.0.9")}, LBAddresses: []netip.Addr{innocentLB},
		Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80, NodePort: 30080, TargetPort: 8080}}}}
	snap.Slices = []model.EndpointSlice{{ObjectName: model.ObjectName{Namespace: "innocent", Name: "web-1"}, Service: "web",
		Ports:     []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}},
		Endpoints: []model.Endpoint{{Addr: ip("10.42.0.3"), Ready: true, Serving: true, Node: "n1"}}}}
	return in
}

// needs is what a node needs of its plan to be ready: everything that depends neither on objects nor on other nodes' records.
type needs struct {
	MTU  int
	Host hostnet.State
	Node model.Node
}

func needsOf(p *Plan) needs {
	n := needs{p.MTU, p.Host, p.Node}
	n.Host.ObjectRoutes, n.Host.ObjectRules, n.Host.PodRoutes, n.Host.LocalPorts = nil, nil, nil, nil
	n.Node.AcceptedKeys = nil
	return n
}

// served are the frontends of the innocent user's Service.
func served(p *Plan) (out []string) {
	for _, f := range p.Table.Frontends() {
		if f.Service.Namespace == "innocent" {
			out = append(out, fmt.Sprint(f))
		}
	}
	return out
}

// othersOf is what the plan has of the other innocent nodes.
func othersOf(p *Plan) (out []string) {
	for _, x := range p.Peers {
		if x.Name == "n2" || x.Name == "n3" {
			out = append(out, fmt.Sprintf("%+v", x))
		}
	}
	return out
}

// Whatever objects users create and records other nodes write: the plan has what the node needs to be ready, serves the other
// objects, keeps the other nodes' tunnels, and has a bounded number of rules (F2, F3).
func TestMake_RandomObjectsAndRecords_HarmNobody(t *testing.T) {
	rounds := 500
	if testing.Short() {
		rounds = 100
	}
	base := mustMake(t, innocentInput())
	want, frontends, peers := needsOf(base), served(base), othersOf(base)
	if len(frontends) < 3 || len(peers) != 2 {
		t.Fatalf("frontends %q, peers %v", frontends, peers)
	}
	const objectRules = 256
	for seed := range uint64(rounds) {
		in := innocentInput()
		world{rand.New(rand.NewPCG(seed, 1))}.draw(&in)
		p := mustMake(t, in)
		diff := cmp.Diff(want, needsOf(p), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})) +
			cmp.Diff(frontends, served(p)) +
			cmp.Diff(peers, othersOf(p))
		if n := len(p.Host.ObjectRules); n > objectRules {
			diff += fmt.Sprintf("%d rules of objects, expected at most %d", n, objectRules)
		}
		for _, f := range p.Table.Frontends() {
			if use := p.Ownership.Needed[f.Address.Addr()]; use != "" && f.Kind != "NodePort" && f.Kind != "hostPort" {
				diff += fmt.Sprintf("%v is served at the %s\n", f, use)
			}
		}
		if diff != "" {
			raw, _ := json.Marshal(in.Snapshot)
			t.Fatalf("seed %d (-want +got):\n%s\n%.6000s", seed, diff, raw)
		}
	}
}
