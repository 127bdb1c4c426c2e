package servicelb

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/warrennet/warren/internal/packet"
)

// Random clusters and packets: the balancer agrees with the oracle.
func TestBalancer_RandomHistory_AgreesWithOracle(t *testing.T) {
	rounds := uint64(150)
	if testing.Short() {
		rounds = 10
	}
	for seed := range rounds {
		r := rand.New(rand.NewPCG(seed, 1))
		history(t, r.IntN, 2000, nil)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Where the program forwards a packet the result agrees with the oracle, through changes of tables and ends of flows.
func TestOffload_RandomHistory_AgreesWithOracle(t *testing.T) {
	rounds, forwarded := uint64(50), 0
	if testing.Short() {
		rounds = 5
	}
	for seed := range rounds {
		k := newKernel(t, 64) // of 4,096 flows
		history(t, rand.New(rand.NewPCG(seed, 2)).IntN, 2000, k)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		forwarded += k.forwarded
	}
	if forwarded < 20*int(rounds) {
		t.Errorf("the program has forwarded %d packets in %d rounds", forwarded, rounds)
	}
}

// The fuzzer generates the random numbers.
func FuzzBalancer_History_AgreesWithOracle(f *testing.F) {
	f.Add([]byte("warren"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := rand.New(rand.NewPCG(uint64(len(data)), 1))
		history(t, func(n int) int {
			if len(data) == 0 {
				return r.IntN(n)
			}
			x := int(data[0]) % n
			data = data[1:]
			return x
		}, 300, nil)
	})
}

// history runs packets and changes through a translator and the oracle, and through the kernel first if there is one.
func history(t *testing.T, d dice, packets int, k *kernel) {
	o := &oracle{self: testSelf(), snap: d.snapshot(), sessions: map[string]netip.AddrPort{}, failures: map[obackend]*ofailures{}}
	var builder Builder
	b := k.balancer(t, 4096, builder.Build(o.self, o.snap))
	for i := range packets {
		if d(40) == 0 && (k == nil || d.yes(25)) {
			o.change(t, d, &builder, b)
		}
		in, proto, src, dst := d.path(o)
		if f := o.near(d); k != nil && f != nil && d.yes(70) {
			in, proto, src, dst = fromHost, f.proto, f.orig[0], f.orig[1]
			if d.yes(50) {
				src, dst = f.back[0], f.back[1]
			}
		}
		flags := uint8(0)
		if proto == packet.ProtoTCP {
			flags = pick(d, []uint8{packet.SYN, packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.ACK, packet.ACK,
				packet.FIN | packet.ACK,
				packet.RST, packet.RST | packet.ACK})
		}
		want := o.packet(in, proto, src, dst, flags)
		p := mk(proto, src, dst, flags)
		got := b.Outbound
		if in == fromPeer {
			got = b.Inbound
		}
		v, forwarded := packet.VerdictReflect, in == fromHost && k.forwards(t, b, p)
		if !forwarded {
			v = got(p)
		}
		if v != packet.VerdictDrop {
			intact(t, p)
		}
		judge(t, want, v, p)
		o.leaks(t, v, p)
		if t.Failed() {
			t.Fatalf("packet %d: %v %d %v -> %v flags %x; became %v: %v -> %v; counters %v", i, in, proto, src, dst, flags, v, p.Source(),
				p.Destination(), nonzero(b.Stats().Dropped))
		}
	}
	b.sound(t)
	if n := len(b.Flows(nil, 0)); n != len(o.flows) {
		t.Errorf("%d flows, the oracle has %d", n, len(o.flows))
	}
}

// near picks a flow between two Pods of this node, or nil.
func (o *oracle) near(d dice) *oflow {
	var list []*oflow
	for _, f := range o.flows {
		if o.here(f.orig[0].Addr()) && o.here(f.back[0].Addr()) {
			list = append(list, f)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return pick(d, list)
}

// change replaces the objects, or some of them, and compares the incremental table with a fresh one.
func (o *oracle) change(t *testing.T, d dice, builder *Builder, b *Balancer) {
	next := d.snapshot()
	if d.yes(70) { // most changes are small
		keep := *o.snap
		if d.yes(50) {
			keep.Slices = next.Slices
		} else {
			keep.Services = next.Services
		}
		next = &keep
	}
	o.snap = next
	o.forget()
	table, fresh := builder.Build(o.self, next), Build(o.self, next)
	if diff := cmp.Diff(fresh.Frontends(), table.Frontends(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("an incremental table differs from a fresh one (-fresh +incremental):\n%s", diff)
	}
	if diff := cmp.Diff(fresh.Redirects(), table.Redirects(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("its steering differs:\n%s", diff)
	}
	b.Set(table)
}

func judge(t *testing.T, want forecast, v packet.Verdict, p *packet.Packet) {
	if want.choice != nil {
		switch {
		case want.localOnly != nil && v == packet.VerdictDrop:
			return
		case want.localOnly != nil && !want.localOnly(p.Dst):
			t.Errorf("a packet that was load-balanced before went to %v", p.Dst)
		}
		if v == packet.VerdictDrop || v == packet.VerdictReply {
			t.Errorf("a new flow was refused: %v", v)
		} else if err := want.choice(v, p); err != nil {
			t.Error(err)
		}
		return
	}
	switch {
	case v != want.verdict:
		t.Errorf("verdict %v, want %v (%v -> %v)", v, want.verdict, want.src, want.dst)
	case v == packet.VerdictDrop:
	case v == packet.VerdictReply && p.Proto != packet.ProtoTCP:
		if p.Src != want.src.Addr() || p.Dst != want.dst.Addr() || !p.ICMPError() {
			t.Errorf("no error from %v", want.src)
		}
	case p.Source() != want.src || p.Destination() != want.dst || v == packet.VerdictReply && p.TCPFlags&packet.RST == 0:
		t.Errorf("became %v -> %v, want %v -> %v", p.Source(), p.Destination(), want.src, want.dst)
	}
}

// leaks reports a packet with a Pod's own address that would leave to an external network.
func (o *oracle) leaks(t *testing.T, v packet.Verdict, p *packet.Packet) {
	if (v == packet.VerdictPeer || v == packet.VerdictReflect) && o.pods(p.Src) && o.world(p.Dst) {
		t.Errorf("a Pod's address leaves: %v -> %v", p.Source(), p.Destination())
	}
}
