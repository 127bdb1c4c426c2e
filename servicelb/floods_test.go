package servicelb

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// One Pod opens connections without end. Established connections continue, other clients are admitted, and the table does
// not exceed its capacity.
func TestFlowTable_FloodOfOneClient_OtherClientsAdmitted(t *testing.T) {
	a := families["4"]
	for _, answered := range []bool{false, true} {
		const size = 4096
		b := newBalancer(t, size, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
		open := func(src string, port uint16, whole bool) packet.Verdict {
			p := mk(packet.ProtoTCP, at(src, port), at(a.vip, 80), packet.SYN)
			v := b.Outbound(p)
			if v == packet.VerdictPeer && whole {
				b.Inbound(mk(packet.ProtoTCP, p.Destination(), p.Source(), packet.SYN|packet.ACK))
				b.Outbound(mk(packet.ProtoTCP, at(src, port), at(a.vip, 80), packet.ACK))
			}
			return v
		}
		flooder := b.flows.Client(ip(a.pod), conntrack.Verified)
		victim := ip(a.pod).Next()
		for i := range uint16(100) {
			want(t, b, open(victim.String(), 1000+i, true), packet.VerdictPeer, "before the flood")
		}
		other := victim
		for i := range 60000 {
			open(a.pod, uint16(i), answered)
			if i%500 == 0 {
				for other = other.Next(); b.flows.Client(other, conntrack.Verified) == flooder; other = other.Next() {
				} // one in 32,768 clients shares the flooder's account
				want(t, b, open(other.String(), 1, true), packet.VerdictPeer, "another client in the flood")
			}
		}
		for i := range uint16(100) {
			want(t, b, b.Outbound(mk(packet.ProtoTCP, netip.AddrPortFrom(victim, 1000+i), at(a.vip, 80), packet.ACK)), packet.VerdictPeer,
				"an established connection")
		}
		if b.room() > size {
			t.Fatal(b.room())
		}
		t.Log(b.room(), nonzero(b.Stats().Dropped), b.Stats().Flows)
	}
}

// Many clients flood. Closing and half-open flows are reclaimed, established ones remain.
func TestFlowTable_FloodOfClients_EstablishedFlowsRemain(t *testing.T) {
	a := families["4"]
	b := newBalancer(t, 512, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
	src := netip.MustParseAddr("20.0.0.1")
	for range 20000 {
		src = src.Next()
		want(t, b, b.Outbound(mk(packet.ProtoTCP, netip.AddrPortFrom(src, 1), at(a.vip, 80), packet.SYN)), packet.VerdictPeer, "SYN")
	}
	for src = ip("30.0.0.1"); ; src = src.Next() { // until all flows are established
		p := mk(packet.ProtoTCP, netip.AddrPortFrom(src, 1), at(a.vip, 80), packet.SYN)
		if b.Outbound(p) != packet.VerdictPeer {
			break
		}
		b.Inbound(mk(packet.ProtoTCP, p.Destination(), p.Source(), packet.SYN|packet.ACK))
		b.Outbound(mk(packet.ProtoTCP, netip.AddrPortFrom(src, 1), at(a.vip, 80), packet.ACK))
	}
	s := b.Stats()
	if s.Dropped["table_full"] != 1 || s.Flows["tcp-open"] < 450 {
		t.Fatal(s.Flows, nonzero(s.Dropped))
	}
	last := b.Flows(nil, 0)
	for _, f := range last {
		if f.State == "tcp-open" {
			want(t, b, b.Outbound(mk(packet.ProtoTCP, f.Client, f.Service, packet.ACK)), packet.VerdictPeer, "established")
		}
	}
	b.flows.Sweep(b.now() + 25*3600)
	b.sound(t)
	if b.room() != 0 {
		t.Fatal(b.room())
	}
}

// sound compares everything that is derived from the flows with the flows.
func (b *Balancer) sound(t *testing.T) {
	t.Helper()
	if err := b.flows.Check(); err != nil {
		t.Fatal(err)
	}
}

// Everything at once, for the race detector.
func TestBalancer_EverythingConcurrently_Consistent(t *testing.T) {
	a := families["4"]
	b := newBalancer(t, 256, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
	ctx, stop := context.WithCancel(context.Background())
	var run, wg sync.WaitGroup
	run.Go(func() { b.Run(ctx) })
	for g := range 4 {
		wg.Go(func() {
			for i := range 4000 {
				port := uint16(1000 + i%300)
				flags := []uint8{packet.SYN, packet.ACK, packet.FIN | packet.ACK, packet.RST}[(i/300+g)%4]
				if g%2 == 0 {
					b.Outbound(mk(packet.ProtoTCP, at(a.pod, port), at(a.vip, 80), flags))
					b.Outbound(mk(packet.ProtoUDP, at(a.pod, port), at(a.endpoint, 80), flags))
				} else {
					b.Inbound(mk(packet.ProtoTCP, at(a.far, 8080), at(a.pod, port), flags|packet.ACK))
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 200 {
			to := []string{a.far, ip(a.far).Next().String()}[i%2]
			b.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, to)))
			b.Flows(nil, 10)
			b.Stats()
			b.flows.Sweep(b.now() + uint32(i%40))
		}
	})
	wg.Wait()
	stop()
	run.Wait()
	b.sound(t)
}

// Neither a packet of a flow, nor a new flow, nor an answer allocates.
func TestPacketPath_AllKinds_NoAllocations(t *testing.T) {
	if raceOn {
		t.Skip("the race detector allocates and empties pools")
	}
	eachFamily(t, func(t *testing.T, a testAddrs) {
		svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)
		svc.Affinity, svc.Annotations = 60e9, eject5
		udp, more := service("udp", packet.ProtoUDP, a.vip, 80, 8080, a.far)
		b := newBalancer(t, 1<<16, Build(testSelf(), snap([]model.Service{svc, udp}, append(parts, more...))))
		p := mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.SYN)
		b.Outbound(p)
		var q packet.Packet
		scratch := make([]byte, 0, 2048)
		again := func(what string, p *packet.Packet, v func(*packet.Packet) packet.Verdict, change func(q *packet.Packet)) {
			t.Helper()
			verdict := packet.VerdictDrop
			if n := testing.AllocsPerRun(200, func() {
				q = *p
				q.Buf = append(scratch, p.Buf...)
				if change != nil {
					change(&q)
				}
				verdict = v(&q)
			}); n != 0 || verdict == packet.VerdictDrop {
				t.Errorf("%s: %v allocations, verdict %v", what, n, verdict)
			}
		}
		again("known", mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.ACK), b.Outbound, nil)
		again("answer", mk(packet.ProtoTCP, at(a.far, 8080), at(a.pod, 4000), packet.ACK), b.Inbound, nil)
		port := uint16(5000)
		next := func(q *packet.Packet) { port++; q.SetSource(netip.AddrPortFrom(q.Src, port)) }
		again("new", mk(packet.ProtoTCP, at(a.pod, 1), at(a.vip, 80), packet.SYN), b.Outbound, next)
		again("new UDP", mk(packet.ProtoUDP, at(a.pod, 1), at(a.vip, 80), packet.SYN), b.Outbound, next)
		again("masquerade", mk(packet.ProtoUDP, at(a.pod, 1), at(a.endpoint, 80), packet.SYN), b.Outbound, next)
		again("reject", mk(packet.ProtoUDP, at(a.pod, 1), at(a.vip, 81), packet.SYN), b.Outbound, next)
		again("reset", mk(packet.ProtoTCP, at(a.pod, 1), at(a.vip, 81), packet.SYN), b.Outbound, next)
		again("error", errorAbout(p, ip(a.far)), b.Inbound, nil)
		again("fragment", fragmentOf(at(a.pod, 1), at(a.vip, 80), 1, true), b.Outbound, nil)
		again("later fragment", fragmentOf(at(a.pod, 1), at(a.vip, 80), 1, false), b.Outbound, nil)
	})
}

// A full table ends idle exchanges to admit new flows.
func TestFlowTable_Full_ReclaimsIdleFlows(t *testing.T) {
	a := families["4"]
	b := newBalancer(t, 64, tableOf(service("dns", packet.ProtoUDP, a.vip, 5353, 53, a.pod)))
	src := ip("20.0.0.1")
	exchange := func() packet.Verdict {
		src = src.Next()
		p := mk(packet.ProtoUDP, netip.AddrPortFrom(src, 1), at(a.vip, 5353), 0)
		v := b.Outbound(p)
		if v == packet.VerdictReflect {
			b.Outbound(mk(packet.ProtoUDP, p.Destination(), p.Source(), 0))
		}
		return v
	}
	for range 64 {
		want(t, b, exchange(), packet.VerdictReflect, "a slot is free")
	}
	want(t, b, exchange(), packet.VerdictDrop, "all are busy")
	b.clock.Add(21)
	for range 64 {
		want(t, b, exchange(), packet.VerdictReflect, "idle ones make room")
	}
	want(t, b, exchange(), packet.VerdictDrop, "all are busy again")
	b.sound(t)
	if s := b.Stats(); s.Services["d/dns"].Connections != 128 || s.Opened != 128 || s.Flows["dns-open"] != 64 ||
		s.Dropped["table_full"] != 2 {
		t.Fatal(s.Services, s.Opened, s.Flows, nonzero(s.Dropped))
	}
}
