package servicelb

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

func TestNewFlow_PoliciesAndSourceRanges_Applied(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)
		lb := at(a.endpoint, 80)
		svc.Type, svc.LBAddresses = model.LoadBalancer, []netip.Addr{lb.Addr()}
		svc.InternalPolicy, svc.ExternalPolicy = model.PolicyLocal, model.PolicyCluster
		svc.ExternalIPs, svc.Ports[0].NodePort = []netip.Addr{lb.Addr().Next()}, 30080
		one := func(s string) netip.Prefix { return netip.PrefixFrom(ip(s), ip(s).BitLen()) }
		svc.LBSourceRanges = []netip.Prefix{one(a.outside), one(a.pod), one(a.node)}
		b := newBalancer(t, 64, tableOf(svc, parts))
		syn := func(src string, dst netip.AddrPort) packet.Verdict {
			return b.Outbound(mk(packet.ProtoTCP, at(src, 4000), dst, packet.SYN))
		}
		want(t, b, syn(a.pod, at(a.vip, 80)), packet.VerdictDrop, "internal policy Local without a local endpoint")
		want(t, b, syn(a.node, at(a.vip, 80)), packet.VerdictDrop, "likewise from the node")
		for _, client := range []string{a.pod, a.node} {
			for _, dst := range []netip.AddrPort{lb, at(svc.ExternalIPs[0].String(), 80), at(a.node, 30080)} {
				want(t, b, syn(client, dst), packet.VerdictPeer, "internal policy Local is for cluster addresses, this is "+dst.String())
			}
		}
		want(t, b, syn(a.outside, lb), packet.VerdictPeer, "allowed client")
		want(t, b, syn(ip(a.outside).Next().String(), lb), packet.VerdictDrop, "forbidden client")
		want(t, b, syn(ip(a.pod).Next().String(), lb), packet.VerdictDrop, "forbidden Pod")
		svc.InternalPolicy, svc.ExternalPolicy = model.PolicyCluster, model.PolicyLocal
		b.Set(tableOf(svc, parts))
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 4001), lb, packet.SYN)), packet.VerdictPeer, "a Pod has Cluster semantics")
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.outside, 4001), lb, packet.SYN)), packet.VerdictDrop, "external policy Local")
		if s := b.Stats(); s.Dropped["local_policy"] != 3 || s.Dropped["source_range"] != 2 {
			t.Fatal(nonzero(s.Dropped))
		}
	})
}

// Source ranges that cannot be read admit no client, inside or outside of the cluster.
func TestNewFlow_InvalidSourceRanges_NoClientAdmitted(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)
		lb := at(a.endpoint, 80)
		svc.Type, svc.LBAddresses, svc.LBSourceInvalid = model.LoadBalancer, []netip.Addr{lb.Addr()}, []string{"everybody"}
		b := newBalancer(t, 64, tableOf(svc, parts))
		for _, client := range []string{a.outside, a.pod, a.node} {
			want(t, b, b.Outbound(mk(packet.ProtoTCP, at(client, 4000), lb, packet.SYN)), packet.VerdictDrop, client)
		}
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.SYN)), packet.VerdictPeer, "the ClusterIP")
		if p := tableOf(svc, parts).Problems(); len(p) != 1 || !strings.Contains(p[0], "everybody") {
			t.Errorf("problems %q", p)
		}
	})
}

func TestSessionAffinity_ManyConnections_SameBackend(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far, ip(a.far).Next().String(), a.peer, a.node)
		svc.Affinity = time.Minute
		b := newBalancer(t, 1024, tableOf(svc, parts))
		first := map[string]netip.AddrPort{}
		for i := range uint16(100) {
			for _, c := range []string{a.pod, a.outside, a.node} {
				p := mk(packet.ProtoTCP, at(c, 4000+i), at(a.vip, 80), packet.SYN)
				b.Outbound(p)
				if have, ok := first[c]; ok && have != p.Destination() {
					t.Fatalf("%s went to %v, then to %v", c, have, p.Destination())
				}
				first[c] = p.Destination()
			}
		}
	})
}

func TestAlgorithms_ManyFlows_SpreadEvenly(t *testing.T) {
	a := families["4"]
	for _, algo := range []string{"random", "round-robin", "least-connections", "maglev", "nonsense"} {
		t.Run(algo, func(t *testing.T) {
			svc, parts := service("web", packet.ProtoUDP, a.vip, 80, 8080, "10.42.2.2", "10.42.2.3", "10.42.2.4", "10.42.2.5")
			svc.Annotations = map[string]string{Annotation: algo}
			b := newBalancer(t, 8192, tableOf(svc, parts))
			count := map[netip.Addr]int{}
			for i := range uint16(4000) {
				p := mk(packet.ProtoUDP, at(a.pod, 4000+i), at(a.vip, 80), 0)
				want(t, b, b.Outbound(p), packet.VerdictPeer, algo)
				count[p.Dst]++
			}
			spread := 150
			switch algo {
			case "round-robin":
				spread = 0
			case "least-connections":
				spread = 20
			}
			for _, e := range []string{"10.42.2.2", "10.42.2.3", "10.42.2.4", "10.42.2.5"} {
				if n := count[ip(e)]; n < 1000-spread || n > 1000+spread {
					t.Errorf("%s: %v", algo, count)
				}
			}
		})
	}
}
