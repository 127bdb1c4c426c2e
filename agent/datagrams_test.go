package agent

import (
	"encoding/binary"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"golang.org/x/net/bpf"
)

// Of all UDP that comes to the node, only what is for steered ports is read.
func TestFilterOfDatagrams(t *testing.T) {
	vm, err := bpf.NewVM(append([]bpf.Instruction{bpf.LoadAbsolute{Off: 2, Size: 2}}, passPorts([]hostnet.Ports{{Lo: 13000, Hi: 32767}, {Lo: 53, Hi: 53}, {Lo: 8081, Hi: 8081}})...))
	if err != nil {
		t.Fatal(err)
	}
	for port := range 65536 {
		b := binary.BigEndian.AppendUint16([]byte{0, 9}, uint16(port))
		n, err := vm.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		if want := port == 53 || port == 8081 || port >= 13000 && port <= 32767; (n > 0) != want {
			t.Fatalf("port %d: %d bytes pass, expected any: %v", port, n, want)
		}
	}
	many := make([]hostnet.Ports, 60000)
	if _, err := bpf.Assemble(passPorts(many)); err != nil || len(passPorts(many)) > 4000 {
		t.Errorf("a filter for every port has %d instructions: %v", len(passPorts(many)), err)
	}
}

// The node's UDP ports that lead to Pods have a socket at each of its addresses, but for 127.0.0.1, where nothing comes in fragments.
func TestDeafAtThePortsOfPods(t *testing.T) {
	node := netip.MustParseAddr("192.0.2.1")
	me := self{Underlay: hostnet.Underlay{Addrs: []netip.Addr{node}}}
	me.Cluster.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}
	ports := []model.ServicePort{{Protocol: model.UDP, NodePort: 30001}, {Protocol: model.TCP, NodePort: 30002}, {Protocol: model.UDP}}
	snap := &model.Snapshot{Services: []model.Service{{Type: model.NodePort, Ports: ports}, {Ports: ports}, {Foreign: true, Type: model.NodePort,
		Ports: []model.ServicePort{{Protocol: model.UDP, NodePort: 30003}}}}}
	pods := []pod{{HostPorts: []model.HostPort{{Protocol: model.UDP, HostPort: 8081}, {Protocol: model.TCP, HostPort: 8082}, {Protocol: model.UDP, HostPort: 31000}}}}
	want := map[netip.AddrPort]bool{}
	for _, p := range []uint16{30001, 8081, 31000} {
		want[netip.AddrPortFrom(node, p)] = true
	}
	if got := deafAt(snap, pods, me); !maps.Equal(got, want) {
		t.Errorf("%v, expected %v", got, want)
	}
	me.Spared = []uint16{20000}
	read := []hostnet.Ports{{Lo: 13000, Hi: 19999}, {Lo: 20001, Hi: 29999}, {Lo: 30000, Hi: 32767}, {Lo: 8081, Hi: 8081}}
	if got := steeredUDP(pods, me); !slices.Equal(got, read) {
		t.Errorf("read: %v, expected %v", got, read)
	}
}

// A port that somebody else has does not stop the others; all are free again in the end.
func TestDeafSockets(t *testing.T) {
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	theirs, ours := netip.AddrPortFrom(localhost, port), netip.AddrPortFrom(localhost.Next(), port)
	d := deaf{log: slog.New(slog.DiscardHandler)}
	d.set(map[netip.AddrPort]bool{theirs: true, ours: true})
	if _, ok := d.open[ours]; !ok || len(d.open) != 1 {
		t.Errorf("sockets at %v, expected one at %s", d.open, ours)
	}
	d.close()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(ours))
	if err != nil {
		t.Fatalf("still taken: %v", err)
	}
	c.Close()
}
