package servicelb

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// pair is a client in a flow table that others use as well.
type pair struct {
	b    *Balancer
	addr netip.Addr
	to   netip.AddrPort
}

// connect opens a connection and completes its handshake. It reports whether the connection was admitted.
func (p pair) connect(port uint16) bool {
	syn := mk(packet.ProtoTCP, netip.AddrPortFrom(p.addr, port), p.to, packet.SYN)
	if p.b.Outbound(syn) != packet.VerdictPeer {
		return false
	}
	p.b.Inbound(mk(packet.ProtoTCP, syn.Destination(), syn.Source(), packet.SYN|packet.ACK))
	p.send(port)
	return true
}

// send sends a segment of an open connection. It reports whether the flow exists.
func (p pair) send(port uint16) bool {
	return p.b.Outbound(mk(packet.ProtoTCP, netip.AddrPortFrom(p.addr, port), p.to, packet.ACK)) == packet.VerdictPeer
}

// Pods fill the flow table with established connections, which they keep in use, and continue to open more. Another Pod
// opens and uses as many connections as its share allows. None of them fails.
func TestFlowTable_FilledByAbusivePods_HonestPodHasItsShare(t *testing.T) {
	for pods, connections := range map[int]int{1: 512, 3: 512, 12: 240} {
		t.Run(fmt.Sprintf("%d abusive Pods", pods), func(t *testing.T) {
			eachFamily(t, func(t *testing.T, a testAddrs) { abuseFlowTable(t, a, pods, connections) })
		})
	}
}

func abuseFlowTable(t *testing.T, a testAddrs, pods, connections int) {
	const size = 4096
	b := newBalancer(t, size, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
	abusive := make([]pair, pods)
	addr := ip(a.pod)
	for i := range abusive {
		abusive[i] = pair{b, addr, at(a.vip, 80)}
		addr = addr.Next()
	}
	abuse := func(from, to uint16) {
		for port := from; port < to; port++ {
			for _, p := range abusive {
				p.connect(port)
			}
		}
	}
	abuse(1000, 1000+size)
	if b.room() < size-size/8 {
		t.Fatalf("%d flows, expected a table that is full, or nearly", b.room())
	}
	honest := pair{b, addr, at(a.vip, 80)}
	failed := 0
	var took []time.Duration
	for i := range uint16(connections) {
		begin := time.Now()
		if !honest.connect(1000 + i) {
			failed++
		}
		took = append(took, time.Since(begin))
		abuse(10000+4*i, 10000+4*i+4)
	}
	for i := range uint16(connections) {
		if !honest.send(1000 + i) {
			failed++
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d connections of the honest Pod failed: %v", failed, connections, nonzero(b.Stats().Dropped))
	}
	slices.Sort(took)
	t.Logf("honest Pod: %d of %d connections, p50 %v, p99 %v", connections-failed, connections, took[connections/2],
		took[connections*99/100])
	b.sound(t)
}

// One Pod has the whole table with connections that it does not use. It keeps them until others need slots, and loses idle ones only.
func TestFlowTable_FilledByOnePod_IdleFlowsReclaimedFirst(t *testing.T) {
	const size = 4096
	a := families["4"]
	b := newBalancer(t, size, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
	big, small := pair{b, ip(a.pod), at(a.vip, 80)}, pair{b, ip(a.pod).Next(), at(a.vip, 80)}
	for i := range uint16(size) {
		big.connect(1000 + i)
	}
	b.clock.Add(100)
	used := uint16(size / 2)
	for i := range used {
		if !big.send(1000 + i) {
			t.Fatal("the client has lost a connection before anyone needed its slot")
		}
	}
	for i := range uint16(size / 4) {
		if !small.connect(1000 + i) {
			t.Fatalf("connection %d of another Pod: %v", i, nonzero(b.Stats().Dropped))
		}
	}
	for i := range used {
		if !big.send(1000 + i) {
			t.Errorf("connection %d was in use and has ended, although others were idle", i)
		}
	}
	b.sound(t)
}

// External hosts with forged addresses fill the table by datagrams that a backend answers. Pods, and the connections of
// Pods, are not affected.
func TestFlowTable_FilledByExternalClients_PodsNotAffected(t *testing.T) {
	const size = 4096
	a := families["4"]
	svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)
	udp, more := service("udp", packet.ProtoUDP, a.vip, 80, 8080, a.pod)
	b := newBalancer(t, size, Build(testSelf(), snap([]model.Service{svc, udp}, append(parts, more...))))
	pod := pair{b, ip(a.pod).Next(), at(a.vip, 80)}
	for i := range uint16(100) {
		pod.connect(1000 + i)
	}
	src := ip("20.0.0.1")
	flood := func(n int) {
		for range n {
			src = src.Next()
			p := mk(packet.ProtoUDP, netip.AddrPortFrom(src, 1), at(a.vip, 80), 0)
			if b.Outbound(p) == packet.VerdictReflect {
				b.Outbound(mk(packet.ProtoUDP, p.Destination(), p.Source(), 0))
			}
		}
	}
	flood(2 * size)
	for i := range uint16(1000) {
		if !pod.connect(2000 + i) {
			t.Fatalf("connection %d during the flood: %v", i, nonzero(b.Stats().Dropped))
		}
		flood(10)
	}
	for i := range uint16(100) {
		if !pod.send(1000 + i) {
			t.Fatalf("connection %d from before the flood has ended", i)
		}
	}
	b.sound(t)
}

// One Pod takes masquerade ports of one destination until it gets none. Another Pod gets one for each of its
// connections to the same destination; with several abusive Pods likewise.
func TestMasquerade_PortsOfOneDestination_SharedByClients(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		self := testSelf()
		self.MasqueradePorts = [2]uint16{40000, 41023}
		b := newBalancer(t, 1<<14, Build(self, snap(nil, nil)))
		world := at(a.endpoint, 53)
		send := func(pod netip.Addr, port uint16) bool {
			return b.Outbound(mk(packet.ProtoUDP, netip.AddrPortFrom(pod, port), world, 0)) == packet.VerdictReflect
		}
		take := func(pod netip.Addr) (n int) {
			for port := range uint16(4000) {
				if send(pod, 1000+port) {
					n++
				}
			}
			return n
		}
		if n := take(ip(a.pod)); n != 512 {
			t.Errorf("one Pod has %d of 1024 ports, expected a half", n)
		}
		abusive := ip(a.pod)
		for range 20 {
			abusive = abusive.Next()
			take(abusive)
		}
		honest := abusive.Next()
		for i := range uint16(32) {
			if !send(honest, 1000+i) {
				t.Errorf("datagram %d of the honest Pod was dropped: %v", i, nonzero(b.Stats().Dropped))
			}
			for k := range uint16(20) {
				send(ip(a.pod), 10000+20*i+k)
			}
		}
		for i := range uint16(32) {
			k := mk(packet.ProtoUDP, netip.AddrPortFrom(honest, 1000+i), world, 0)
			opened := b.Stats().Opened
			b.Outbound(k)
			if b.Stats().Opened != opened {
				t.Errorf("flow %d of the honest Pod was ended", i)
			}
		}
		b.sound(t)
	})
}
