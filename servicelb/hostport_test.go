package servicelb

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// The same host port on several addresses and protocols belongs to several Pods.
func TestHostPort_SameNumberOnSeveralAddresses_SeveralPods(t *testing.T) {
	a := families["4"]
	pod := func(name, node, addr string, ports ...model.HostPort) model.Pod {
		return model.Pod{ObjectName: model.ObjectName{Namespace: "d", Name: name}, Node: node, Addrs: []netip.Addr{ip(addr)},
			HostPorts: ports}
	}
	s := snap(nil, nil)
	s.Pods = []model.Pod{
		pod("any", "n1", "10.42.1.7", model.HostPort{Protocol: model.TCP, HostPort: 8080, ContainerPort: 80}),
		pod("remote", "n2", "10.42.2.7", model.HostPort{Protocol: model.TCP, HostPort: 9090, ContainerPort: 80}),
		pod("local", "n1", "10.42.1.8", model.HostPort{Protocol: model.TCP, HostPort: 8081, ContainerPort: 81, HostIP: ip("127.0.0.1")}),
		pod("node", "n1", "10.42.1.9", model.HostPort{Protocol: model.TCP, HostPort: 8081, ContainerPort: 82, HostIP: ip(a.node)}),
		pod("udp", "n1", "10.42.1.10", model.HostPort{Protocol: model.UDP, HostPort: 8080, ContainerPort: 83}),
	}
	var builder Builder
	b := newBalancer(t, 64, builder.Build(testSelf(), s))
	for _, c := range []struct {
		proto       uint8
		client, dst string
		port        uint16
		back        string
	}{
		{packet.ProtoTCP, a.outside, a.node, 8080, "10.42.1.7:80"}, {packet.ProtoTCP, a.loop, a.loop, 8080, "10.42.1.7:80"},
		{packet.ProtoTCP, a.loop, a.loop, 8081, "10.42.1.8:81"}, {packet.ProtoTCP, a.outside, a.node, 8081, "10.42.1.9:82"},
		{packet.ProtoUDP, a.outside, a.node, 8080, "10.42.1.10:83"}, {packet.ProtoTCP, a.outside, a.node, 9090, ""},
	} {
		t.Run(fmt.Sprintf("%d/%s:%d", c.proto, c.dst, c.port), func(t *testing.T) {
			p := mk(c.proto, at(c.client, 4000), at(c.dst, c.port), packet.SYN)
			if c.back == "" {
				want(t, b, b.Outbound(p), packet.VerdictReply, "a port of another node")
				return
			}
			want(t, b, b.Outbound(p), packet.VerdictReflect, c.back)
			if intact(t, p); p.Destination() != netip.MustParseAddrPort(c.back) {
				t.Errorf("%s:%d is forwarded to %v, want %s", c.dst, c.port, p.Destination(), c.back)
			}
		})
	}
	next := *s
	next.Pods = append([]model.Pod{pod("again", "n1", "10.42.1.11", s.Pods[0].HostPorts...)}, s.Pods[1:]...)
	b.Set(builder.Build(testSelf(), &next))
	p := mk(packet.ProtoTCP, at(a.outside, 4001), at(a.node, 8080), packet.SYN)
	want(t, b, b.Outbound(p), packet.VerdictReflect, "the Pod that has the port now")
	if p.Destination() != netip.MustParseAddrPort("10.42.1.11:80") {
		t.Error(p.Destination())
	}
	p = mk(packet.ProtoTCP, at(a.outside, 4000), at(a.node, 8080), packet.ACK)
	want(t, b, b.Outbound(p), packet.VerdictReply, "a connection to the Pod that had it")
}

func TestHealthCheckNodePort_ExternalClient_ReachesAgent(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)
		svc.HealthCheckNodePort = 31000
		self := testSelf()
		self.HealthListeners = map[uint16]uint16{31000: 45000}
		b := newBalancer(t, 64, Build(self, snap([]model.Service{svc}, parts)))
		p := mk(packet.ProtoTCP, at(a.outside, 4000), at(a.node, 31000), packet.SYN)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "health check")
		own := self.PodNet(model.FamilyOf(ip(a.node)))
		if p.Destination() != netip.AddrPortFrom(own, 45000) || p.Src != ip(a.snat) {
			t.Fatal(p.Source(), p.Destination())
		}
	})
}
