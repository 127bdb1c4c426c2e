package servicelb

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/traffic"
)

// Every packet of either direction is counted once, whether its flow exists, has ended, or has filled its counters.
// Packets of deleted Services are counted among the others.
func TestTraffic_BothDirections_EachPacketCountedOnce(t *testing.T) {
	a := families["4"]
	b := newBalancer(t, 64, tableOf(service("web", packet.ProtoUDP, a.vip, 53, 5353, a.pod)))
	var in, out Volume
	exchange := func(port uint16, n int) {
		for range n {
			p := mk(packet.ProtoUDP, at("20.0.0.9", port), at(a.vip, 53), 0)
			in.Packets, in.Bytes = in.Packets+1, in.Bytes+uint64(p.Length)
			want(t, b, b.Outbound(p), packet.VerdictReflect, "request")
			q := mk(packet.ProtoUDP, p.Destination(), p.Source(), 0)
			out.Packets, out.Bytes = out.Packets+1, out.Bytes+uint64(q.Length)
			want(t, b, b.Outbound(q), packet.VerdictReflect, "reply")
		}
	}
	is := func(what string, connections uint64) {
		t.Helper()
		if got, want := b.Stats().Services["d/web"], (Traffic{Connections: connections, Requests: in, Replies: out}); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	exchange(1000, 3)
	is("an existing flow", 1)
	is("read again", 1)
	exchange(1001, 1<<15+7)
	is("full counters", 2)
	b.clock.Add(1000)
	exchange(1002, 2)
	b.flows.Sweep(b.now() + 500)
	is("ended flows", 3)
	b.sound(t)

	exchange(1003, 5)
	b.Set(Build(testSelf(), snap(nil, nil)))
	s := b.Stats()
	if _, ok := s.Services["d/web"]; ok || s.Services[OtherServices].Requests.Packets != 5 ||
		s.Services[OtherServices].Replies.Packets != 5 {
		t.Errorf("without the Service: %+v", s.Services)
	}
}

// At most MaxServices have names. Nothing is lost, and no sum shrinks when a Service gets or loses its name.
func TestTraffic_ManyServices_BusiestNamedNoSumShrinks(t *testing.T) {
	a := families["4"]
	const services = traffic.MaxServices + 20
	b := newBalancer(t, 4096, Build(testSelf(), many(services)))
	first := ip("10.96.0.1").As4()
	sent, last := uint64(0), map[string]Traffic{}
	for round := range 40 {
		for range 200 {
			first[3] = byte(1 + (rand.IntN(8)+round*7)%services)
			b.Outbound(mk(packet.ProtoTCP, at(a.pod, uint16(1+rand.IntN(30))), netip.AddrPortFrom(netip.AddrFrom4(first), 80), packet.SYN))
			sent++
		}
		now := b.Stats().Services
		if len(now) != traffic.MaxServices+1 {
			t.Fatalf("round %d: %d names", round, len(now))
		}
		total := uint64(0)
		for name, x := range now {
			total += x.Requests.Packets
			if was := last[name]; x.Requests.Packets < was.Requests.Packets || x.Requests.Bytes < was.Requests.Bytes ||
				x.Connections < was.Connections {
				t.Errorf("round %d: %s shrank from %+v to %+v", round, name, was, x)
			}
		}
		// What a Service had under its name is not shown while it is among the others.
		if total > sent || now[OtherServices].Requests.Packets < last[OtherServices].Requests.Packets {
			t.Errorf("round %d: %d packets shown, %d sent", round, total, sent)
		}
		last = now
	}
	if sum := allOf(b); sum != sent {
		t.Errorf("%d packets counted, %d sent", sum, sent)
	}
}

func allOf(b *Balancer) (n uint64) {
	for _, m := range b.view.Load().Meters() {
		n += m.Packets()
	}
	return n
}

// Packets, reads and sweeps at once.
func TestTraffic_ConcurrentPacketsAndSweeps_AllCounted(t *testing.T) {
	a := families["4"]
	b := newBalancer(t, 4096, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod)))
	var all sync.WaitGroup
	const workers, each = 4, 5000
	for w := range workers {
		all.Go(func() {
			for i := range each {
				p := mk(packet.ProtoTCP, at("20.0.0.9", uint16(1+w%2*1000+i%500)), at(a.vip, 80), packet.SYN)
				if v := b.Outbound(p); v != packet.VerdictReflect {
					panic(fmt.Sprint(v, nonzero(b.Stats().Dropped)))
				}
				if i%1000 == 0 {
					b.Stats()
					b.flows.Sweep(b.now() + 1000)
				}
			}
		})
	}
	all.Wait()
	if got := b.Stats().Services["d/web"]; got.Requests.Packets != workers*each {
		t.Errorf("%+v, want %d packets", got, workers*each)
	}
}

// BenchmarkGather is what a scrape costs the flow table.
func BenchmarkGather(b *testing.B) {
	for _, n := range []int{1000, 262144} {
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			lb, _ := filled(b, n)
			for b.Loop() {
				b.StopTimer()
				for slot := range lb.flows.EverUsed() {
					lb.flows.At(slot).Count(original, 100)
				}
				b.StartTimer()
				lb.collectTraffic()
			}
		})
	}
}
