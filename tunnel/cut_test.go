package tunnel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/warrennet/warren/internal/packet"
)

// cutAll runs the cutter to its end.
func cutAll(p *packet.Packet, size int) (out [][]byte) {
	var c cutter
	c.start(p, size)
	for c.more() {
		b := make([]byte, maxPacket)
		if n := c.next(b); n > 0 {
			out = append(out, b[:n])
		}
	}
	return out
}

// naive is the oracle: it builds each segment from the description, field by field, with no thought of speed.
func naive(s spec, chunk int) (out [][]byte) {
	for i, off := uint16(0), 0; off < len(s.payload); i, off = i+1, off+chunk {
		t := s
		end := min(off+chunk, len(s.payload))
		t.payload, t.id, t.seq = s.payload[off:end], s.id+i, s.seq+uint32(off)
		if end < len(s.payload) {
			t.flags &^= packet.FIN | packet.PSH
		}
		if off > 0 {
			t.flags &^= packet.CWR
		}
		out = append(out, t.bytes())
	}
	return out
}

func TestCutEqualsNaive(t *testing.T) {
	for _, version := range []uint8{4, 6} {
		for _, n := range []int{1, 2, 99, 100, 101, 1000, 30001, 65000} {
			for _, chunk := range []int{100, 999, 1388} {
				tcp := tcpSpec(version, 0xffffff00, pattern(n))
				tcp.flags |= packet.PSH | packet.FIN | packet.CWR
				tcp.id = 0xfffe
				for _, s := range []spec{tcp, udpSpec(version, 7, pattern(n))} {
					t.Run(fmt.Sprintf("ip%d/proto%d/%d/%d", version, s.proto, n, chunk), func(t *testing.T) {
						v, b := s.super(chunk)
						p := packet.Packet{Vnet: v}
						if f := p.Parse(b); f != packet.OK {
							t.Fatal(f)
						}
						if n > 0 && p.VnetFault() != packet.OK {
							t.Fatal("virtio header not believed")
						}
						got, want := cutAll(&p, chunk), naive(s, chunk)
						if d := cmp.Diff(want, got); d != "" {
							t.Fatalf("segments differ (-naive +cut):\n%.600s", d)
						}
					})
				}
			}
		}
	}
}

func TestCutWholeCompletesChecksum(t *testing.T) {
	s := udpSpec(6, 0, pattern(300))
	v, b := s.super(0)
	v.GSOType = packet.GSONone
	p := packet.Packet{Vnet: v}
	p.Parse(b)
	got := cutAll(&p, 0)
	if len(got) != 1 || !bytes.Equal(got[0], s.bytes()) {
		t.Errorf("%d packets, checksum not completed", len(got))
	}
}

// rejoined puts the fragments of one packet together again the simple way.
func rejoined(t *testing.T, pieces [][]byte, mtu int) []byte {
	t.Helper()
	var head, body []byte
	for i, b := range pieces {
		var f packet.Packet
		if fault := f.Parse(bytes.Clone(b)); fault != packet.OK || len(b) > mtu || !f.Fragment() {
			t.Fatalf("piece %d of %d bytes: %v, a fragment: %v", i, len(b), fault, f.Fragment())
		}
		if f.MoreFrags == (i == len(pieces)-1) || f.FragOff != len(body) {
			t.Fatalf("piece %d: more %v, at %d after %d bytes", i, f.MoreFrags, f.FragOff, len(body))
		}
		at := 20
		if f.Version == 6 {
			at = 48
		} else if packet.Sum(b[:20], 0) != 0xffff {
			t.Fatal("bad header checksum")
		}
		if i == 0 {
			head = bytes.Clone(b[:at])
		}
		body = append(body, b[at:]...)
	}
	if head[0]>>4 == 6 {
		head[6] = head[40]
		head = head[:40]
		binary.BigEndian.PutUint16(head[4:], uint16(len(body)))
	} else {
		binary.BigEndian.PutUint16(head[2:], uint16(20+len(body)))
		head[6], head[10], head[11] = 0, 0, 0
		binary.BigEndian.PutUint16(head[10:], ^packet.Sum(head, 0))
	}
	return append(head, body...)
}

func TestFragments(t *testing.T) {
	for _, version := range []uint8{4, 6} {
		for _, size := range []int{1500, 5000, 65000} {
			want := udpSpec(version, 99, pattern(size)).bytes()
			var p packet.Packet
			p.Parse(bytes.Clone(want))
			var c cutter
			var pieces [][]byte
			for c.startFragments(&p, 1300); c.more(); {
				b := make([]byte, maxPacket)
				pieces = append(pieces, b[:c.next(b)])
			}
			if got := rejoined(t, pieces, 1300); !bytes.Equal(got, want) {
				t.Errorf("IPv%d, %d bytes: fragments do not make the packet", version, size)
			}
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add(uint8(4), true, uint16(100), uint16(1000), uint32(5), uint8(0x18), uint16(3))
	f.Add(uint8(6), false, uint16(1388), uint16(60000), uint32(5), uint8(0x18), uint16(3))
	f.Fuzz(func(t *testing.T, version uint8, tcp bool, chunk, n uint16, seq uint32, flags uint8, id uint16) {
		version = 4 + version&1*2
		s := udpSpec(version, id, pattern(int(n)))
		if tcp {
			s = tcpSpec(version, seq, pattern(int(n)))
			s.flags, s.id = flags, id
		}
		if chunk == 0 || n == 0 || int(n)+100 > maxPacket {
			return
		}
		v, b := s.super(int(chunk))
		p := packet.Packet{Vnet: v}
		if p.Parse(b) != packet.OK || p.VnetFault() != packet.OK {
			return
		}
		if got, want := cutAll(&p, int(chunk)), naive(s, int(chunk)); !cmp.Equal(got, want) {
			t.Fatal("segments differ from the naive ones")
		}
	})
}

// FuzzCutHostile feeds anything: nothing may panic or overrun, whatever the headers claim.
func FuzzCutHostile(f *testing.F) {
	v, b := tcpSpec(4, 1, pattern(3000)).super(500)
	raw := make([]byte, packet.VnetLen)
	v.Encode(raw)
	f.Add(append(raw, b...), uint16(700))
	f.Fuzz(func(t *testing.T, raw []byte, limit uint16) {
		d := newTunDevice("test", nil, 1, featAll, nil, quietLog, &counters{})
		d.mtuNow.Store(1420)
		own := &peerState{want: Peer{MTU: int(limit)}}
		fr := newFrame()
		n := copy(fr.raw, raw)
		if fr.parse(n, true) != packet.OK {
			return
		}
		r := newReader(d, 0)
		r.owner = own
		d.queues.Store(&[]queue{&fakeQueue{}})
		total := 0
		if r.fit(fr, own.limit(d)) {
			r.cur = r.own
			bufs, sizes := buffers(maxBatch)
			for r.cut.more() || r.outer.more() {
				k := r.fill(bufs, sizes, 16)
				for i := range k {
					total += sizes[i]
				}
			}
		}
		if total > 1<<22 {
			t.Errorf("%d bytes out of %d", total, n)
		}
	})
}

func buffers(n int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, maxPacket)
	}
	return bufs, make([]int, n)
}

func BenchmarkCut(b *testing.B) {
	for _, s := range []spec{tcpSpec(4, 1, pattern(64000)), tcpSpec(6, 1, pattern(64000)), udpSpec(4, 1, pattern(64000))} {
		b.Run(fmt.Sprintf("proto%d", s.proto), func(b *testing.B) {
			v, raw := s.super(1388)
			bufs, _ := buffers(64)
			b.SetBytes(64000)
			b.ReportAllocs()
			var c cutter
			for b.Loop() {
				p := packet.Packet{Vnet: v}
				p.Parse(raw)
				c.start(&p, 1388)
				for i := 0; c.more(); i++ {
					c.next(bufs[i][16:])
				}
			}
		})
	}
}
