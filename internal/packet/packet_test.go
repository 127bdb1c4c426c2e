package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// build makes a packet with complete checksums. payload is cut to what the protocol allows.
func build(src, dst string, proto uint8, l4 []byte) []byte {
	b := appendHeader(nil, netip.MustParseAddr(src), netip.MustParseAddr(dst), proto, len(l4))
	b = append(b, l4...)
	if csumOffset(proto) >= 0 {
		finish(b, proto)
	} else {
		q := Packet{Buf: b, Version: b[0] >> 4}
		q.FixIPChecksum()
	}
	return b
}

func tcp(sport, dport uint16, flags uint8, opts, payload []byte) []byte {
	b := make([]byte, 20, 20+len(opts)+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], 1000)
	binary.BigEndian.PutUint32(b[8:], 2000)
	b[12], b[13] = byte(20+len(opts))/4<<4, flags
	return append(append(b, opts...), payload...)
}

func udp(sport, dport uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return append(b, payload...)
}

func echo(typ uint8, id uint16, payload []byte) []byte {
	b := make([]byte, 8)
	b[0] = typ
	binary.BigEndian.PutUint16(b[4:], id)
	return append(b, payload...)
}

func sctp(sport, dport uint16, payload []byte) []byte {
	b := make([]byte, 12)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b = append(b, payload...)
	SCTPChecksum(b)
	return b
}

func mustParse(t testing.TB, b []byte) *Packet {
	var p Packet
	if f := p.Parse(b); f != OK {
		if t == nil {
			panic(f)
		}
		t.Helper()
		t.Fatalf("parse: %v\n%x", f, b)
	}
	return &p
}

// intact checks every checksum of the packet with the naive sum.
func intact(t testing.TB, b []byte) {
	t.Helper()
	p := mustParse(t, b)
	if p.Version == 4 && slowSum(p.Buf[:int(p.Buf[0]&15)*4]) != 0xffff {
		t.Errorf("IPv4 header checksum is wrong\n%x", b)
	}
	if !p.HasL4 || p.Fragment() {
		return
	}
	if p.Proto == ProtoSCTP {
		c := bytes.Clone(p.Buf[p.L4:])
		have := binary.LittleEndian.Uint32(c[8:])
		copy(c[8:12], []byte{0, 0, 0, 0})
		if want := crc32.Checksum(c, castagnoli); have != want {
			t.Errorf("SCTP checksum %x, want %x", have, want)
		}
		return
	}
	if csumOffset(p.Proto) >= 0 && !slowOK(p) {
		t.Errorf("transport checksum is wrong\n%x", b)
	}
}

// slowSum is the oracle: words one by one.
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

func slowOK(p *Packet) bool {
	l4 := p.Buf[p.L4:]
	if p.Proto == ProtoUDP && p.Version == 4 && l4[6] == 0 && l4[7] == 0 {
		return true
	}
	if p.Proto == ProtoICMP {
		return slowSum(l4) == 0xffff
	}
	var pseudo []byte
	pseudo = append(pseudo, p.Src.AsSlice()...)
	pseudo = append(pseudo, p.Dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(l4)))
	pseudo = append(pseudo, 0, 0, 0, p.Proto)
	return slowSum(append(pseudo, l4...)) == 0xffff
}

var samples = func() map[string][]byte {
	data := bytes.Repeat([]byte("warren digs "), 100)
	m := map[string][]byte{}
	for _, fam := range []struct{ n, a, b string }{{"4", "10.42.0.9", "10.42.3.7"}, {"6", "fd42::9", "fd42:0:0:3::7"}} {
		icmp, req := uint8(ProtoICMP), uint8(8)
		if fam.n == "6" {
			icmp, req = ProtoICMPv6, 128
		}
		m["tcp"+fam.n] = build(fam.a, fam.b, ProtoTCP, tcp(4242, 80, ACK|PSH, []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, data))
		m["syn"+fam.n] = build(fam.a, fam.b, ProtoTCP, tcp(4242, 80, SYN, []byte{2, 4, 5, 0xb4, 1, 1, 4, 2}, nil))
		m["oddsyn"+fam.n] = build(fam.a, fam.b, ProtoTCP, tcp(4242, 80, SYN|ACK, []byte{1, 2, 4, 5, 0xb4, 1, 4, 2}, nil))
		m["udp"+fam.n] = build(fam.a, fam.b, ProtoUDP, udp(5353, 53, data[:333]))
		m["echo"+fam.n] = build(fam.a, fam.b, icmp, echo(req, 77, data[:57]))
		m["sctp"+fam.n] = build(fam.a, fam.b, ProtoSCTP, sctp(9, 10, data[:64]))
		for _, of := range []string{"tcp", "udp", "echo", "syn"} {
			q := mustParse(nil, m[of+fam.n])
			m["error-"+of+fam.n] = q.AppendUnreachable(nil, netip.MustParseAddr(fam.b), NoPort)
			m["toobig-"+of+fam.n] = q.AppendTooBig(nil, netip.MustParseAddr(fam.b), 1280)
		}
		m["other"+fam.n] = build(fam.a, fam.b, 47, data[:40])
	}
	nosum := build("10.42.0.9", "10.42.3.7", ProtoUDP, udp(5353, 53, data[:11]))
	nosum[26], nosum[27] = 0, 0
	m["udp-nosum4"] = nosum
	return m
}()

func TestParse_ValidAndInvalidPackets_FieldsOrFault(t *testing.T) {
	p := mustParse(t, samples["tcp6"])
	if p.Version != 6 || p.Proto != ProtoTCP || p.L4 != 40 || p.Source().String() != "[fd42::9]:4242" ||
		p.Destination().String() != "[fd42:0:0:3::7]:80" || p.TCPFlags != ACK|PSH || p.HeaderLen() != 72 {
		t.Errorf("parsed %+v", p)
	}
	ext := build("fd42::1", "fd42::2", 0, append([]byte{60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9},
		udp(7, 8, []byte("x"))...))
	p = mustParse(t, ext)
	if p.Proto != ProtoUDP || p.L4 != 64 || p.SrcPort != 7 || !p.MoreFrags || p.FragID != 9 {
		t.Errorf("extension headers: %+v", p)
	}
	for name, c := range map[string]struct {
		b    []byte
		want Fault
	}{
		"empty":         {nil, Short},
		"version":       {make([]byte, 60), BadVersion},
		"cut4":          {samples["tcp4"][:100], BadLength},
		"cut6":          {samples["tcp6"][:100], BadLength},
		"short tcp":     {build("10.0.0.1", "10.0.0.2", ProtoTCP, make([]byte, 19)), BadTransport},
		"data offset":   {build("10.0.0.1", "10.0.0.2", ProtoTCP, tcpOffset(15)), BadTransport},
		"udp length":    {build("10.0.0.1", "10.0.0.2", ProtoUDP, make([]byte, 8)), BadTransport},
		"chain":         {build("fd42::1", "fd42::2", 60, bytes.Repeat([]byte{60, 0, 0, 0, 0, 0, 0, 0}, 12)), BadExtension},
		"chain cut":     {build("fd42::1", "fd42::2", 60, []byte{60, 9, 0, 0, 0, 0, 0, 0}), BadLength},
		"overlap frag":  {fragment4(build("10.0.0.1", "10.0.0.2", ProtoTCP, make([]byte, 24)), 1), BadTransport},
		"mapped source": {build("fd42::1", "fd42::2", ProtoUDP, udp(1, 2, nil)), OK},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "mapped source" {
				copy(c.b[8:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1})
				c.want = BadTransport
			}
			var p Packet
			if got := p.Parse(c.b); got != c.want {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		})
	}
}

func tcpOffset(words byte) []byte { b := tcp(1, 2, ACK, nil, nil); b[12] = words << 4; return b }

func fragment4(b []byte, units uint16) []byte {
	binary.BigEndian.PutUint16(b[6:], units)
	q := Packet{Buf: b, Version: 4}
	q.FixIPChecksum()
	return b
}

func TestSetAddress_EveryPacketKind_KeepsChecksums(t *testing.T) {
	to := map[uint8][2]netip.AddrPort{
		4: {netip.MustParseAddrPort("192.0.2.200:61000"), netip.MustParseAddrPort("10.43.0.10:53")},
		6: {netip.MustParseAddrPort("[2001:db8::ffff]:61000"), netip.MustParseAddrPort("[fd43::a]:53")},
	}
	for name, b := range samples {
		t.Run(name, func(t *testing.T) {
			p := mustParse(t, bytes.Clone(b))
			intact(t, p.Buf)
			if !p.SetSource(to[p.Version][0]) || !p.SetDestination(to[p.Version][1]) {
				t.Fatal("refused")
			}
			p.SetEcho(4711)
			p.SetTTL(3)
			if in, ok := p.Inner(); ok {
				p.SetInnerSource(&in, to[p.Version][1])
				p.SetInnerDestination(&in, to[p.Version][0])
				p.SetInnerEcho(&in, 99)
				again, _ := p.Inner()
				if again != in {
					t.Errorf("quoted tuple %+v, want %+v", again, in)
				}
				if in.Version == 4 && slowSum(p.Buf[in.IP:in.IP+20]) != 0xffff {
					t.Error("quoted IPv4 header checksum is wrong")
				}
			}
			intact(t, p.Buf)
			again := mustParse(t, bytes.Clone(p.Buf))
			if again.Source() != p.Source() || again.Destination() != p.Destination() || p.TTL() != 3 {
				t.Errorf("rewritten to %v %v, parsed again %v %v", p.Source(), p.Destination(), again.Source(), again.Destination())
			}
			if p.SetSource(to[10-p.Version][0]) {
				t.Error("accepted an address of the other family")
			}
		})
	}
}

// A quoted transport checksum is rewritten with the quotation: undoing a translation restores the quoted bytes exactly.
func TestSetInner_TranslatedAndUndone_RestoresTheQuotedBytes(t *testing.T) {
	for _, fam := range []string{"4", "6"} {
		for _, kind := range []string{"tcp", "udp", "echo"} {
			orig := mustParse(t, bytes.Clone(samples[kind+fam]))
			src, dst := orig.Source(), orig.Destination()
			nat := mustParse(t, bytes.Clone(orig.Buf))
			nat.SetSource(netip.AddrPortFrom(dst.Addr().Next(), 1234))
			nat.SetDestination(netip.AddrPortFrom(dst.Addr(), 8080))
			e := mustParse(t, nat.AppendUnreachable(nil, dst.Addr(), NoPort))
			in, ok := e.Inner()
			if !ok {
				t.Fatal("no quotation")
			}
			e.SetInnerSource(&in, src)
			e.SetInnerDestination(&in, dst)
			quoted := e.Buf[in.IP:]
			if !bytes.Equal(quoted, orig.Buf[:len(quoted)]) {
				t.Errorf("%s%s: quotation differs from the original\n%x\n%x", kind, fam, quoted[:64], orig.Buf[:64])
			}
		}
	}
}

func TestSetAddress_PartialChecksum_KeepsThePseudoHeaderSum(t *testing.T) {
	for _, name := range []string{"tcp4", "tcp6", "udp4", "udp6"} {
		p := mustParse(t, bytes.Clone(samples[name]))
		p.Vnet = Vnet{Flags: NeedsCsum, CsumStart: uint16(p.L4), CsumOffset: uint16(csumOffset(p.Proto))}
		binary.BigEndian.PutUint16(p.Buf[p.L4+csumOffset(p.Proto):], p.PseudoSum(len(p.Buf)-p.L4))
		if !p.Partial() {
			t.Fatal("not partial")
		}
		p.SetSource(netip.AddrPortFrom(p.Src.Next(), 9))
		p.SetDestination(netip.AddrPortFrom(p.Dst.Next(), 10))
		p.ClampMSS(500)
		if got, want := binary.BigEndian.Uint16(p.Buf[p.L4+csumOffset(p.Proto):]), p.PseudoSum(len(p.Buf)-p.L4); got%0xffff != want%0xffff {
			t.Errorf("%s: pseudo sum %x, want %x", name, got, want)
		}
		p.CompleteChecksum()
		intact(t, p.Buf)
	}
}

func TestSetAddress_UDPWithoutChecksum_StaysWithout(t *testing.T) {
	p := mustParse(t, bytes.Clone(samples["udp-nosum4"]))
	p.SetSource(netip.MustParseAddrPort("10.0.0.1:5"))
	if p.Buf[26] != 0 || p.Buf[27] != 0 {
		t.Error("a checksum appeared where the sender had none")
	}
}

// TestSetAddress_UDPChecksumSumsToZero_IsWrittenAsOnes tries all ports: no rewrite may turn a checksum into "none".
func TestSetAddress_UDPChecksumSumsToZero_IsWrittenAsOnes(t *testing.T) {
	p := mustParse(t, bytes.Clone(samples["udp4"]))
	for port := range 1 << 16 {
		p.SetSource(netip.AddrPortFrom(p.Src, uint16(port)))
		if p.Buf[26] == 0 && p.Buf[27] == 0 {
			t.Fatalf("port %d made the checksum vanish", port)
		}
		if !p.ChecksumOK() {
			t.Fatalf("port %d broke the checksum", port)
		}
	}
}

// The checksum under other ports follows from the length alone, whatever the bytes are.
func TestSCTPPortsChecksum_AnyPayload_MatchesTheFullChecksum(t *testing.T) {
	for _, size := range []int{12, 13, 16, 1500, 4100, 4101, 65535} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		SCTPChecksum(b)
		head := bytes.Clone(b[:12])
		binary.BigEndian.PutUint32(head, rand.Uint32())
		ports := binary.BigEndian.Uint32(head) ^ binary.BigEndian.Uint32(b)
		copy(b, head[:8])
		SCTPChecksum(b)
		if SCTPPortsChecksum(head, ports, size); !bytes.Equal(head, b[:12]) {
			t.Errorf("%d bytes: %x, expected %x", size, head, b[:12])
		}
	}
}

func TestDecrementTTL_EachFamily_KeepsChecksumAndStopsAtOne(t *testing.T) {
	for _, raw := range [][]byte{build("192.0.2.1", "192.0.2.2", ProtoUDP, udp(1, 2, nil)), build("2001:db8::1", "2001:db8::2", ProtoUDP,
		udp(1, 2, nil))} {
		for _, ttl := range []uint8{255, 64, 2, 1, 0} {
			p := mustParse(t, bytes.Clone(raw))
			p.SetTTL(ttl)
			before := bytes.Clone(p.Buf)
			if ok := p.DecrementTTL(); ok != (ttl > 1) || ok && p.TTL() != ttl-1 || !ok && !bytes.Equal(p.Buf, before) {
				t.Errorf("TTL %d: %v, then %d", ttl, ok, p.TTL())
			}
			intact(t, p.Buf)
		}
	}
}

func TestClampMSS_SYNWithOption_IsLowered(t *testing.T) {
	for name, want := range map[string]bool{"syn4": true, "syn6": true, "oddsyn4": true, "oddsyn6": true, "tcp4": false, "udp4": false} {
		t.Run(name, func(t *testing.T) {
			p := mustParse(t, bytes.Clone(samples[name]))
			if got := p.ClampMSS(1200); got != want {
				t.Errorf("%s: changed %v, want %v", name, got, want)
			}
			intact(t, p.Buf)
			if p.ClampMSS(1200) {
				t.Errorf("%s: clamped twice", name)
			}
		})
	}
}

func TestAppend_EveryPacketKind_AnswersAreValid(t *testing.T) {
	from4, from6 := netip.MustParseAddr("10.42.0.1"), netip.MustParseAddr("fd42::1")
	for name, b := range samples {
		p := mustParse(t, bytes.Clone(b))
		from := from4
		if p.Version == 6 {
			from = from6
		}
		for kind, a := range map[string][]byte{
			"unreachable": p.AppendUnreachable(nil, from, NoHost),
			"toobig":      p.AppendTooBig(nil, from, 1300),
		} {
			if p.ICMPError() != (len(a) == 0) {
				t.Errorf("%s of %s: %d bytes", kind, name, len(a))
			}
			if len(a) == 0 {
				continue
			}
			intact(t, a)
			q := mustParse(t, a)
			in, ok := q.Inner()
			if !ok || in.Src != p.Src || in.Dst != p.Dst || q.Dst != p.Src || in.SrcPort != p.SrcPort {
				t.Errorf("%s of %s quotes %+v", kind, name, in)
			}
		}
		if r := p.AppendReset(nil); (p.Proto == ProtoTCP) != (len(r) > 0) {
			t.Errorf("reset of %s: %d bytes", name, len(r))
		} else if len(r) > 0 {
			intact(t, r)
			q := mustParse(t, r)
			if q.TCPFlags&RST == 0 || q.Source() != p.Destination() {
				t.Errorf("reset of %s: %+v", name, q)
			}
		}
	}
}

func TestBecome_AnswerFitsOrNot_ReplacesOrKeepsThePacket(t *testing.T) {
	room := make([]byte, 0, 2000)
	p := mustParse(t, append(room, samples["udp6"]...))
	if !p.Become(p.AppendUnreachable(nil, netip.MustParseAddr("fd42::1"), NoPort)) || p.Proto != ProtoICMPv6 ||
		p.Dst.String() != "fd42::9" {
		t.Errorf("became %+v", p)
	}
	intact(t, p.Buf)
	q := mustParse(t, bytes.Clone(samples["syn4"]))
	q.Buf = q.Buf[:len(q.Buf):len(q.Buf)]
	if q.Become(q.AppendUnreachable(nil, netip.MustParseAddr("10.0.0.1"), NoPort)) {
		t.Error("an answer larger than the buffer was accepted")
	}
}

func TestVnetFault_InconsistentHeader_IsAFault(t *testing.T) {
	p := mustParse(t, bytes.Clone(samples["tcp4"]))
	good := Vnet{Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 500, CsumStart: 20, CsumOffset: 16}
	p.Vnet = good
	if f := p.VnetFault(); f != OK {
		t.Fatal(f)
	}
	for _, bad := range []Vnet{
		{Flags: NeedsCsum, GSOType: GSOTCPv6, GSOSize: 500, CsumStart: 20, CsumOffset: 16},
		{Flags: NeedsCsum, GSOType: GSOUDPL4, GSOSize: 500, CsumStart: 20, CsumOffset: 16},
		{Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 0, CsumStart: 20, CsumOffset: 16},
		{Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 500, CsumStart: 21, CsumOffset: 16},
		{Flags: NeedsCsum, CsumStart: 20, CsumOffset: 60000},
		{GSOType: 3, GSOSize: 100},
		{GSOType: GSOTCPv4, GSOSize: 100},
	} {
		p.Vnet = bad
		if p.VnetFault() != BadVnet {
			t.Errorf("%+v was believed", bad)
		}
	}
	var raw [VnetLen]byte
	good.Encode(raw[:])
	var back Vnet
	if back.Decode(raw[:]); back != good {
		t.Errorf("decoded %+v", back)
	}
}

func TestSum_RandomBytes_MatchesTheOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 300)
	for n := range b {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if got, want := Sum(b[:n], 0), slowSum(b[:n]); got != want {
			t.Fatalf("%d bytes: %x, want %x", n, got, want)
		}
	}
}

func TestPacket_ParseAndRewrite_AllocateNothing(t *testing.T) {
	b := bytes.Clone(samples["tcp6"])
	e := bytes.Clone(samples["error-udp4"])
	src, dst := netip.MustParseAddrPort("[fd42::5]:1"), netip.MustParseAddrPort("[fd42::6]:2")
	inner := netip.MustParseAddrPort("10.9.9.9:3")
	var p Packet
	room := make([]byte, 0, MaxAnswer)
	if n := testing.AllocsPerRun(100, func() {
		p.Parse(b)
		p.SetSource(src)
		p.SetDestination(dst)
		p.ClampMSS(1000)
		room = p.AppendReset(room[:0])
		p.Parse(e)
		in, _ := p.Inner()
		p.SetInnerSource(&in, inner)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, b := range samples {
		f.Add(b, uint8(0), uint8(0), uint16(0), uint16(0), uint16(0))
		f.Add(b, uint8(1), uint8(1), uint16(500), uint16(20), uint16(16))
	}
	f.Fuzz(func(t *testing.T, b []byte, flags, gso uint8, size, start, off uint16) {
		p := Packet{Vnet: Vnet{Flags: flags, GSOType: gso, GSOSize: size, CsumStart: start, CsumOffset: off}}
		if p.Parse(bytes.Clone(b)) != OK {
			return
		}
		good := p.HasL4 && !p.Fragment() && !p.Partial() && csumOffset(p.Proto) >= 0 && slowOK(&p)
		to := netip.MustParseAddrPort("10.1.2.3:4")
		if p.Version == 6 {
			to = netip.MustParseAddrPort("[fd00::1]:4")
		}
		p.VnetFault()
		p.FixVnet()
		p.SetSource(to)
		p.SetDestination(to)
		p.ClampMSS(100)
		p.SetEcho(1)
		if in, ok := p.Inner(); ok {
			p.SetInnerSource(&in, to)
			p.SetInnerDestination(&in, to)
			p.SetInnerEcho(&in, 5)
		}
		if good && !slowOK(&p) {
			t.Errorf("a good checksum went bad\n%x\n%x", b, p.Buf)
		}
		p.SetTTL(9)
		from := to.Addr()
		for _, a := range [][]byte{p.AppendReset(nil), p.AppendTooBig(nil, from, 1280), p.AppendUnreachable(nil, from, NoPort)} {
			if len(a) > 0 {
				intact(t, a)
			}
		}
		p.CompleteChecksum()
		p.FixChecksum()
	})
}

func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"tcp4", "tcp6", "udp4"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var p Packet
			for b.Loop() {
				p.Parse(samples[name])
			}
		})
	}
}

func BenchmarkRewrite(b *testing.B) {
	for _, name := range []string{"tcp4", "tcp6"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			p := mustParse(b, bytes.Clone(samples[name]))
			to := netip.AddrPortFrom(p.Src.Next(), 9)
			for b.Loop() {
				p.SetSource(to)
			}
		})
	}
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{64, 1400, 65000} {
		buf := make([]byte, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				Sum(buf, 0)
			}
		})
	}
}
