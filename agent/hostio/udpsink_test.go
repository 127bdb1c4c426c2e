package hostio

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
)

func TestUDPSinks_OnePortTaken_OpensOthersAndFreesAll(t *testing.T) {
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	theirs, ours := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port)
	s := NewUDPSinks(slog.New(slog.DiscardHandler))
	s.Set(map[netip.AddrPort]bool{theirs: true, ours: true})
	if _, ok := s.open[ours]; !ok || len(s.open) != 1 {
		t.Errorf("sockets at %v, expected one at %s", s.open, ours)
	}
	s.Close()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(ours))
	if err != nil {
		t.Fatalf("still bound: %v", err)
	}
	c.Close()
}
