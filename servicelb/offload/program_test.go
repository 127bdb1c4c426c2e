package offload

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/warrennet/warren/internal/packet"
)

func open(t testing.TB, size int) *Program {
	t.Helper()
	if testing.Short() && os.Geteuid() != 0 {
		t.Skip("this test needs root")
	}
	p, err := New(size, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("this test needs root and Linux 6.6: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// run runs the program in the kernel on a frame as if interface 1 had received it.
func run(t testing.TB, p *Program, frame []byte) (verdict int32, out []byte) {
	t.Helper()
	buf := make([]byte, len(frame)+256)
	o := ebpf.RunOptions{Data: frame, DataOut: buf}
	v, err := p.prog.Run(&o)
	if err != nil {
		t.Fatal(err)
	}
	return int32(v), o.DataOut
}

func tuple(src, dst netip.AddrPort) Tuple {
	return Tuple{src.Addr().As16(), dst.Addr().As16(), src.Port(), dst.Port()}
}

// frame makes a packet with correct checksums and an empty Ethernet header.
func frame(proto uint8, src, dst netip.AddrPort, flags uint8, seq, ack uint32, payload []byte) []byte {
	head := 20
	if src.Addr().Is6() {
		head = 40
	}
	b := make([]byte, 14+head)
	ip := b[14:]
	l4 := make([]byte, 8)
	if proto == packet.ProtoTCP {
		l4 = make([]byte, 20)
		binary.BigEndian.PutUint32(l4[4:], seq)
		binary.BigEndian.PutUint32(l4[8:], ack)
		l4[12], l4[13] = 5<<4, flags
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(8+len(payload)))
	}
	binary.BigEndian.PutUint16(l4, src.Port())
	binary.BigEndian.PutUint16(l4[2:], dst.Port())
	if head == 20 {
		b[12], b[13] = 0x08, 0
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(head+len(l4)+len(payload)))
		copy(ip[12:], src.Addr().AsSlice())
		copy(ip[16:], dst.Addr().AsSlice())
	} else {
		b[12], b[13] = 0x86, 0xdd
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)+len(payload)))
		copy(ip[8:], src.Addr().AsSlice())
		copy(ip[24:], dst.Addr().AsSlice())
	}
	b = append(append(b, l4...), payload...)
	p := packet.Packet{}
	if p.Parse(b[14:]) == packet.OK {
		p.FixChecksum()
		if p.Version == 4 {
			p.FixIPChecksum()
		}
	}
	return b
}

// expected translates a frame with the functions that the load balancer uses.
func expected(t testing.TB, b []byte, w *Translation, src, dst netip.AddrPort) []byte {
	t.Helper()
	out := bytes.Clone(b)
	copy(out, w.To.MAC[:])
	copy(out[6:], w.To.HostMAC[:])
	p := packet.Packet{}
	if f := p.Parse(out[14:]); f != packet.OK {
		t.Fatal(f)
	}
	p.SetTTL(p.TTL() - 1)
	if !p.SetSource(src) || !p.SetDestination(dst) {
		t.Fatal("not of one family")
	}
	return out
}

type flow struct {
	proto         uint8
	client, vip   netip.AddrPort
	backend       netip.AddrPort
	directions    [2]Translation
	here, there   Pod
	index, number uint32
}

func newFlow(index uint32, proto uint8, client, vip, backend string) *flow {
	f := &flow{proto: proto, client: netip.MustParseAddrPort(client), vip: netip.MustParseAddrPort(vip),
		backend: netip.MustParseAddrPort(backend),
		here:    Pod{1, MAC{2, 1, 1, 1, 1, 1}, MAC{2, 2, 2, 2, 2, 2}}, there: Pod{1, MAC{2, 3, 3, 3, 3, 3}, MAC{2, 4, 4, 4, 4, 4}},
		index:  index,
		number: 1000 + index}
	f.directions = [2]Translation{
		{In: tuple(f.client, f.vip), Out: tuple(f.client, f.backend), From: f.here, To: f.there},
		{In: tuple(f.backend, f.client), Out: tuple(f.vip, f.client), From: f.there, To: f.here},
	}
	return f
}

func (f *flow) put(t testing.TB, p *Program) {
	t.Helper()
	if err := p.Put(f.index, f.number, f.proto, &f.directions); err != nil {
		t.Fatal(err)
	}
	p.State(f.index).Armed.Store(f.number)
}

// packets returns a packet of each direction and its expected translation.
func (f *flow) packets(t testing.TB, flags uint8, seq, ack uint32, payload []byte) (in, out [2][]byte) {
	in[0] = frame(f.proto, f.client, f.vip, flags, seq, ack, payload)
	in[1] = frame(f.proto, f.backend, f.client, flags, seq, ack, payload)
	out[0] = expected(t, in[0], &f.directions[0], f.client, f.backend)
	out[1] = expected(t, in[1], &f.directions[1], f.vip, f.client)
	return in, out
}

func TestProgram_RandomPackets_TranslatedLikeTheBalancer(t *testing.T) {
	p := open(t, 64)
	for i, f := range []*flow{
		newFlow(0, packet.ProtoTCP, "10.42.1.2:40000", "10.96.0.10:80", "10.42.1.3:8080"),
		newFlow(1, packet.ProtoTCP, "10.42.1.2:40001", "10.96.0.10:80", "10.42.1.3:80"),
		newFlow(2, packet.ProtoUDP, "10.42.1.2:40000", "10.96.0.10:5000", "10.42.1.3:5001"),
		newFlow(3, packet.ProtoTCP, "[fd42::1:2]:40000", "[fd43::10]:80", "[fd42::1:3]:8080"),
		newFlow(4, packet.ProtoUDP, "[fd42::1:2]:40000", "[fd43::10]:5000", "[fd42::1:3]:5000"),
	} {
		f.put(t, p)
		for n := range 300 {
			payload := make([]byte, rand.IntN(1200))
			for j := range payload {
				payload[j] = byte(rand.Uint32())
			}
			in, out := f.packets(t, packet.ACK|packet.PSH, rand.Uint32(), rand.Uint32(), payload)
			for dir := range in {
				verdict, got := run(t, p, in[dir])
				if verdict != redirected || !bytes.Equal(got, out[dir]) {
					t.Fatalf("flow %d, packet %d, direction %d: verdict %d\n in  %x\n got %x\nwant %x", i, n, dir, verdict, in[dir],
						got, out[dir])
				}
			}
		}
	}
}

func TestProgram_OtherPackets_PassUnchanged(t *testing.T) {
	p := open(t, 64)
	f := newFlow(0, packet.ProtoTCP, "10.42.1.2:40000", "10.96.0.10:80", "10.42.1.3:8080")
	f6 := newFlow(1, packet.ProtoTCP, "[fd42::1:2]:40000", "[fd43::10]:80", "[fd42::1:3]:8080")
	u := newFlow(2, packet.ProtoUDP, "10.42.1.2:40000", "10.96.0.10:80", "10.42.1.3:8080")
	for _, f := range []*flow{f, f6, u} {
		f.put(t, p)
	}
	good := func(f *flow, flags uint8) []byte { in, _ := f.packets(t, flags, 1, 1, []byte("payload")); return in[0] }
	edit := func(b []byte, at int, v ...byte) []byte { copy(b[at:], v); return b }
	cases := map[string][]byte{
		"SYN":                 good(f, packet.SYN),
		"IPv6 SYN":            good(f6, packet.SYN),
		"IPv4 options":        edit(good(f, packet.ACK), 14, 0x46),
		"more fragments":      edit(good(f, packet.ACK), 20, 0x20),
		"a later fragment":    edit(good(f, packet.ACK), 20, 0, 9),
		"last hop":            edit(good(f, packet.ACK), 22, 1),
		"IPv6 last hop":       edit(good(f6, packet.ACK), 21, 1),
		"IPv6 extension":      edit(good(f6, packet.ACK), 20, 0),
		"another protocol":    edit(good(f, packet.ACK), 23, 132),
		"another source":      edit(good(f, packet.ACK), 29, 9),
		"another destination": edit(good(f, packet.ACK), 33, 9),
		"another port":        edit(good(f, packet.ACK), 34, 1),
		"another MAC address": edit(good(f, packet.ACK), 0, 2, 9, 9, 9, 9, 9),
		"ARP":                 edit(good(f, packet.ACK), 12, 8, 6),
		"cut in the ports":    good(f, packet.ACK)[:36],
		"cut in TCP":          good(f, packet.ACK)[:50],
		"IPv6 cut in TCP":     good(f6, packet.ACK)[:70],
	}
	for name, in := range cases {
		verdict, out := run(t, p, in)
		if verdict != next || !bytes.Equal(in, out) {
			t.Errorf("%s: verdict %d, expected %d and the packet as it was", name, verdict, next)
		}
	}
	for i := range uint32(3) {
		if s := p.State(i); s.Packets[0].Load() != 0 || s.Packets[1].Load() != 0 {
			t.Errorf("flow %d has counted packets", i)
		}
	}
	if verdict, _ := run(t, p, good(u, 0)); verdict != redirected {
		t.Errorf("a datagram of the UDP flow: verdict %d", verdict)
	}
}

// A flow's packets are forwarded exactly while its State is armed with the ID of its entry.
func TestProgram_StateDisarmed_PacketsPass(t *testing.T) {
	p := open(t, 8)
	f := newFlow(3, packet.ProtoTCP, "10.42.1.2:40000", "10.96.0.10:80", "10.42.1.3:8080")
	in, _ := f.packets(t, packet.ACK, 1, 1, nil)
	want := func(verdict int32, when string) {
		t.Helper()
		for dir := range in {
			if got, _ := run(t, p, in[dir]); got != verdict {
				t.Errorf("%s, direction %d: verdict %d, expected %d", when, dir, got, verdict)
			}
		}
	}
	want(next, "before it was put")
	if err := p.Put(f.index, f.number, f.proto, &f.directions); err != nil {
		t.Fatal(err)
	}
	want(next, "put, not armed")
	s := p.State(f.index)
	s.Armed.Store(f.number)
	want(redirected, "armed")
	s.Armed.Store(0)
	want(next, "disarmed")
	s.Armed.Store(f.number + 1)
	want(next, "armed for another flow")
	s.Armed.Store(f.number)
	want(redirected, "armed again")
	for range 2 { // the second Delete finds nothing
		p.Delete(f.proto, &f.directions[0])
		p.Delete(f.proto, &f.directions[1])
		want(next, "deleted")
	}
}

func TestProgram_ForwardedPackets_Counted(t *testing.T) {
	p := open(t, 8)
	f := newFlow(3, packet.ProtoTCP, "10.42.1.2:40000", "10.96.0.10:80", "10.42.1.3:8080")
	f.put(t, p)
	send := func(dir int, flags uint8, ack uint32, payload string) {
		in, _ := f.packets(t, flags, 1, ack, []byte(payload))
		if verdict, _ := run(t, p, in[dir]); verdict != redirected {
			t.Fatalf("verdict %d", verdict)
		}
	}
	send(1, packet.SYN|packet.ACK, 0x01020304, "")
	send(0, packet.ACK, 0xfffefdfc, "hello")
	send(0, packet.ACK|packet.PSH, 0xfffefdfd, "")
	s := p.State(3)
	if a, b := s.Packets[0].Swap(0), s.Packets[1].Swap(0); a != 2 || b != 1 {
		t.Errorf("packets %d and %d, expected 2 and 1", a, b)
	}
	if a, b := s.Bytes[0].Swap(0), s.Bytes[1].Swap(0); a != 85 || b != 40 {
		t.Errorf("bytes %d and %d, expected 85 and 40", a, b)
	}
	if a, b := s.Acks[0].Load(), s.Acks[1].Load(); a != 0xfffefdfd || b != 0x01020304 {
		t.Errorf("acknowledgements %x and %x", a, b)
	}
	if a, b := s.Flags[0].Load(), s.Flags[1].Load(); a != packet.ACK || b != packet.SYN|packet.ACK {
		t.Errorf("flags %x and %x", a, b)
	}
	send(0, packet.FIN|packet.ACK, 7, "")
	if a, n := s.Flags[0].Load(), s.Packets[0].Load(); a != packet.ACK|packet.FIN || n != 1 {
		t.Errorf("flags %x after the FIN, %d packets since they were taken", a, n)
	}
}

// UDP without a checksum stays without one.
func TestProgram_UDPWithoutChecksum_StaysWithout(t *testing.T) {
	p := open(t, 8)
	f := newFlow(3, packet.ProtoUDP, "10.42.1.2:40000", "10.96.0.10:80", "10.42.1.3:8080")
	f.put(t, p)
	in, _ := f.packets(t, 0, 0, 0, []byte("payload"))
	in[0][40], in[0][41] = 0, 0
	verdict, out := run(t, p, in[0])
	if verdict != redirected || out[40] != 0 || out[41] != 0 {
		t.Errorf("verdict %d, checksum %x", verdict, out[40:42])
	}
}

func TestPut_MapFull_Refused(t *testing.T) {
	p := open(t, 1)
	a := newFlow(0, packet.ProtoTCP, "10.42.1.2:40000", "10.96.0.10:80", "10.42.1.3:8080")
	b := newFlow(0, packet.ProtoTCP, "10.42.1.2:40001", "10.96.0.10:80", "10.42.1.3:8080")
	a.put(t, p)
	if err := p.Put(b.index, b.number, b.proto, &b.directions); err == nil {
		t.Error("a second flow fits into room for one")
	}
	if err := p.Put(a.index, 77, a.proto, &a.directions); err != nil {
		t.Errorf("the same flow again: %v", err)
	}
}

// The map holds both directions of as many flows as the agent configures.
func TestPut_AsManyFlowsAsSlots_AllForwarded(t *testing.T) {
	const flows = 1 << 15
	p := open(t, flows)
	f := newFlow(0, packet.ProtoTCP, "10.42.1.2:1", "10.96.0.10:80", "10.42.1.3:8080")
	for i := range uint32(flows) {
		f.directions[0].In.SrcPort, f.directions[1].In.DstPort = uint16(i), uint16(i)
		if err := p.Put(i, i+1, f.proto, &f.directions); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		p.State(i).Armed.Store(i + 1)
	}
	last := newFlow(0, packet.ProtoTCP, "10.42.1.2:32767", "10.96.0.10:80", "10.42.1.3:8080")
	in, _ := last.packets(t, packet.ACK, 1, 1, nil)
	for dir := range in {
		if verdict, _ := run(t, p, in[dir]); verdict != redirected {
			t.Errorf("the last flow, direction %d: verdict %d", dir, verdict)
		}
	}
}

func BenchmarkProgram(b *testing.B) {
	p := open(b, 8)
	f := newFlow(3, packet.ProtoTCP, "10.42.1.2:40000", "10.96.0.10:80", "10.42.1.3:8080")
	f.put(b, p)
	in, _ := f.packets(b, packet.ACK, 1, 1, make([]byte, 100))
	o := ebpf.RunOptions{Data: in[0], Repeat: uint32(b.N)}
	if _, err := p.prog.Run(&o); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkPut(b *testing.B) {
	p := open(b, 1<<14)
	b.ReportAllocs()
	f := newFlow(3, packet.ProtoTCP, "10.42.1.2:40000", "10.96.0.10:80", "10.42.1.3:8080")
	for i := range b.N {
		f.directions[0].In.SrcPort = uint16(i) & 0x3fff
		if err := p.Put(uint32(i)&0x3fff, uint32(i), f.proto, &f.directions); err != nil {
			b.Fatal(err)
		}
	}
}
