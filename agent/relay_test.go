package agent

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"go.uber.org/goleak"
)

func TestRelays(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			all, _ := io.ReadAll(c) // until the client's half is closed
			_, _ = c.Write(append([]byte("got "), all...))
			c.Close()
		}
	}()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(server.Addr().String())))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteToUDPAddrPort(append([]byte("got "), buf[:n]...), from)
		}
	}()
	port := uint16(server.Addr().(*net.TCPAddr).Port)
	to := netip.MustParseAddr("127.0.0.1")
	r := relays{log: slog.New(slog.DiscardHandler)}
	r.set(map[relayKey]bool{{model.TCP, port, to}: true, {model.UDP, port, to}: true})
	at := netip.AddrPortFrom(netip.IPv6Loopback(), port).String()

	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "got hello\n" {
		t.Errorf("TCP: %q, %v", line, err)
	}
	c.Close()
	for range 2 {
		u, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		_ = u.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := u.Read(buf); string(buf[:n]) != "got hello" {
			t.Errorf("UDP: %q, %v", buf[:n], err)
		}
		u.Close()
	}
	r.close()
	if c, err := net.DialTimeout("tcp", at, time.Second); err == nil {
		c.Close()
		t.Error("still open")
	}
	server.Close()
	udp.Close()
}

func TestWhatIsRelayed(t *testing.T) {
	a := netip.MustParseAddr
	me := self{Cluster: model.Cluster{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/48")}}}
	me.Underlay.Addrs = []netip.Addr{a("192.0.2.1"), a("2001:db8::1")}
	snap := &model.Snapshot{Services: []model.Service{
		{Type: model.NodePort, ClusterIPs: []netip.Addr{a("fd43::1")}, Ports: []model.ServicePort{{Protocol: model.TCP, NodePort: 30001}, {Protocol: model.SCTP, NodePort: 30002}}},
		{Type: model.NodePort, ClusterIPs: []netip.Addr{a("10.43.0.1")}, Ports: []model.ServicePort{{Protocol: model.TCP, NodePort: 30003}}},
		{Type: model.NodePort, Foreign: true, ClusterIPs: []netip.Addr{a("fd43::2")}, Ports: []model.ServicePort{{Protocol: model.TCP, NodePort: 30004}}},
		{Type: model.LoadBalancer, ClusterIPs: []netip.Addr{a("fd43::3")}, Ports: []model.ServicePort{{Protocol: model.UDP, NodePort: 30005}, {Protocol: model.UDP}}},
	}}
	pods := []pod{{Addrs: []netip.Addr{a("10.42.0.3"), a("fd42::3")}, HostPorts: []model.HostPort{{Protocol: model.TCP, HostPort: 8080}, {Protocol: model.TCP, HostPort: 8081, HostIP: a("127.0.0.1")},
		{Protocol: model.UDP, HostPort: 8082, HostIP: a("::1")}}}}
	got := relayed(snap, pods, me)
	want := []relayKey{{model.TCP, 30001, a("2001:db8::1")}, {model.UDP, 30005, a("2001:db8::1")}, {model.TCP, 8080, a("2001:db8::1")}, {model.UDP, 8082, a("2001:db8::1")}}
	if len(got) != len(want) {
		t.Errorf("%v; expected %v", got, want)
	}
	for _, k := range want {
		if !got[k] {
			t.Errorf("%v is not relayed", k)
		}
	}
	me.Underlay.Addrs = me.Underlay.Addrs[:1]
	if got := relayed(snap, pods, me); len(got) != 0 {
		t.Errorf("without an IPv6 address: %v", got)
	}
}
