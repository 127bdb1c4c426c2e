package tundev

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"github.com/warrennet/warren/tunnel/internal/tuntest"
)

// coalesced runs a batch through the coalescer and returns each group as one packet with its virtio header.
func coalesced(batch [][]byte) (out []packet.Packet) {
	w := newWriter(New(testConfig(nil, nil)))
	w.coal.reset(true, true)
	for i, b := range batch {
		w.coal.add(i, bytes.Clone(b))
	}
	for i := range w.coal.groups {
		g := &w.coal.groups[i]
		g.finish()
		f := w.gather(g)
		p := packet.Packet{Vnet: f.pkt.Vnet}
		if fault := p.Parse(bytes.Clone(f.pkt.Buf)); fault != packet.OK || p.VnetFault() != packet.OK {
			panic(fmt.Sprintf("coalesced packet is invalid: %v %+v", fault, p.Vnet))
		}
		w.d.frames.put(f)
		out = append(out, p)
	}
	return out
}

func segmentAgain(ps []packet.Packet) (out [][]byte) {
	for i := range ps {
		out = append(out, segmentAll(&ps[i], int(ps[i].Vnet.GSOSize))...)
	}
	return out
}

func TestCoalescer_EachHeaderDifference_IsNotCoalesced(t *testing.T) {
	data := tuntest.Pattern(1000)
	seg := func(v uint8, i int, change func(*tuntest.Spec)) []byte {
		s := tuntest.TCP(v, 1000+uint32(i)*1000, data)
		s.ID = uint16(i)
		if change != nil {
			change(&s)
		}
		return s.Bytes()
	}
	dgram := func(v uint8, i int, change func(*tuntest.Spec)) []byte {
		s := tuntest.UDP(v, uint16(i), data)
		if change != nil {
			change(&s)
		}
		return s.Bytes()
	}
	cases := []struct {
		name   string
		change func(*tuntest.Spec) // of the middle one of three
		tcp    int                 // packets after coalescing
		udp    int
	}{
		{"plain", nil, 1, 1},
		{"short middle", func(s *tuntest.Spec) { s.Payload = s.Payload[:500] }, 2, 2},
		{"long middle", func(s *tuntest.Spec) { s.Payload = tuntest.Pattern(1100) }, 3, 2},
		{"tos", func(s *tuntest.Spec) { s.TOS = 8 }, 3, 3},
		{"ecn", func(s *tuntest.Spec) { s.TOS = 3 }, 3, 3},
		{"ttl", func(s *tuntest.Spec) { s.TTL = 9 }, 3, 3},
		{"bad checksum", func(s *tuntest.Spec) { s.BadChecksum = true }, 3, 3},
		{"no payload", func(s *tuntest.Spec) { s.Payload = nil }, 3, 3},
		{"push", func(s *tuntest.Spec) { s.Flags |= packet.PSH }, 2, 1},
		{"fin", func(s *tuntest.Spec) { s.Flags |= packet.FIN }, 3, 1},
		{"syn", func(s *tuntest.Spec) { s.Flags |= packet.SYN }, 3, 1},
		{"rst", func(s *tuntest.Spec) { s.Flags |= packet.RST }, 3, 1},
		{"urg", func(s *tuntest.Spec) { s.Flags |= packet.URG }, 3, 1},
		{"cwr", func(s *tuntest.Spec) { s.Flags |= packet.CWR }, 3, 1},
		{"ece", func(s *tuntest.Spec) { s.Flags |= packet.ECE }, 3, 1},
		{"ack number", func(s *tuntest.Spec) { s.Ack++ }, 3, 1},
		{"window", func(s *tuntest.Spec) { s.Window++ }, 3, 1},
		{"options", func(s *tuntest.Spec) { s.Opts = []byte{1, 1, 8, 10, 0, 0, 0, 10, 0, 0, 0, 8} }, 3, 1},
		{"gap", func(s *tuntest.Spec) { s.Seq += 5 }, 3, 1},
		{"port", func(s *tuntest.Spec) {
			s.Src = map[bool]string{true: "10.42.0.9:1", false: "[fd42::9]:1"}[s.Src[0] == '1']
		}, 3, 2},
		{"no udp sum", func(s *tuntest.Spec) { s.NoUDPSum = s.Proto == packet.ProtoUDP && s.Src[0] == '1' }, 1, 3},
	}
	for _, c := range cases {
		for _, v := range []uint8{4, 6} {
			for proto, make := range map[uint8]func(uint8, int, func(*tuntest.Spec)) []byte{packet.ProtoTCP: seg, packet.ProtoUDP: dgram} {
				t.Run(fmt.Sprintf("%s/ip%d/proto%d", c.name, v, proto), func(t *testing.T) {
					batch := [][]byte{make(v, 0, nil), make(v, 1, c.change), make(v, 2, nil)}
					want := c.tcp
					if proto == packet.ProtoUDP {
						want = c.udp
					}
					switch {
					case c.name == "no udp sum" && (v == 6 || proto == packet.ProtoTCP):
						want = 1
					case c.name == "port" && proto == packet.ProtoTCP: // a segment of the flow is missing
						want = 3
					case c.name == "port" && v == 4: // identifications count per host
						want = 3
					}
					got := coalesced(batch)
					if len(got) != want {
						t.Errorf("%d packets, want %d", len(got), want)
					}
					if again := segmentAgain(got); c.name != "port" && !tuntest.Same(batch, again) {
						t.Error("segmentation does not give the same segments")
					}
				})
			}
		}
	}
}

// byFlow sorts segments by flow, keeping the order inside each.
func byFlow(batch [][]byte) map[string][][]byte {
	out := map[string][][]byte{}
	for _, b := range batch {
		var p packet.Packet
		p.Parse(b)
		k := fmt.Sprint(p.Source(), p.Destination(), p.Proto)
		out[k] = append(out[k], b)
	}
	return out
}

// For any batch, coalescing and segmentation give each flow the same segments in the same order.
func FuzzCoalescer(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		batch := randomBatch(rand.New(rand.NewPCG(a, b)))
		got := segmentAgain(coalesced(batch))
		want, have := byFlow(batch), byFlow(got)
		if len(want) != len(have) {
			t.Fatalf("%d flows, want %d", len(have), len(want))
		}
		for k := range want {
			if !tuntest.Same(want[k], have[k]) {
				t.Fatalf("flow %s differs", k)
			}
		}
	})
}

func TestCoalescer_RandomBatches_SegmentsAreUnchanged(t *testing.T) {
	for seed := range uint64(300) {
		batch := randomBatch(rand.New(rand.NewPCG(seed, 1)))
		want, have := byFlow(batch), byFlow(segmentAgain(coalesced(batch)))
		for k := range want {
			if !tuntest.Same(want[k], have[k]) {
				t.Fatalf("seed %d: flow %s differs", seed, k)
			}
		}
	}
}

// randomBatch interleaves flows that sometimes have gaps, odd sizes or damaged checksums.
func randomBatch(r *rand.Rand) (batch [][]byte) {
	type flow struct {
		s    tuntest.Spec
		size int
	}
	var flows []flow
	for i := range 1 + r.IntN(4) {
		v := uint8(4 + 2*r.IntN(2))
		s := tuntest.TCP(v, r.Uint32(), nil)
		if r.IntN(2) == 0 {
			s = tuntest.UDP(v, uint16(r.Uint32()), nil)
		}
		s.Src = map[uint8]string{4: fmt.Sprintf("10.42.0.9:%d", 1000+i), 6: fmt.Sprintf("[fd42::9]:%d", 1000+i)}[v]
		s.ID = uint16(r.Uint32()) | 1 // identifications of 0 may be changed under DF
		flows = append(flows, flow{s, 1 + r.IntN(1400)})
	}
	for range 1 + r.IntN(limits.MaxBatch) {
		f := &flows[r.IntN(len(flows))]
		s := f.s
		n := f.size
		switch r.IntN(12) {
		case 0:
			n = r.IntN(1400)
		case 1:
			s.Flags |= uint8(r.Uint32())
		case 2:
			s.BadChecksum = true
		case 3:
			s.TTL = uint8(1 + r.IntN(3))
		case 4:
			s.NoUDPSum = s.Proto == packet.ProtoUDP && s.Src[0] == '1'
		case 5:
			s.Seq += uint32(r.IntN(3))
		}
		s.Payload = tuntest.Pattern(n)
		if n == 0 {
			s.BadChecksum = false
		}
		batch = append(batch, s.Bytes())
		f.s.Seq = s.Seq + uint32(n)
		if f.s.ID++; f.s.ID == 0 {
			f.s.ID = 1
		}
	}
	return batch
}

func BenchmarkCoalescer(b *testing.B) {
	for _, v := range []uint8{4, 6} {
		b.Run(fmt.Sprintf("tcp%d", v), func(b *testing.B) {
			batch := tuntest.TCP(v, 1, tuntest.Pattern(1388*46)).Segments(1388)
			w := newWriter(New(testConfig(nil, nil)))
			b.SetBytes(1388 * 46)
			b.ReportAllocs()
			work := make([][]byte, len(batch))
			for i := range work {
				work[i] = bytes.Clone(batch[i])
			}
			for b.Loop() {
				copy(work[0], batch[0])
				w.coal.reset(true, true)
				for i, p := range work {
					w.coal.add(i, p)
				}
				for i := range w.coal.groups {
					w.coal.groups[i].finish()
				}
			}
		})
	}
}
