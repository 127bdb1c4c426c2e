package tunnel

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/warrennet/warren/internal/packet"
)

// joined runs a batch through the joiner and returns each group in one piece, with its virtio header in front.
func joined(batch [][]byte) (out []packet.Packet) {
	w := newWriter(newTunDevice("test", nil, 1, featAll, nil, quietLog, &counters{}))
	w.join.reset(true, true)
	for i, b := range batch {
		w.join.add(i, bytes.Clone(b))
	}
	for i := range w.join.groups {
		g := &w.join.groups[i]
		g.finish()
		f := w.gather(g)
		p := packet.Packet{Vnet: f.pkt.Vnet}
		if fault := p.Parse(bytes.Clone(f.pkt.Buf)); fault != packet.OK || p.VnetFault() != packet.OK {
			panic(fmt.Sprintf("joined packet is no packet: %v %+v", fault, p.Vnet))
		}
		w.d.frames.put(f)
		out = append(out, p)
	}
	return out
}

func cutAgain(ps []packet.Packet) (out [][]byte) {
	for i := range ps {
		out = append(out, cutAll(&ps[i], int(ps[i].Vnet.GSOSize))...)
	}
	return out
}

func TestJoinRules(t *testing.T) {
	data := pattern(1000)
	seg := func(v uint8, i int, change func(*spec)) []byte {
		s := tcpSpec(v, 1000+uint32(i)*1000, data)
		s.id = uint16(i)
		if change != nil {
			change(&s)
		}
		return s.bytes()
	}
	dgram := func(v uint8, i int, change func(*spec)) []byte {
		s := udpSpec(v, uint16(i), data)
		if change != nil {
			change(&s)
		}
		return s.bytes()
	}
	cases := []struct {
		name   string
		change func(*spec) // of the middle one of three
		tcp    int         // packets after joining
		udp    int
	}{
		{"plain", nil, 1, 1},
		{"short middle", func(s *spec) { s.payload = s.payload[:500] }, 2, 2},
		{"long middle", func(s *spec) { s.payload = pattern(1100) }, 3, 2},
		{"tos", func(s *spec) { s.tos = 8 }, 3, 3},
		{"ecn", func(s *spec) { s.tos = 3 }, 3, 3},
		{"ttl", func(s *spec) { s.ttl = 9 }, 3, 3},
		{"bad checksum", func(s *spec) { s.badChecksum = true }, 3, 3},
		{"no payload", func(s *spec) { s.payload = nil }, 3, 3},
		{"push", func(s *spec) { s.flags |= packet.PSH }, 2, 1},
		{"fin", func(s *spec) { s.flags |= packet.FIN }, 3, 1},
		{"syn", func(s *spec) { s.flags |= packet.SYN }, 3, 1},
		{"rst", func(s *spec) { s.flags |= packet.RST }, 3, 1},
		{"urg", func(s *spec) { s.flags |= packet.URG }, 3, 1},
		{"cwr", func(s *spec) { s.flags |= packet.CWR }, 3, 1},
		{"ece", func(s *spec) { s.flags |= packet.ECE }, 3, 1},
		{"ack number", func(s *spec) { s.ack++ }, 3, 1},
		{"window", func(s *spec) { s.window++ }, 3, 1},
		{"options", func(s *spec) { s.opts = []byte{1, 1, 8, 10, 0, 0, 0, 10, 0, 0, 0, 8} }, 3, 1},
		{"gap", func(s *spec) { s.seq += 5 }, 3, 1},
		{"port", func(s *spec) { s.src = map[bool]string{true: "10.42.0.9:1", false: "[fd42::9]:1"}[s.src[0] == '1'] }, 3, 2},
		{"no udp sum", func(s *spec) { s.noUDPSum = s.proto == packet.ProtoUDP && s.src[0] == '1' }, 1, 3},
	}
	for _, c := range cases {
		for _, v := range []uint8{4, 6} {
			for proto, make := range map[uint8]func(uint8, int, func(*spec)) []byte{packet.ProtoTCP: seg, packet.ProtoUDP: dgram} {
				t.Run(fmt.Sprintf("%s/ip%d/proto%d", c.name, v, proto), func(t *testing.T) {
					batch := [][]byte{make(v, 0, nil), make(v, 1, c.change), make(v, 2, nil)}
					want := c.tcp
					if proto == packet.ProtoUDP {
						want = c.udp
					}
					switch {
					case c.name == "no udp sum" && (v == 6 || proto == packet.ProtoTCP):
						want = 1
					case c.name == "port" && proto == packet.ProtoTCP: // the flow has a hole where the other one was
						want = 3
					case c.name == "port" && v == 4: // identifications count per host
						want = 3
					}
					got := joined(batch)
					if len(got) != want {
						t.Errorf("%d packets, want %d", len(got), want)
					}
					if again := cutAgain(got); c.name != "port" && !sameStream(batch, again) {
						t.Error("cutting again does not give the same segments")
					}
				})
			}
		}
	}
}

func sameStream(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
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

// FuzzJoin: whatever comes in, joining and cutting again gives each flow the same segments in the same order.
func FuzzJoin(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		batch := randomBatch(rand.New(rand.NewPCG(a, b)))
		got := cutAgain(joined(batch))
		want, have := byFlow(batch), byFlow(got)
		if len(want) != len(have) {
			t.Fatalf("%d flows, want %d", len(have), len(want))
		}
		for k := range want {
			if !sameStream(want[k], have[k]) {
				t.Fatalf("flow %s differs", k)
			}
		}
	})
}

func TestJoinRandom(t *testing.T) {
	for seed := range uint64(300) {
		batch := randomBatch(rand.New(rand.NewPCG(seed, 1)))
		want, have := byFlow(batch), byFlow(cutAgain(joined(batch)))
		for k := range want {
			if !sameStream(want[k], have[k]) {
				t.Fatalf("seed %d: flow %s differs", seed, k)
			}
		}
	}
}

// randomBatch interleaves flows that mostly run straight and sometimes misbehave.
func randomBatch(r *rand.Rand) (batch [][]byte) {
	type flow struct {
		s    spec
		size int
	}
	var flows []flow
	for i := range 1 + r.IntN(4) {
		v := uint8(4 + 2*r.IntN(2))
		s := tcpSpec(v, r.Uint32(), nil)
		if r.IntN(2) == 0 {
			s = udpSpec(v, uint16(r.Uint32()), nil)
		}
		s.src = map[uint8]string{4: fmt.Sprintf("10.42.0.9:%d", 1000+i), 6: fmt.Sprintf("[fd42::9]:%d", 1000+i)}[v]
		s.id = uint16(r.Uint32()) | 1 // identifications of 0 may be changed under DF
		flows = append(flows, flow{s, 1 + r.IntN(1400)})
	}
	for range 1 + r.IntN(maxBatch) {
		f := &flows[r.IntN(len(flows))]
		s := f.s
		n := f.size
		switch r.IntN(12) {
		case 0:
			n = r.IntN(1400)
		case 1:
			s.flags |= uint8(r.Uint32())
		case 2:
			s.badChecksum = true
		case 3:
			s.ttl = uint8(1 + r.IntN(3))
		case 4:
			s.noUDPSum = s.proto == packet.ProtoUDP && s.src[0] == '1'
		case 5:
			s.seq += uint32(r.IntN(3))
		}
		s.payload = pattern(n)
		if n == 0 {
			s.badChecksum = false
		}
		batch = append(batch, s.bytes())
		f.s.seq = s.seq + uint32(n)
		if f.s.id++; f.s.id == 0 {
			f.s.id = 1
		}
	}
	return batch
}

func BenchmarkJoin(b *testing.B) {
	for _, v := range []uint8{4, 6} {
		b.Run(fmt.Sprintf("tcp%d", v), func(b *testing.B) {
			batch := naive(tcpSpec(v, 1, pattern(1388*46)), 1388)
			w := newWriter(newTunDevice("test", nil, 1, featAll, nil, quietLog, &counters{}))
			b.SetBytes(1388 * 46)
			b.ReportAllocs()
			work := make([][]byte, len(batch))
			for i := range work {
				work[i] = bytes.Clone(batch[i])
			}
			for b.Loop() {
				copy(work[0], batch[0])
				w.join.reset(true, true)
				for i, p := range work {
					w.join.add(i, p)
				}
				for i := range w.join.groups {
					w.join.groups[i].finish()
				}
			}
		})
	}
}
