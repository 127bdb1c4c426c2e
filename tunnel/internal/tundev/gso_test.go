package tundev

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"github.com/warrennet/warren/tunnel/internal/route"
	"github.com/warrennet/warren/tunnel/internal/tunfd"
	"github.com/warrennet/warren/tunnel/internal/tuntest"
)

// segmentAll runs the Segmenter to its end.
func segmentAll(p *packet.Packet, size int) (out [][]byte) {
	var c Segmenter
	c.Start(p, size)
	for c.More() {
		b := make([]byte, limits.MaxPacket)
		if n := c.Next(b); n > 0 {
			out = append(out, b[:n])
		}
	}
	return out
}

func TestSegmenter_AnySize_EqualsSlowSegmentation(t *testing.T) {
	for _, version := range []uint8{4, 6} {
		for _, n := range []int{1, 2, 99, 100, 101, 1000, 30001, 65000} {
			for _, chunk := range []int{100, 999, 1388} {
				tcp := tuntest.TCP(version, 0xffffff00, tuntest.Pattern(n))
				tcp.Flags |= packet.PSH | packet.FIN | packet.CWR
				tcp.ID = 0xfffe
				for _, s := range []tuntest.Spec{tcp, tuntest.UDP(version, 7, tuntest.Pattern(n))} {
					t.Run(fmt.Sprintf("ip%d/proto%d/%d/%d", version, s.Proto, n, chunk), func(t *testing.T) {
						v, b := s.Super(chunk)
						p := packet.Packet{Vnet: v}
						if f := p.Parse(b); f != packet.OK {
							t.Fatal(f)
						}
						if n > 0 && p.VnetFault() != packet.OK {
							t.Fatal("virtio header refused")
						}
						got, want := segmentAll(&p, chunk), s.Segments(chunk)
						if d := cmp.Diff(want, got); d != "" {
							t.Fatalf("segments differ (-slow +fast):\n%.600s", d)
						}
					})
				}
			}
		}
	}
}

func TestSegmenter_PartialChecksum_IsCompleted(t *testing.T) {
	s := tuntest.UDP(6, 0, tuntest.Pattern(300))
	v, b := s.Super(0)
	v.GSOType = packet.GSONone
	p := packet.Packet{Vnet: v}
	p.Parse(b)
	got := segmentAll(&p, 0)
	if len(got) != 1 || !bytes.Equal(got[0], s.Bytes()) {
		t.Errorf("%d packets, checksum not completed", len(got))
	}
}

// reassembled is a simple reassembly of the fragments of one packet.
func reassembled(t *testing.T, fragments [][]byte, mtu int) []byte {
	t.Helper()
	var head, body []byte
	for i, b := range fragments {
		var f packet.Packet
		if fault := f.Parse(bytes.Clone(b)); fault != packet.OK || len(b) > mtu || !f.Fragment() {
			t.Fatalf("fragment %d of %d bytes: %v, a fragment: %v", i, len(b), fault, f.Fragment())
		}
		if f.MoreFrags == (i == len(fragments)-1) || f.FragOff != len(body) {
			t.Fatalf("fragment %d: more %v, at %d after %d bytes", i, f.MoreFrags, f.FragOff, len(body))
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

func TestSegmenter_Fragments_ReassembleToThePacket(t *testing.T) {
	for _, version := range []uint8{4, 6} {
		for _, size := range []int{1500, 5000, 65000} {
			t.Run(fmt.Sprintf("IPv%d, %d bytes", version, size), func(t *testing.T) {
				want := tuntest.UDP(version, 99, tuntest.Pattern(size)).Bytes()
				var p packet.Packet
				p.Parse(bytes.Clone(want))
				var c Segmenter
				var fragments [][]byte
				for c.StartFragments(&p, 1300); c.More(); {
					b := make([]byte, limits.MaxPacket)
					fragments = append(fragments, b[:c.Next(b)])
				}
				if got := reassembled(t, fragments, 1300); !bytes.Equal(got, want) {
					t.Error("fragments do not reassemble to the packet")
				}
			})
		}
	}
}

func FuzzSegmenter(f *testing.F) {
	f.Add(uint8(4), true, uint16(100), uint16(1000), uint32(5), uint8(0x18), uint16(3))
	f.Add(uint8(6), false, uint16(1388), uint16(60000), uint32(5), uint8(0x18), uint16(3))
	f.Fuzz(func(t *testing.T, version uint8, tcp bool, chunk, n uint16, seq uint32, flags uint8, id uint16) {
		version = 4 + version&1*2
		s := tuntest.UDP(version, id, tuntest.Pattern(int(n)))
		if tcp {
			s = tuntest.TCP(version, seq, tuntest.Pattern(int(n)))
			s.Flags, s.ID = flags, id
		}
		if chunk == 0 || n == 0 || int(n)+100 > limits.MaxPacket {
			return
		}
		v, b := s.Super(int(chunk))
		p := packet.Packet{Vnet: v}
		if p.Parse(b) != packet.OK || p.VnetFault() != packet.OK {
			return
		}
		if got, want := segmentAll(&p, int(chunk)), s.Segments(int(chunk)); !cmp.Equal(got, want) {
			t.Fatal("segments differ from the slow segmentation")
		}
	})
}

// Whatever the headers contain, there is no panic and no overrun.
func FuzzSegmenterInvalid(f *testing.F) {
	v, b := tuntest.TCP(4, 1, tuntest.Pattern(3000)).Super(500)
	raw := make([]byte, packet.VnetLen)
	v.Encode(raw)
	f.Add(append(raw, b...), uint16(700))
	f.Fuzz(func(t *testing.T, raw []byte, limit uint16) {
		d := New(testConfig(nil, nil))
		d.mtuNow.Store(1420)
		own := &route.Owner{MTU: int(limit)}
		fr := newFrame()
		n := copy(fr.raw, raw)
		if fr.parse(n, true) != packet.OK {
			return
		}
		r := newReader(d, 0)
		r.owner = own
		d.queues.Store(&[]tunfd.Queue{&tuntest.Queue{}})
		total := 0
		if r.fit(fr, own.Limit(d.mtu())) {
			r.cur = r.own
			bufs, sizes := tuntest.Buffers(limits.MaxBatch)
			for r.seg.More() || r.outer.More() {
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

func BenchmarkSegmenter(b *testing.B) {
	for _, s := range []tuntest.Spec{tuntest.TCP(4, 1, tuntest.Pattern(64000)), tuntest.TCP(6, 1, tuntest.Pattern(64000)),
		tuntest.UDP(4, 1, tuntest.Pattern(64000))} {
		b.Run(fmt.Sprintf("proto%d", s.Proto), func(b *testing.B) {
			v, raw := s.Super(1388)
			bufs, _ := tuntest.Buffers(64)
			b.SetBytes(64000)
			b.ReportAllocs()
			var c Segmenter
			for b.Loop() {
				p := packet.Packet{Vnet: v}
				p.Parse(raw)
				c.Start(&p, 1388)
				for i := 0; c.More(); i++ {
					c.Next(bufs[i][16:])
				}
			}
		})
	}
}
