package tundev

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"github.com/warrennet/warren/tunnel/internal/route"
	"github.com/warrennet/warren/tunnel/internal/tunfd"
	"github.com/warrennet/warren/tunnel/internal/tuntest"
	"golang.org/x/sys/unix"
)

// hookFunc is a hook of two functions; nil ones let packets pass.
type hookFunc struct {
	out, in func(p *packet.Packet) packet.Verdict
}

func (h hookFunc) Outbound(p *packet.Packet) packet.Verdict {
	if h.out == nil || bytes.Equal(p.Buf, mark) {
		return packet.VerdictPeer
	}
	return h.out(p)
}

func (h hookFunc) Inbound(p *packet.Packet) packet.Verdict {
	if h.in == nil {
		return packet.VerdictReflect
	}
	return h.in(p)
}

func always(v packet.Verdict) func(*packet.Packet) packet.Verdict {
	return func(*packet.Packet) packet.Verdict { return v }
}

// testConfig is the configuration of a device on a fake kernel.
func testConfig(k tunfd.Kernel, h Hook) Config {
	return Config{Name: "test0", Kernel: k, Queues: 1, Hook: h, Log: tuntest.QuietLog, Stats: &counters.Set{}}
}

// testDevice is a device on a fake kernel with one peer that owns the "far" ends of the test packets.
func testDevice(t testing.TB, k tunfd.Kernel, h Hook) *Device {
	t.Helper()
	d := New(testConfig(k, h))
	if err := d.Open(1420); err != nil {
		t.Fatal(err)
	}
	setOwner(d, 0)
	t.Cleanup(func() { d.Close() })
	return d
}

// setOwner makes a peer of that MTU the owner of the "far" ends.
func setOwner(d *Device, mtu int) {
	d.SetRoutes(route.New([]*route.Owner{{MTU: mtu,
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("fd42:0:0:1::/64")}}}))
}

// reads calls Read once and returns copies of the packets.
func reads(t testing.TB, d *Device, n int) (out [][]byte) {
	t.Helper()
	bufs, sizes := tuntest.Buffers(n)
	got, err := d.Read(bufs, sizes, 16)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		out = append(out, bytes.Clone(bufs[i][16:16+sizes[i]]))
	}
	return out
}

// writes passes packets to Write as the WireGuard device does, with room in front.
func writes(t testing.TB, d *Device, pkts ...[]byte) {
	t.Helper()
	bufs := make([][]byte, len(pkts))
	for i, p := range pkts {
		b := make([]byte, limits.MaxPacket)
		bufs[i] = b[:16+copy(b[16:], p)]
	}
	if _, err := d.Write(bufs, 16); err != nil {
		t.Fatal(err)
	}
}

// segmentsOf segments the packets written to the host again, with complete checksums.
func segmentsOf(t testing.TB, written [][]byte) (out [][]byte) {
	t.Helper()
	for _, raw := range written {
		p := packet.Packet{}
		p.Vnet.Decode(raw)
		if f := p.Parse(raw[packet.VnetLen:]); f != packet.OK || p.VnetFault() != packet.OK {
			t.Fatalf("the host received no packet: %v", f)
		}
		out = append(out, segmentAll(&p, int(p.Vnet.GSOSize))...)
	}
	return out
}

func TestDevice_MoreSegmentsThanBuffers_NextReadContinues(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, nil)
	s := tuntest.TCP(4, 5, tuntest.Pattern(60000))
	k.Queue(0).Feed(s.Super(300))
	k.Queue(0).Feed(s.Super(300))
	want := append(s.Segments(300), s.Segments(300)...)
	var got [][]byte
	calls := 0
	for len(got) < len(want) {
		part := reads(t, d, limits.MaxBatch)
		got = append(got, part...)
		calls++
	}
	if !tuntest.Same(got, want) || calls != 4 {
		t.Errorf("%d segments in %d reads, want %d in 4 and the same", len(got), calls, len(want))
	}
}

func TestDevice_SeveralPacketsWait_OneReadReturnsAll(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, nil)
	for i := range 50 {
		k.Queue(0).Feed(packet.Vnet{}, tuntest.UDP(4, uint16(i), tuntest.Pattern(64)).Bytes())
	}
	if got := reads(t, d, limits.MaxBatch); len(got) != 50 {
		t.Errorf("%d packets in one read, want 50", len(got))
	}
}

func TestDevice_EachVerdict_PacketGoesToHostOrPeer(t *testing.T) {
	outgoing := tuntest.TCP(6, 1, tuntest.Pattern(20000))
	answer := func(p *packet.Packet) packet.Verdict {
		if !p.Become(p.AppendUnreachable(nil, p.Dst, packet.NoPort)) {
			t.Error("no answer")
		}
		return packet.VerdictReply
	}
	incoming := outgoing
	incoming.Src, incoming.Dst = outgoing.Dst, outgoing.Src
	back := func(p *packet.Packet) packet.Verdict { // to the same peer, at another address
		p.SetDestination(netip.MustParseAddrPort("[fd42:0:0:1::99]:81"))
		return packet.VerdictPeer
	}
	turned := incoming
	turned.Dst = "[fd42:0:0:1::99]:81"
	reply := func(p *packet.Packet) packet.Verdict {
		if p.Super() {
			return packet.VerdictDrop
		}
		p.Become(p.AppendReset(nil))
		return packet.VerdictReply
	}
	small := incoming
	small.Payload = tuntest.Pattern(10)
	cases := []struct {
		name string
		hook Hook
		in   bool
		give tuntest.Spec
		host [][]byte // segments the host must get
		peer [][]byte // and the peer
	}{
		{"out peer", hookFunc{}, false, outgoing, nil, outgoing.Segments(1300)},
		{"out reflect", hookFunc{out: always(packet.VerdictReflect)}, false, outgoing, outgoing.Segments(1300), nil},
		{"out drop", hookFunc{out: always(packet.VerdictDrop)}, false, outgoing, nil, nil},
		{"out reply", hookFunc{out: answer}, false, outgoing, [][]byte{unreachableAbout(t, outgoing, 1300)}, nil},
		{"in reflect", hookFunc{}, true, incoming, incoming.Segments(1300), nil},
		{"in peer", hookFunc{in: back}, true, incoming, nil, turned.Segments(1300)},
		{"in drop", hookFunc{in: always(packet.VerdictDrop)}, true, incoming, nil, nil},
		{"in reply", hookFunc{in: reply}, true, small, nil, [][]byte{resetAbout(t, small)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			k := &tuntest.Kernel{}
			d := testDevice(t, k, c.hook)
			if c.in {
				writes(t, d, c.give.Segments(1300)...)
			} else {
				k.Queue(0).Feed(c.give.Super(1300))
			}
			k.Queue(0).Feed(packet.Vnet{}, mark) // ends the read also when no packet goes to the peer
			got := reads(t, d, limits.MaxBatch)
			if len(got) == 0 || !bytes.Equal(got[len(got)-1], mark) {
				t.Fatal("no end mark")
			}
			got = got[:len(got)-1]
			host := segmentsOf(t, k.Queue(0).Taken())
			if !tuntest.Same(host, c.host) {
				t.Errorf("host got %d segments, want %d", len(host), len(c.host))
			}
			if !tuntest.Same(got, c.peer) {
				t.Errorf("peer got %d segments, want %d", len(got), len(c.peer))
			}
		})
	}
}

// mark is a packet for the peer that no test hook changes.
var mark = tuntest.UDP(4, 1, []byte("mark")).Bytes()

func unreachableAbout(t *testing.T, s tuntest.Spec, chunk int) []byte {
	v, b := s.Super(chunk)
	p := packet.Packet{Vnet: v}
	p.Parse(b)
	return p.AppendUnreachable(nil, p.Dst, packet.NoPort)
}

func resetAbout(t *testing.T, s tuntest.Spec) []byte {
	var p packet.Packet
	p.Parse(s.Bytes())
	return p.AppendReset(nil)
}

func TestDevice_ReflectedSuperPacket_IsWrittenUnsegmented(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, hookFunc{out: func(p *packet.Packet) packet.Verdict {
		if !p.Super() {
			return packet.VerdictPeer
		}
		p.SetDestination(netip.MustParseAddrPort("10.42.0.3:8080"))
		return packet.VerdictReflect
	}})
	s := tuntest.TCP(4, 9, tuntest.Pattern(64000))
	k.Queue(0).Feed(s.Super(1388))
	k.Queue(0).Feed(packet.Vnet{}, mark)
	reads(t, d, limits.MaxBatch)
	out := k.Queue(0).Taken()
	if len(out) != 1 {
		t.Fatalf("%d writes, want 1", len(out))
	}
	s.Dst = "10.42.0.3:8080"
	if got := segmentsOf(t, out); !tuntest.Same(got, s.Segments(1388)) {
		t.Error("reflected segments are wrong")
	}
}

func TestDevice_NoOwner_IsDroppedAndCounted(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, nil)
	lost, group := tuntest.UDP(4, 1, tuntest.Pattern(9)), tuntest.UDP(4, 1, tuntest.Pattern(9))
	lost.Dst, group.Dst = "10.99.0.1:1", "224.0.0.5:1"
	k.Queue(0).Feed(packet.Vnet{}, lost.Bytes())
	k.Queue(0).Feed(packet.Vnet{}, group.Bytes())
	k.Queue(0).Feed(packet.Vnet{}, []byte("garbage"))
	k.Queue(0).Feed(packet.Vnet{}, mark)
	if got := reads(t, d, limits.MaxBatch); len(got) != 1 {
		t.Errorf("%d packets were sent to peers, want the mark only", len(got))
	}
	s := d.stats.Read()
	if s.Drops["no_peer"] != 1 || s.Drops["multicast"] != 1 || s.Drops["malformed"] != 1 {
		t.Errorf("drops %v", s.Drops)
	}
	if out := k.Queue(0).Taken(); len(out) != 0 {
		t.Errorf("%d packets went back to the host", len(out))
	}
}

func TestDevice_PeerWithSmallerMTU_NoPacketIsLarger(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, nil)
	setOwner(d, 1290)
	const limit = 1280 // the WireGuard device pads to 16 bytes
	q := k.Queue(0)

	t.Run("TCP super-packet is segmented to the path MTU", func(t *testing.T) {
		s := tuntest.TCP(4, 7, tuntest.Pattern(30000))
		q.Feed(s.Super(1368))
		if got := reads(t, d, limits.MaxBatch); !tuntest.Same(got, s.Segments(limit-52)) {
			t.Errorf("%d segments, largest %d", len(got), longest(got))
		}
	})
	t.Run("TCP packet is segmented to the path MTU", func(t *testing.T) {
		s := tuntest.TCP(6, 7, tuntest.Pattern(1340))
		q.Feed(packet.Vnet{}, s.Bytes())
		if got := reads(t, d, limits.MaxBatch); !tuntest.Same(got, s.Segments(limit-72)) {
			t.Errorf("%d segments, largest %d", len(got), longest(got))
		}
	})
	t.Run("damaged TCP packet gets no new checksum", func(t *testing.T) {
		s := tuntest.TCP(6, 7, tuntest.Pattern(1340))
		s.BadChecksum = true
		q.Feed(packet.Vnet{}, s.Bytes())
		q.Feed(packet.Vnet{}, mark)
		if got := reads(t, d, limits.MaxBatch); len(got) != 1 || d.stats.Read().Drops["bad_checksum"] != 1 {
			t.Error("a damaged packet got a good checksum")
		}
	})
	for _, version := range []uint8{4, 6} {
		t.Run("DF is answered", func(t *testing.T) {
			s := tuntest.UDP(version, 3, tuntest.Pattern(1350))
			s.DF = true
			q.Feed(packet.Vnet{}, s.Bytes())
			q.Feed(packet.Vnet{}, mark)
			if got := reads(t, d, limits.MaxBatch); len(got) != 1 {
				t.Errorf("%d packets left", len(got))
			}
			out := segmentsOf(t, q.Taken())
			var p packet.Packet
			if len(out) != 1 || p.Parse(out[0]) != packet.OK || !p.ICMPError() || p.Dst != netip.MustParseAddrPort(s.Src).Addr() {
				t.Fatalf("no answer: %d packets", len(out))
			}
			if mtu := int(p.Buf[p.L4+6])<<8 | int(p.Buf[p.L4+7]); mtu != limit {
				t.Errorf("answer has MTU %d, want %d", mtu, limit)
			}
		})
	}
	t.Run("IPv4 without DF is fragmented", func(t *testing.T) {
		q.Feed(tuntest.UDP(4, 3, tuntest.Pattern(4000)).Super(1360))
		got := reads(t, d, limits.MaxBatch)
		if len(got) != 3*2-1 && len(got) != 3*2 || longest(got) > limit {
			t.Errorf("%d packets, longest %d", len(got), longest(got))
		}
	})
	t.Run("MSS is clamped in both directions", func(t *testing.T) {
		s := tuntest.TCP(4, 1, nil)
		s.Flags, s.Opts = packet.SYN, []byte{2, 4, 5, 0xb4}
		q.Feed(packet.Vnet{}, s.Bytes())
		got := reads(t, d, limits.MaxBatch)
		if mss := int(got[0][42])<<8 | int(got[0][43]); mss != limit-40 {
			t.Errorf("outbound MSS %d, want %d", mss, limit-40)
		}
		s.Src, s.Dst = s.Dst, s.Src
		writes(t, d, s.Bytes())
		in := segmentsOf(t, q.Taken())
		if mss := int(in[0][42])<<8 | int(in[0][43]); mss != limit-40 {
			t.Errorf("inbound MSS %d, want %d", mss, limit-40)
		}
	})
}

func longest(b [][]byte) (n int) {
	for _, x := range b {
		n = max(n, len(x))
	}
	return n
}

func TestDevice_OffloadRefusedAtOpen_WeakerOnesAreUsed(t *testing.T) {
	for name, c := range map[string]struct {
		k     *tuntest.Kernel
		lost  feature
		count uint64
	}{
		"all accepted": {&tuntest.Kernel{}, 0, 0},
		"no USO":       {&tuntest.Kernel{Refuse: unix.TUN_F_USO4 | unix.TUN_F_USO6}, featUSO, 1},
		"no ECN":       {&tuntest.Kernel{Refuse: unix.TUN_F_USO4 | unix.TUN_F_TSO_ECN}, featUSO | featECN, 2},
		"no TSO":       {&tuntest.Kernel{Refuse: unix.TUN_F_TSO4}, featUSO | featECN | featTSO, 3},
		"nothing":      {&tuntest.Kernel{Refuse: unix.TUN_F_CSUM}, featUSO | featECN | featTSO | featCsum, 4},
		"no header":    {&tuntest.Kernel{NoVnet: true}, featAll, 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := testDevice(t, c.k, nil)
			if got := feature(d.feat.Load()); got != featAll&^c.lost {
				t.Errorf("in use %v, want %v", got.names(), (featAll &^ c.lost).names())
			}
			if got := d.stats.Read().Downgrades; got != c.count {
				t.Errorf("%d downgrades counted, want %d", got, c.count)
			}
			if !c.k.Queue(-1).Persist {
				t.Error("not persistent")
			}
		})
	}
}

func TestDevice_NoVirtioHeader_SinglePacketsPass(t *testing.T) {
	k := &tuntest.Kernel{NoVnet: true}
	d := testDevice(t, k, nil)
	k.Queue(0).In <- mark
	if got := reads(t, d, 4); len(got) != 1 || !bytes.Equal(got[0], mark) {
		t.Error("packet without virtio header did not pass")
	}
	s := tuntest.TCP(4, 1, tuntest.Pattern(3000))
	s.Src, s.Dst = s.Dst, s.Src
	writes(t, d, s.Segments(1000)...)
	if got := k.Queue(0).Taken(); !tuntest.Same(got, s.Segments(1000)) {
		t.Errorf("host got %d packets, want the segments as they came", len(got))
	}
}

// The host gets every segment in spite of the refusal, and the feature is switched off.
func TestDevice_SuperPacketRefused_SegmentsAreWritten(t *testing.T) {
	for _, refusal := range []error{unix.EINVAL, unix.EIO} {
		for _, s := range []tuntest.Spec{tuntest.TCP(4, 1, tuntest.Pattern(9000)), tuntest.UDP(6, 1, tuntest.Pattern(9000))} {
			k := &tuntest.Kernel{RefuseTo: refusal}
			d := testDevice(t, k, nil)
			s.Src, s.Dst = s.Dst, s.Src
			for range 3 {
				writes(t, d, s.Segments(1000)...)
				if got := segmentsOf(t, k.Queue(0).Taken()); !tuntest.Same(got, s.Segments(1000)) {
					t.Fatalf("%v: host got %d segments, want 9", refusal, len(got))
				}
			}
			_, feat := kindOf(&packet.Packet{Proto: s.Proto})
			if d.has(feat) || d.stats.Read().Downgrades != 1 {
				t.Errorf("%v: still in use %v", refusal, feature(d.feat.Load()).names())
			}
			if !d.has(featTCPGRO | featUDPGRO) {
				t.Error("the other kind was switched off, too")
			}
		}
	}
}

// A feature that has worked before is not switched off for a single packet.
func TestDevice_FewRefusals_OffloadStays(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, nil)
	s := tuntest.TCP(4, 1, tuntest.Pattern(9000))
	s.Src, s.Dst = s.Dst, s.Src
	writes(t, d, s.Segments(1000)...)
	for range maxRefusals - 1 {
		k.RefuseTo = unix.EINVAL
		writes(t, d, s.Segments(1000)...)
	}
	k.RefuseTo = nil
	writes(t, d, s.Segments(1000)...)
	if !d.has(featTCPGRO) {
		t.Error("switched off too early")
	}
	k.RefuseTo = unix.EINVAL
	for range maxRefusals {
		writes(t, d, s.Segments(1000)...)
	}
	if d.has(featTCPGRO) {
		t.Error("never switched off")
	}
}

func TestDevice_LinkDown_OffloadStays(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, nil)
	k.Up = false
	s := tuntest.TCP(4, 1, tuntest.Pattern(9000))
	writes(t, d, s.Segments(1000)...)
	if st := d.stats.Read(); st.Drops["link_down"] == 0 || st.Downgrades != 0 {
		t.Errorf("drops %v, downgrades %d", st.Drops, st.Downgrades)
	}
}

func TestDevice_ReadRefused_OffloadIsSwitchedOff(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, nil)
	k.Queue(0).FailRead(unix.EINVAL)
	k.Queue(0).Feed(packet.Vnet{}, mark)
	if got := reads(t, d, 4); len(got) != 1 || d.has(featUSO) || !d.has(featTSO) {
		t.Errorf("in use %v after a refused read", feature(d.feat.Load()).names())
	}
}

func TestDevice_DeviceDeleted_IsRecreated(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, nil)
	k.Queue(0).FailRead(unix.EBADFD)
	got := make(chan [][]byte)
	go func() { got <- reads(t, d, 4) }()
	for d.stats.Reopens.Load() == 0 {
		select {
		case <-got:
			t.Fatal("read ended")
		default:
		}
	}
	d.mu.Lock()
	q := k.Queue(-1)
	d.mu.Unlock()
	q.Feed(packet.Vnet{}, mark)
	if n := len(<-got); n != 1 || !q.Persist || k.MTUSet != 1420 {
		t.Errorf("%d packets, persistent %v, MTU %d", n, q.Persist, k.MTUSet)
	}
}

func TestDevice_Close_EndsRead(t *testing.T) {
	d := testDevice(t, &tuntest.Kernel{}, nil)
	done := make(chan error)
	go func() {
		bufs, sizes := tuntest.Buffers(4)
		_, err := d.Read(bufs, sizes, 16)
		done <- err
	}()
	d.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("read ended with %v", err)
	}
	if _, open := <-d.Events(); open {
		<-d.Events()
	}
}

func TestDevice_PacketsOnSecondQueue_AreSentInOrder(t *testing.T) {
	k := &tuntest.Kernel{}
	c := testConfig(k, nil)
	c.Queues = 2
	d := New(c)
	if err := d.Open(1420); err != nil {
		t.Fatal(err)
	}
	setOwner(d, 0)
	done := make(chan error)
	go func() { done <- d.RunQueue(1) }()
	s := tuntest.TCP(4, 1, tuntest.Pattern(50000))
	var got [][]byte
	for range 5 {
		k.Queue(1).Feed(s.Super(1000))
	}
	for len(got) < 250 {
		got = append(got, reads(t, d, limits.MaxBatch)...) // waits on queue 0 and is woken for a frame
	}
	want := s.Segments(1000)
	for i := range 5 {
		if !tuntest.Same(got[i*50:i*50+50], want) {
			t.Fatalf("super-packet %d came out differently", i)
		}
	}
	d.Close()
	if err := <-done; err != nil {
		t.Errorf("second reader: %v", err)
	}
}

func TestDevice_InjectedPackets_SkipTheHook(t *testing.T) {
	k := &tuntest.Kernel{}
	d := testDevice(t, k, hookFunc{out: always(packet.VerdictDrop), in: always(packet.VerdictDrop)})
	mark := tuntest.UDP(6, 0, tuntest.Pattern(99)).Bytes() // one that the hook would drop
	if err := d.InjectHost(mark, mark); err != nil {
		t.Fatal(err)
	}
	if got := segmentsOf(t, k.Queue(0).Taken()); len(got) != 2 || !bytes.Equal(got[0], mark) {
		t.Error("host did not get the packets")
	}
	if err := d.InjectPeer(mark); err != nil {
		t.Fatal(err)
	}
	if got := reads(t, d, 4); len(got) != 1 || !bytes.Equal(got[0], mark) {
		t.Error("peer did not get the packet")
	}
	large := tuntest.UDP(6, 0, tuntest.Pattern(20000)).Bytes()
	if err := d.InjectHost(large); err != nil {
		t.Fatal(err)
	}
	if got := reassembled(t, segmentsOf(t, k.Queue(0).Taken()), 1280); !bytes.Equal(got, large) {
		t.Error("the host got something else than the fragments of a large packet")
	}
	if err := d.InjectPeer(large); err != nil {
		t.Fatal(err)
	}
	if got := reassembled(t, reads(t, d, 128), 1420); !bytes.Equal(got, large) {
		t.Error("the peer got something else than the fragments of a large packet")
	}
	if err := d.InjectPeer([]byte("x")); err == nil {
		t.Error("an invalid packet was accepted")
	}
	var full error
	for range 2 * maxFrames {
		full = errors.Join(full, d.InjectPeer(mark))
	}
	if !errors.Is(full, ErrFull) {
		t.Error("the number of waiting frames has no limit")
	}
}

// nullQueue drops all writes and returns the same packet from each Read, for allocation tests and benchmarks.
type nullQueue struct {
	*tuntest.Queue
	raw  []byte
	left int
}

func (q *nullQueue) Read(b []byte, wait bool) (int, error) {
	if q.left == 0 && !wait {
		return 0, tunfd.ErrAgain
	}
	q.left--
	return copy(b, q.raw), nil
}
func (q *nullQueue) Write([][]byte) error { return nil }

func nullDevice(tb testing.TB, h Hook, v packet.Vnet, b []byte) (*Device, *nullQueue) {
	d := testDevice(tb, &tuntest.Kernel{}, h)
	q := &nullQueue{Queue: tuntest.NewQueue(), raw: make([]byte, packet.VnetLen)}
	v.Encode(q.raw)
	q.raw = append(q.raw, b...)
	d.queues.Store(&[]tunfd.Queue{q})
	return d, q
}

func TestDevice_ReadAndWrite_AllocateNothing(t *testing.T) {
	if raceOn {
		t.Skip("not countable under the race detector")
	}
	s := tuntest.TCP(4, 1, tuntest.Pattern(60000))
	v, b := s.Super(1368)
	for name, h := range map[string]Hook{"peer": nil, "reflect": hookFunc{out: reflectSupers}} {
		d, q := nullDevice(t, h, v, b)
		bufs, sizes := tuntest.Buffers(limits.MaxBatch)
		r := newReader(d, 0)
		if n := testing.AllocsPerRun(50, func() {
			q.left = 2
			if h != nil { // no packet reaches the WireGuard device, so Read would not return
				if r.receive(true) == nil {
					r.callHook()
				}
				return
			}
			d.Read(bufs, sizes, 16)
		}); n != 0 {
			t.Errorf("%s: %v allocations per read", name, n)
		}
	}
	d, _ := nullDevice(t, nil, v, b)
	segs := s.Segments(1368)
	bufs := make([][]byte, len(segs))
	for i := range bufs {
		bufs[i] = append(make([]byte, 16, 2000), segs[i]...)
	}
	first := bytes.Clone(bufs[0])
	if n := testing.AllocsPerRun(50, func() {
		copy(bufs[0], first)
		d.Write(bufs, 16)
	}); n != 0 {
		t.Errorf("%v allocations per write", n)
	}
}

func reflectSupers(p *packet.Packet) packet.Verdict { return packet.VerdictReflect }

// BenchmarkHook measures the path of a super-packet through the device to the WireGuard device's buffers, or back to the host. The
// cost of the hook itself is the difference to "none".
func BenchmarkHook(b *testing.B) {
	nat := netip.MustParseAddrPort("10.42.1.99:8080")
	s := tuntest.TCP(4, 1, tuntest.Pattern(60000))
	v, raw := s.Super(1368)
	for name, h := range map[string]Hook{
		"none":      nil,
		"peer":      hookFunc{},
		"translate": hookFunc{out: func(p *packet.Packet) packet.Verdict { p.SetDestination(nat); return packet.VerdictPeer }},
	} {
		b.Run("out/"+name, func(b *testing.B) {
			d, q := nullDevice(b, h, v, raw)
			bufs, sizes := tuntest.Buffers(limits.MaxBatch)
			b.SetBytes(60000)
			b.ReportAllocs()
			for b.Loop() {
				q.left = 1
				d.Read(bufs, sizes, 16)
			}
		})
	}
	b.Run("reflect", func(b *testing.B) {
		translate := func(p *packet.Packet) packet.Verdict { p.SetDestination(nat); return packet.VerdictReflect }
		d, q := nullDevice(b, hookFunc{out: translate}, v, raw)
		r := newReader(d, 0)
		b.SetBytes(60000)
		b.ReportAllocs()
		for b.Loop() {
			q.left = 1
			r.receive(true)
			r.callHook()
		}
	})
	b.Run("small", func(b *testing.B) {
		translate := func(p *packet.Packet) packet.Verdict { p.SetDestination(nat); return packet.VerdictPeer }
		d, q := nullDevice(b, hookFunc{out: translate}, packet.Vnet{}, tuntest.UDP(4, 1, tuntest.Pattern(64)).Bytes())
		bufs, sizes := tuntest.Buffers(limits.MaxBatch)
		b.ReportAllocs()
		for b.Loop() {
			q.left = 1
			d.Read(bufs, sizes, 16)
		}
	})
	b.Run("in", func(b *testing.B) {
		segs := s.Segments(1368)
		d, _ := nullDevice(b, hookFunc{in: func(p *packet.Packet) packet.Verdict { p.SetSource(nat); return packet.VerdictReflect }}, v,
			raw)
		bufs := make([][]byte, len(segs))
		for i := range bufs {
			bufs[i] = append(make([]byte, 16, 2000), segs[i]...)
		}
		first := bytes.Clone(bufs[0])
		b.SetBytes(60000)
		b.ReportAllocs()
		for b.Loop() {
			copy(bufs[0], first)
			d.Write(bufs, 16)
		}
	})
}
