package agent

import (
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
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

// A port that somebody else has does not stop the others; all are free again in the end.
func TestDeafSockets(t *testing.T) {
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	theirs, ours := netip.AddrPortFrom(model.IPv4.Loopback(), port), netip.AddrPortFrom(model.IPv4.Loopback().Next(), port)
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
