package servicelb

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// many makes n Services with four endpoints each.
func many(n int) *model.Snapshot {
	s := snap(nil, nil)
	s.ServiceCIDRs = []netip.Prefix{pfx("10.96.0.0/12")}
	vip, pod := ip("10.96.0.1"), ip("10.42.2.1")
	for i := range n {
		name := model.ObjectName{Namespace: "bench", Name: fmt.Sprintf("svc-%05d", i)}
		s.Services = append(s.Services, model.Service{ObjectName: name, UID: name.Name, ClusterIPs: []netip.Addr{vip},
			Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}}})
		sl := model.EndpointSlice{ObjectName: name, UID: name.Name, Service: name.Name,
			Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}}}
		for range 4 {
			sl.Endpoints = append(sl.Endpoints, model.Endpoint{Addr: pod, Ready: true, Serving: true, Node: "n2"})
			if pod = pod.Next(); !pfx("10.42.2.0/23").Contains(pod) {
				pod = ip("10.42.2.1")
			}
		}
		s.Slices = append(s.Slices, sl)
		vip = vip.Next()
	}
	return s
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{1000, 10000, 30000} {
		s := many(n)
		b.Run(fmt.Sprintf("%d/full", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Build(testSelf(), s)
			}
		})
		b.Run(fmt.Sprintf("%d/one change", n), func(b *testing.B) {
			var builder Builder
			now := s
			builder.Build(testSelf(), now)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				next := *now
				next.Slices = slices.Clone(now.Slices)
				sl := &next.Slices[i*7919%n]
				sl.Endpoints = slices.Clone(sl.Endpoints)
				sl.Endpoints[0].Ready = !sl.Endpoints[0].Ready
				now = &next
				b.StartTimer()
				builder.Build(testSelf(), now)
			}
		})
	}
}

func BenchmarkNewFlow(b *testing.B) {
	a := families["4"]
	for _, n := range []int{10, 1000, 30000} {
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			lb := newBalancer(b, 1<<20, Build(testSelf(), many(n)))
			p := mk(packet.ProtoTCP, at(a.pod, 1), at(a.vip, 80), packet.SYN)
			vip, first := ip("10.96.0.1"), ip("10.96.0.1")
			scratch := make([]byte, 0, 2048)
			i := 0
			var q packet.Packet
			for b.Loop() {
				q = *p
				q.Buf = append(scratch, p.Buf...)
				if i++; i%n == 0 {
					vip = first
				}
				q.SetSource(netip.AddrPortFrom(p.Src, uint16(i/n)))
				q.SetDestination(netip.AddrPortFrom(vip, 80))
				vip = vip.Next()
				if lb.Outbound(&q) == packet.VerdictDrop && lb.room() < 1<<19 {
					b.Fatal(nonzero(lb.Stats().Dropped))
				}
				if lb.room() > 500000 {
					b.StopTimer()
					lb.flows.Sweep(lb.now() + 1000)
					b.StartTimer()
				}
			}
		})
	}
}

// BenchmarkKnown has flows in numbers, so that each packet finds its own out of the cache.
func BenchmarkKnown(b *testing.B) {
	a := families["4"]
	for _, n := range []int{1, 1000, 1000000} {
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			lb, packets := filled(b, n)
			scratch := make([]byte, 0, 2048)
			var q packet.Packet
			i := 0
			for b.Loop() {
				i = (i + 7919*127) % n // each flow is touched before any is again
				q = packets[0]
				q.Buf = append(scratch, q.Buf...)
				q.SetSource(netip.AddrPortFrom(netip.AddrFrom4([4]byte{20, byte((i + 1) >> 16), byte((i + 1) >> 8), byte(i + 1)}), 4000))
				if lb.Outbound(&q) == packet.VerdictDrop {
					b.Fatal(nonzero(lb.Stats().Dropped))
				}
			}
		})
	}
	b.Run("copy alone", func(b *testing.B) {
		p := *mk(packet.ProtoTCP, at(a.pod, 1), at(a.vip, 80), packet.SYN)
		scratch := make([]byte, 0, 2048)
		var q packet.Packet
		for b.Loop() {
			q = p
			q.Buf = append(scratch, p.Buf...)
		}
		_ = q
	})
}

// filled makes a balancer with n flows and a packet of (some of) them.
func filled(b *testing.B, n int) (*Balancer, []packet.Packet) {
	a := families["4"]
	lb, err := New(Config{FlowFile: filepath.Join(b.TempDir(), "flows"), MaxFlows: n + n/6 + 64})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { lb.Close() })
	lb.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod)))
	var out []packet.Packet
	src := ip("20.0.0.1")
	for i := range n {
		p := mk(packet.ProtoTCP, netip.AddrPortFrom(src, 4000), at(a.vip, 80), packet.SYN)
		keep := clone(p)
		src = src.Next()
		if lb.Outbound(p) == packet.VerdictDrop {
			b.Fatal(i, nonzero(lb.Stats().Dropped))
		}
		if i%(n/1000+1) == 0 {
			keep.Buf = append([]byte(nil), keep.Buf...)
			out = append(out, *keep)
		}
	}
	return lb, out
}

func BenchmarkSweep(b *testing.B) {
	for _, n := range []int{1000, 1000000} {
		lb, _ := filled(b, n)
		b.Run(fmt.Sprintf("%d alive", n), func(b *testing.B) {
			for b.Loop() {
				lb.flows.Sweep(lb.now())
			}
		})
	}
	b.Run("a million ends", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			lb, _ := filled(b, 1000000)
			b.StartTimer()
			if n := lb.flows.Sweep(lb.now() + 1000); n != 1000000 {
				b.Fatal(n)
			}
		}
	})
}

// BenchmarkDirect is what a packet costs that is none of the balancer's business: from Pod to Pod across nodes.
func BenchmarkDirect(b *testing.B) {
	a := families["4"]
	lb := newBalancer(b, 1024, Build(testSelf(), many(1000)))
	out, in := mk(packet.ProtoTCP, at(a.pod, 1), at(a.far, 2), packet.ACK), mk(packet.ProtoTCP, at(a.far, 2), at(a.pod, 1), packet.ACK)
	b.Run("out", func(b *testing.B) {
		for b.Loop() {
			lb.Outbound(out)
		}
	})
	b.Run("in", func(b *testing.B) {
		for b.Loop() {
			lb.Inbound(in)
		}
	})
}

// BenchmarkParallel has both cores translate flows of their own.
func BenchmarkParallel(b *testing.B) {
	lb, packets := filled(b, 10000)
	b.RunParallel(func(pb *testing.PB) {
		scratch := make([]byte, 0, 2048)
		var q packet.Packet
		for i := rand.IntN(1000); pb.Next(); i++ {
			q = packets[i%len(packets)]
			q.Buf = append(scratch, q.Buf...)
			lb.Outbound(&q)
		}
	})
}
