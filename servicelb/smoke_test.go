package servicelb

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

func ip(s string) netip.Addr      { return netip.MustParseAddr(s) }
func pfx(s string) netip.Prefix   { return netip.MustParsePrefix(s) }
func ipp(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func testSelf() Self {
	return Self{
		Node: "n1", Zone: "z1",
		PodRanges: []netip.Prefix{pfx("10.42.0.0/16"), pfx("fd42::/48")},
		Blocks:    []netip.Prefix{pfx("10.42.1.0/24"), pfx("fd42:0:0:1::/64")},
		SNAT4:     ip("10.42.1.1"), SNAT6: ip("fd42:0:0:1::1"),
		PodNet4: ip("10.42.1.0"), PodNet6: ip("fd42:0:0:1::"),
		Addrs:           []netip.Addr{ip("192.168.0.1"), ip("fd00::1")},
		Peers:           []netip.Addr{ip("192.168.0.2"), ip("fd00::2")},
		NodePortAddrs:   []netip.Addr{ip("192.168.0.1"), ip("fd00::1"), ip("127.0.0.1")},
		MasqueradePorts: [2]uint16{32768, 49151},
	}
}

func l4ports(proto uint8, sport, dport uint16, flags uint8, size int) []byte {
	n := map[uint8]int{packet.ProtoTCP: 20, packet.ProtoUDP: 8, packet.ProtoSCTP: 12}[proto]
	b := make([]byte, n+size)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	switch proto {
	case packet.ProtoTCP:
		binary.BigEndian.PutUint32(b[4:], 1000)
		b[12], b[13] = 5<<4, flags
	case packet.ProtoUDP:
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	}
	for i := n; i < len(b); i++ {
		b[i] = byte(i)
	}
	return b
}

func ipHeader(src, dst netip.Addr, proto uint8, size int) []byte {
	if src.Is4() {
		b := make([]byte, 20, 2048)
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(20+size))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		return b
	}
	b := make([]byte, 40, 2048)
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(size))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return b
}

func mk(proto uint8, src, dst netip.AddrPort, flags uint8) *packet.Packet {
	l4 := l4ports(proto, src.Port(), dst.Port(), flags, 10)
	b := append(ipHeader(src.Addr(), dst.Addr(), proto, len(l4)), l4...)
	p := new(packet.Packet)
	if f := p.Parse(b); f != packet.OK {
		panic(f)
	}
	p.FixIPChecksum()
	if proto == packet.ProtoSCTP {
		packet.SCTPChecksum(p.Buf[p.L4:])
	} else {
		p.FixChecksum()
	}
	return p
}

func snap(svcs []model.Service, slices []model.EndpointSlice) *model.Snapshot {
	return &model.Snapshot{ServiceCIDRs: []netip.Prefix{pfx("10.43.0.0/16"), pfx("fd43::/112")}, Services: svcs, Slices: slices}
}

func TestSmoke(t *testing.T) {
	b, err := New(Config{MaxFlows: 1024})
	if err != nil {
		t.Fatal(err)
	}
	b.Set(Build(testSelf(), snap([]model.Service{{ObjectName: model.ObjectName{Namespace: "d", Name: "web"}, ClusterIPs: []netip.Addr{ip("10.43.0.5")},
		Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}}}},
		[]model.EndpointSlice{{ObjectName: model.ObjectName{Namespace: "d", Name: "web-1"}, Service: "web", Ports: []model.EndpointPort{{Protocol: model.TCP, Port: 8080}},
			Endpoints: []model.Endpoint{{Addr: ip("10.42.2.9"), Ready: true}}}})))
	p := mk(6, ipp("10.42.1.5:4000"), ipp("10.43.0.5:80"), packet.SYN)
	if v := b.Outbound(p); v != Peer || p.Destination() != ipp("10.42.2.9:8080") || p.Source() != ipp("10.42.1.5:4000") {
		t.Fatal(v, p.Source(), p.Destination())
	}
	p = mk(6, ipp("10.42.2.9:8080"), ipp("10.42.1.5:4000"), packet.SYN|packet.ACK)
	if v := b.Inbound(p); v != Reflect || p.Source() != ipp("10.43.0.5:80") || p.Destination() != ipp("10.42.1.5:4000") {
		t.Fatal(v, p.Source(), p.Destination())
	}
	t.Log(b.Flows(nil, 0), b.Stats())
}
