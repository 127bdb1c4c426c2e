package servicelb

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
	"github.com/warrennet/warren/internal/ownership"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// The directions of a flow.
const (
	original = conntrack.Original
	reply    = conntrack.Reply
)

func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }
func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func testSelf() Self {
	return Self{
		Node: "n1", Zone: "z1",
		PodRanges: []netip.Prefix{pfx("10.42.0.0/16"), pfx("fd42::/48")},
		PodCIDRs:  []netip.Prefix{pfx("10.42.1.0/24"), pfx("fd42:0:0:1::/64")},
		SNAT4:     ip("10.42.1.1"), SNAT6: ip("fd42:0:0:1::1"),
		PodNet4: ip("10.42.1.0"), PodNet6: ip("fd42:0:0:1::"),
		Addrs:           []netip.Addr{ip("192.168.0.1"), ip("fd00::1")},
		Peers:           []netip.Addr{ip("192.168.0.2"), ip("fd00::2")},
		NodePortAddrs:   []netip.Addr{ip("192.168.0.1"), ip("fd00::1"), ip("127.0.0.1")},
		MasqueradePorts: [2]uint16{32768, 49151},
		Ownership: ownership.Rules{ExternalIPs: []netip.Prefix{pfx("0.0.0.0/0"), pfx("::/0")},
			NodeAddrs: []netip.Addr{ip("192.168.0.1"), ip("fd00::1"), ip("127.0.0.1")}},
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
		binary.BigEndian.PutUint32(b[8:], 1000)
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

// mk makes a packet with ten bytes of payload.
func mk(proto uint8, src, dst netip.AddrPort, flags uint8) *packet.Packet {
	l4 := l4ports(proto, src.Port(), dst.Port(), flags, 10)
	return parsed(append(ipHeader(src.Addr(), dst.Addr(), proto, len(l4)), l4...))
}

func snap(svcs []model.Service, slices []model.EndpointSlice) *model.Snapshot {
	return &model.Snapshot{ServiceCIDRs: []netip.Prefix{pfx("10.43.0.0/16"), pfx("fd43::/112")}, Services: svcs, Slices: slices}
}

// slowSum adds words one by one.
func slowSum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		s += w
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// intact verifies every checksum of a packet by full recomputation, and that the parsed fields equal the bytes.
func intact(t testing.TB, p *packet.Packet) {
	t.Helper()
	sound(t, p)
	if in, ok := p.Inner(); ok && !p.Fragment() && in.Proto != packet.ProtoSCTP { // the quotations made here are whole
		sumIntact(t, in.Src, in.Dst, in.Proto, p.Buf[in.L4:])
	}
}

// sound is intact without regard to what an ICMP error quotes.
func sound(t testing.TB, p *packet.Packet) {
	t.Helper()
	var q packet.Packet
	q.Vnet = p.Vnet
	if f := q.Parse(p.Buf); f != packet.OK {
		t.Fatalf("output does not parse: %v\n%x", f, p.Buf)
	}
	if q.Src != p.Src || q.Dst != p.Dst || q.SrcPort != p.SrcPort || q.DstPort != p.DstPort || q.Proto != p.Proto {
		t.Fatalf("fields %v -> %v, bytes %v -> %v", p.Source(), p.Destination(), q.Source(), q.Destination())
	}
	if q.Version == 4 && slowSum(q.Buf[:int(q.Buf[0]&15)*4]) != 0xffff {
		t.Fatalf("IPv4 header checksum is wrong\n%x", q.Buf)
	}
	if !q.HasL4 || q.Fragment() {
		return
	}
	sumIntact(t, q.Src, q.Dst, q.Proto, q.Buf[q.L4:])
}

func sumIntact(t testing.TB, src, dst netip.Addr, proto uint8, l4 []byte) {
	t.Helper()
	var pseudo []byte
	switch proto {
	case packet.ProtoSCTP:
		c := bytes.Clone(l4)
		packet.SCTPChecksum(c)
		if !bytes.Equal(c, l4) {
			t.Fatalf("SCTP checksum is wrong\n%x", l4)
		}
		return
	case packet.ProtoUDP:
		if src.Is4() && l4[6] == 0 && l4[7] == 0 {
			return
		}
	case packet.ProtoICMP:
		if slowSum(l4) != 0xffff {
			t.Fatalf("ICMP checksum is wrong\n%x", l4)
		}
		return
	}
	pseudo = append(append(pseudo, src.AsSlice()...), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(l4)))
	pseudo = append(pseudo, 0, 0, 0, proto)
	if slowSum(append(pseudo, l4...)) != 0xffff {
		t.Fatalf("checksum of protocol %d is wrong\n%x", proto, l4)
	}
}

// echoOf makes a ping or its answer.
func echoOf(src, dst netip.Addr, request bool, id uint16) *packet.Packet {
	proto, typ := uint8(packet.ProtoICMP), uint8(0)
	if request {
		typ = 8
	}
	if src.Is6() {
		proto, typ = packet.ProtoICMPv6, 129
		if request {
			typ = 128
		}
	}
	l4 := []byte{typ, 0, 0, 0, byte(id >> 8), byte(id), 0, 1, 'p', 'i', 'n', 'g'}
	return parsed(append(ipHeader(src, dst, proto, len(l4)), l4...))
}

// parsed completes the checksums of a packet and parses it.
func parsed(b []byte) *packet.Packet {
	p := new(packet.Packet)
	if f := p.Parse(b); f != packet.OK {
		panic(f)
	}
	p.FixIPChecksum()
	if p.Proto == packet.ProtoSCTP {
		packet.SCTPChecksum(p.Buf[p.L4:])
	} else {
		p.FixChecksum()
	}
	return p
}

// errorAbout is the ICMP error that from sends to dst about a packet that was seen as about.
func errorAbout(about *packet.Packet, from netip.Addr) *packet.Packet {
	p := new(packet.Packet)
	if f := p.Parse(append(make([]byte, 0, 2048), about.AppendUnreachable(nil, from, packet.NoHost)...)); f != packet.OK {
		panic(f)
	}
	return p
}

func clone(p *packet.Packet) *packet.Packet {
	q := *p
	q.Buf = append(make([]byte, 0, 2048), p.Buf...)
	return &q
}

func newBalancer(t testing.TB, capacity int, table *Table) *Balancer {
	t.Helper()
	b, err := New(Config{MaxFlows: capacity})
	if err != nil {
		t.Fatal(err)
	}
	b.Set(table)
	return b
}

// service makes a Service "d/name" with one port, and its slices, from addresses of endpoints.
func service(name string, proto uint8, vip string, port, target uint16, endpoints ...string) (model.Service, []model.EndpointSlice) {
	svc := model.Service{ObjectName: model.ObjectName{Namespace: "d", Name: name},
		Ports: []model.ServicePort{{Protocol: model.Protocol(proto), Port: port}}}
	if vip != "" {
		svc.ClusterIPs = []netip.Addr{ip(vip)}
	}
	var out []model.EndpointSlice
	for _, f := range model.Families {
		s := model.EndpointSlice{ObjectName: model.ObjectName{Namespace: "d", Name: name + "-1"}, Service: name, Family: f,
			Ports: []model.EndpointPort{{Protocol: model.Protocol(proto), Port: target}}}
		for _, e := range endpoints {
			if a := ip(e); model.FamilyOf(a) == f {
				s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: a, Ready: true, Serving: true, Node: nodeOf(a)})
			}
		}
		out = append(out, s)
	}
	return svc, out
}

func nodeOf(a netip.Addr) string {
	self := testSelf()
	if netx.Contains(self.PodCIDRs, a) || slices.Contains(self.Addrs, a) {
		return "n1"
	}
	return "n2"
}

func tableOf(svc model.Service, parts []model.EndpointSlice) *Table {
	return Build(testSelf(), snap([]model.Service{svc}, parts))
}

// at joins an address and a port.
func at(a string, port uint16) netip.AddrPort { return netip.AddrPortFrom(ip(a), port) }

// eachFamily runs a test in both families.
func eachFamily(t *testing.T, f func(t *testing.T, a testAddrs)) {
	for fam, a := range families {
		t.Run(fam, func(t *testing.T) { f(t, a) })
	}
}

func want(t *testing.T, b *Balancer, got, want packet.Verdict, what string) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %v, want %v; counters %v", what, got, want, nonzero(b.Stats().Dropped))
	}
}

func nonzero(m map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for k, n := range m {
		if n != 0 {
			out[k] = n
		}
	}
	return out
}
