package servicelb

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
	"github.com/warrennet/warren/servicelb/internal/table"
	"github.com/warrennet/warren/servicelb/offload"
)

// kernel runs the offload program in the kernel on frames that the tests make. A nil one offloads nothing.
type kernel struct {
	path      *offload.Program
	pods      map[netip.Addr]offload.Pod
	forwarded int
}

func newKernel(t testing.TB, size int) *kernel {
	t.Helper()
	if testing.Short() && os.Geteuid() != 0 {
		t.Skip("this test needs root")
	}
	path, err := offload.New(size, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("this test needs root and Linux 6.6: %v", err)
	}
	t.Cleanup(func() {
		if err := path.Close(); err != nil {
			t.Error(err)
		}
	})
	k := &kernel{path: path, pods: map[netip.Addr]offload.Pod{}}
	for n := range 30 {
		pod := offload.Pod{Link: 1, HostMAC: offload.MAC{2, 0, 0, 0, 1, byte(n)}, MAC: offload.MAC{2, 0, 0, 0, 2, byte(n)}}
		a, b := ip("10.42.1.2").As4(), ip("fd42:0:0:1::2").As16()
		a[3] += byte(n)
		b[15] += byte(n)
		k.pods[netip.AddrFrom4(a)], k.pods[netip.AddrFrom16(b)] = pod, pod
	}
	return k
}

func (k *kernel) balancer(t testing.TB, capacity int, table *Table) *Balancer {
	t.Helper()
	if k == nil {
		return newBalancer(t, capacity, table)
	}
	b, err := New(Config{MaxFlows: capacity, Offload: k.path})
	if err != nil {
		t.Fatal(err)
	}
	b.Set(table)
	b.SetPods(k.pods)
	return b
}

// forwards runs the program on a packet that a Pod sends. If the program forwards it, p is what the other Pod receives.
func (k *kernel) forwards(t testing.TB, b *Balancer, p *packet.Packet) bool {
	t.Helper()
	if k == nil || p.Proto != packet.ProtoTCP && p.Proto != packet.ProtoUDP {
		return false
	}
	pod, ok := k.pods[p.Src]
	if !ok {
		return false
	}
	frame := append(make([]byte, 12, 14+len(p.Buf)), 0x08, 0x00)
	if p.Version == 6 {
		frame[12], frame[13] = 0x86, 0xdd
	}
	frame = append(frame, p.Buf...)
	out, forwarded, err := k.path.TestRun(frame)
	if err != nil {
		t.Fatal(err)
	}
	if !forwarded {
		if !bytes.Equal(frame, out) {
			t.Errorf("the program has changed a packet that it passed on:\n%x\n%x", frame, out)
		}
		return false
	}
	k.forwarded++
	ttl := p.TTL()
	*p = *parsed(out[14:])
	to := k.pods[p.Dst]
	if p.TTL() != ttl-1 || !bytes.Equal(out[:6], to.MAC[:]) || !bytes.Equal(out[6:12], to.HostMAC[:]) || to == pod {
		t.Errorf("TTL %d, Ethernet header %x", p.TTL(), out[:14])
	}
	b.watchOffloads()
	return true
}

// ends are two Pods of this node and a Service of one of them.
type ends struct {
	*kernel
	*Balancer
	client, vip, back netip.AddrPort
}

func newEnds(t *testing.T, a testAddrs, proto uint8, size int) *ends {
	k := newKernel(t, size)
	x := &ends{kernel: k, client: netip.AddrPortFrom(ip(a.pod).Next(), 4000), vip: at(a.vip, 80), back: at(a.pod, 8080)}
	x.Balancer = k.balancer(t, 64, tableOf(service("web", proto, a.vip, 80, 8080, a.pod)))
	return x
}

// send passes a packet to the eBPF program and, if that passes it on, to the balancer. It returns which one has forwarded it.
func (x *ends) send(t *testing.T, proto uint8, src, dst netip.AddrPort, flags uint8) (inKernel bool, v packet.Verdict, p *packet.Packet) {
	t.Helper()
	p = mk(proto, src, dst, flags)
	if x.forwards(t, x.Balancer, p) {
		intact(t, p)
		return true, packet.VerdictReflect, p
	}
	v = x.Outbound(p)
	return false, v, p
}

// must sends a packet in a direction. It must arrive translated, by the eBPF program or not.
func (x *ends) must(t *testing.T, proto uint8, dir conntrack.Direction, flags uint8, inKernel bool, what string) {
	t.Helper()
	src, dst, to := x.client, x.vip, [2]netip.AddrPort{x.client, x.back}
	if dir == reply {
		src, dst, to = x.back, x.client, [2]netip.AddrPort{x.vip, x.client}
	}
	by, v, p := x.send(t, proto, src, dst, flags)
	if v != packet.VerdictReflect || p.Source() != to[0] || p.Destination() != to[1] {
		t.Fatalf("%s: %v %v -> %v; counters %v", what, v, p.Source(), p.Destination(), nonzero(x.Stats().Dropped))
	}
	if by != inKernel {
		t.Fatalf("%s: forwarded by the program: %v, expected %v", what, by, inKernel)
	}
}

func (x *ends) open(t *testing.T) {
	t.Helper()
	x.must(t, packet.ProtoTCP, original, packet.SYN, false, "SYN")
	x.must(t, packet.ProtoTCP, reply, packet.SYN|packet.ACK, true, "SYN and ACK")
	x.must(t, packet.ProtoTCP, original, packet.ACK, true, "ACK")
}

func (x *ends) state(t *testing.T) string {
	t.Helper()
	flows := x.Flows(nil, 0)
	if len(flows) != 1 {
		t.Fatalf("flows %+v", flows)
	}
	return flows[0].State
}

// tidy checks that no slot is left in use.
func (x *ends) tidy(t *testing.T) {
	t.Helper()
	x.watchOffloads()
	x.watchOffloads()
	if !x.offloads.Empty() {
		t.Errorf("%d slots are still in use, or keys are left in the map", x.offloads.Used())
	}
}

func TestOffload_Connection_StatesAndTrafficFollow(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		x := newEnds(t, a, packet.ProtoTCP, 8)
		x.open(t)
		if s := x.state(t); s != "tcp-open" {
			t.Errorf("%s after the handshake", s)
		}
		for range 3 {
			x.must(t, packet.ProtoTCP, original, packet.ACK|packet.PSH, true, "data")
			x.must(t, packet.ProtoTCP, reply, packet.ACK, true, "an answer")
		}
		size := uint64(mk(packet.ProtoTCP, x.client, x.vip, packet.ACK).Length)
		s := x.Stats()
		if got := s.Services["d/web"]; got.Connections != 1 || got.Requests != (Volume{Packets: 5, Bytes: 5 * size}) ||
			got.Replies != (Volume{Packets: 4, Bytes: 4 * size}) || s.Offloaded != 1 {
			t.Errorf("traffic %+v, %d offloads", got, s.Offloaded)
		}
		if !x.Flows(nil, 0)[0].Offloaded {
			t.Error("the flow is not listed as offloaded")
		}
		x.must(t, packet.ProtoTCP, reply, packet.FIN|packet.ACK, true, "FIN")
		if s := x.state(t); s != "tcp-half-closed" {
			t.Errorf("%s after one FIN", s)
		}
		x.must(t, packet.ProtoTCP, original, packet.FIN|packet.ACK, true, "the other FIN")
		if s := x.state(t); s != "tcp-closing" {
			t.Errorf("%s after both", s)
		}
		x.must(t, packet.ProtoTCP, reply, packet.ACK, false, "the last ACK")
		x.tidy(t)
	})
}

// A table with the same backend ends no connection. A table without the backend resets both ends at once.
func TestOffload_BackendRemoved_BothEndsReset(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		x := newEnds(t, a, packet.ProtoTCP, 8)
		x.open(t)
		x.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod, ip(a.pod).Next().Next().String())))
		x.must(t, packet.ProtoTCP, original, packet.ACK, true, "the first packet under a new table")
		x.must(t, packet.ProtoTCP, reply, packet.ACK, true, "an answer")
		var resets []*packet.Packet
		x.SendBy(func(b []byte, _ packet.Verdict) { resets = append(resets, parsed(bytes.Clone(b))) })
		x.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, ip(a.pod).Next().Next().String())))
		if len(resets) != 2 || resets[0].TCPFlags != packet.RST || resets[0].Source() != x.vip || resets[0].Destination() != x.client ||
			resets[1].TCPFlags != packet.RST || resets[1].Source() != x.client || resets[1].Destination() != x.back {
			t.Fatalf("resets %+v", resets)
		}
		for _, p := range resets {
			if intact(t, p); binary.BigEndian.Uint32(p.Buf[p.L4+4:]) != 1000 {
				t.Errorf("a RST that %v does not expect", p.Destination())
			}
		}
		by, v, p := x.send(t, packet.ProtoTCP, x.client, x.vip, packet.ACK)
		if by || v != packet.VerdictReply || p.TCPFlags&packet.RST == 0 {
			t.Fatalf("the backend is gone: forwarded by the program: %v, verdict %v", by, v)
		}
		x.tidy(t)
	})
}

// Datagrams from one port follow the Service from backend to backend.
func TestOffload_UDPExchange_FollowsTheService(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		x := newEnds(t, a, packet.ProtoUDP, 8)
		x.must(t, packet.ProtoUDP, original, 0, false, "a question")
		x.must(t, packet.ProtoUDP, reply, 0, false, "its answer")
		x.must(t, packet.ProtoUDP, original, 0, false, "the second question")
		x.must(t, packet.ProtoUDP, reply, 0, true, "its answer")
		x.must(t, packet.ProtoUDP, original, 0, true, "the third question")
		x.Set(tableOf(service("web", packet.ProtoUDP, a.vip, 80, 8080)))
		if by, v, _ := x.send(t, packet.ProtoUDP, x.client, x.vip, 0); by || v != packet.VerdictReply {
			t.Fatalf("no backend: forwarded by the program: %v, verdict %v", by, v)
		}
		x.back = netip.AddrPortFrom(ip(a.pod).Next().Next(), 9090)
		x.Set(tableOf(service("web", packet.ProtoUDP, a.vip, 80, 9090, x.back.Addr().String())))
		x.must(t, packet.ProtoUDP, original, 0, false, "a question to the new backend")
		x.must(t, packet.ProtoUDP, reply, 0, false, "its answer")
		x.must(t, packet.ProtoUDP, original, 0, false, "another one")
		x.must(t, packet.ProtoUDP, original, 0, true, "and the next")
		x.Set(Build(testSelf(), snap(nil, nil)))
		if by, v, _ := x.send(t, packet.ProtoUDP, x.client, x.vip, 0); by || v == packet.VerdictReflect {
			t.Fatalf("no Service: forwarded by the program: %v, verdict %v", by, v)
		}
		x.tidy(t)
	})
}

// A client reuses its port before the FINs that the program has forwarded were folded: it gets a new flow, and that is
// offloaded.
func TestOffload_ClientReusesPort_NewFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		x := newEnds(t, a, packet.ProtoTCP, 8)
		for range 5 {
			x.open(t)
			for _, dir := range []conntrack.Direction{original, reply} {
				_, forwarded, err := x.path.TestRun(frameOf(x.client, x.vip, x.back, dir, packet.FIN|packet.ACK))
				if err != nil || !forwarded {
					t.Fatalf("FIN: forwarded %v, %v", forwarded, err)
				}
			}
		}
		if n := x.Stats().Services["d/web"].Connections; n != 5 {
			t.Errorf("%d connections, expected 5", n)
		}
	})
}

func frameOf(client, vip, back netip.AddrPort, dir conntrack.Direction, flags uint8) []byte {
	p := mk(packet.ProtoTCP, client, vip, flags)
	if dir == reply {
		p = mk(packet.ProtoTCP, back, client, flags)
	}
	frame := append(make([]byte, 12), 0x08, 0x00)
	if p.Version == 6 {
		frame[12], frame[13] = 0x86, 0xdd
	}
	return append(frame, p.Buf...)
}

// A RST is accepted after gigabytes that only the program has seen.
func TestOffload_RSTAfterUnseenBytes_Accepted(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		x := newEnds(t, a, packet.ProtoTCP, 8)
		x.open(t)
		far := mk(packet.ProtoTCP, x.back, x.client, packet.ACK)
		seqAck(far, 1000, 3<<30)
		if !x.forwards(t, x.Balancer, far) {
			t.Fatal("not forwarded")
		}
		rst := mk(packet.ProtoTCP, x.client, x.vip, packet.RST)
		seqAck(rst, 3<<30, 0)
		want(t, x.Balancer, x.Outbound(rst), packet.VerdictReflect, "RST")
		if s := x.state(t); s != "tcp-reset" {
			t.Errorf("%s after the RST", s)
		}
		x.must(t, packet.ProtoTCP, reply, packet.ACK, false, "a segment that crossed it")
		x.tidy(t)
	})
}

// Either end may end a connection by a RST that the program forwards. A RST in answer to a SYN is a refusal.
func TestOffload_RSTForwarded_FlowReset(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		for _, dir := range []conntrack.Direction{original, reply} {
			x := newEnds(t, a, packet.ProtoTCP, 8)
			x.open(t)
			x.must(t, packet.ProtoTCP, dir, packet.RST, true, "RST")
			if s := x.state(t); s != "tcp-reset" {
				t.Errorf("%s after the RST", s)
			}
			x.must(t, packet.ProtoTCP, dir.Opposite(), packet.ACK, false, "a segment that crossed it")
			x.tidy(t)
		}
		x := newEnds(t, a, packet.ProtoTCP, 8)
		x.must(t, packet.ProtoTCP, original, packet.SYN, false, "SYN")
		x.must(t, packet.ProtoTCP, reply, packet.RST|packet.ACK, true, "a refusal")
		if s := x.state(t); s != "tcp-reset" {
			t.Errorf("%s after the refusal", s)
		}
		x.tidy(t)
	})
}

func seqAck(p *packet.Packet, seq, ack uint32) {
	h := p.Buf[p.L4:]
	for i := range 4 {
		h[4+i], h[8+i] = byte(seq>>(24-8*i)), byte(ack>>(24-8*i))
	}
	p.FixChecksum()
}

// Not offloaded: hairpins, the node's own connections, remote backends, egress, DNS.
func TestOffload_FlowsOfOtherKinds_NotOffloaded(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		k := newKernel(t, 8)
		var svcs []model.Service
		var slices []model.EndpointSlice
		add := func(svc model.Service, parts []model.EndpointSlice) {
			svcs, slices = append(svcs, svc), append(slices, parts...)
		}
		add(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod))
		add(service("far", packet.ProtoTCP, ip(a.vip).Next().String(), 80, 8080, a.far))
		add(service("dns", packet.ProtoUDP, ip(a.vip).Next().Next().String(), 53, 53, a.pod))
		b := k.balancer(t, 64, Build(testSelf(), snap(svcs, slices)))
		other := ip(a.pod).Next().String()
		for _, c := range []struct {
			what, from string
			to         netip.AddrPort
			proto      uint8
		}{
			{"a hairpin", a.pod, at(a.vip, 80), packet.ProtoTCP},
			{"the node", a.node, at(a.vip, 80), packet.ProtoTCP},
			{"a remote backend", other, at(ip(a.vip).Next().String(), 80), packet.ProtoTCP},
			{"egress", other, at(a.outside, 80), packet.ProtoTCP},
			{"DNS", other, at(ip(a.vip).Next().Next().String(), 53), packet.ProtoUDP},
		} {
			t.Run(c.what, func(t *testing.T) {
				flags := uint8(packet.SYN)
				for range 3 {
					p := mk(c.proto, at(c.from, 4000), c.to, flags)
					if k.forwards(t, b, p) {
						t.Errorf("%s: the program forwards it", c.what)
					}
					if v := b.Outbound(p); v != packet.VerdictReflect && v != packet.VerdictPeer {
						t.Errorf("%s: %v", c.what, v)
					}
					answer := mk(c.proto, p.Destination(), p.Source(), packet.SYN|packet.ACK)
					if in := b.Inbound; p.Dst == ip(a.far) || c.what == "egress" {
						in(answer)
					} else {
						b.Outbound(answer)
					}
					flags = packet.ACK
				}
			})
		}
		if n := b.Stats().Offloaded; n != 0 {
			t.Errorf("%d offloads", n)
		}
	})
}

// Without a free slot the agent forwards further flows. Freed slots are assigned again. The last quarter is reserved for
// connections that were answered.
func TestOffload_SlotsScarce_LastQuarterForAnsweredFlows(t *testing.T) {
	a := families["4"]
	x := newEnds(t, a, packet.ProtoTCP, 8)
	for port := uint16(1); port <= 20; port++ {
		client := x.client.Addr().Next() // has as many slots as one client may have
		p := mk(packet.ProtoTCP, netip.AddrPortFrom(client, 5000+port), x.vip, packet.SYN)
		want(t, x.Balancer, x.Outbound(p), packet.VerdictReflect, "SYN")
	}
	if n := x.Stats().Offloaded; n != 6 {
		t.Errorf("%d slots for connections without an answer, expected 6 of 8", n)
	}
	x.must(t, packet.ProtoTCP, original, packet.SYN, false, "SYN")
	x.must(t, packet.ProtoTCP, reply, packet.SYN|packet.ACK, false, "SYN and ACK")
	x.must(t, packet.ProtoTCP, original, packet.ACK, false, "ACK")
	x.must(t, packet.ProtoTCP, original, packet.ACK, true, "data of an answered connection")
	for range unansweredTicks + 3 {
		x.watchOffloads()
	}
	if n, used := x.Stats().Offloaded, x.offloads.Used(); n != 1 || used != 1 {
		t.Errorf("%d offloaded flows, %d slots in use, after the other connections were not answered", n, used)
	}
	x.must(t, packet.ProtoTCP, original, packet.ACK, true, "data")
}

// Pods take slots with connections that they keep in use until they get none. The connections of another Pod are
// offloaded nevertheless, up to its share.
func TestOffload_SlotsOfAbusivePods_HonestPodHasItsShare(t *testing.T) {
	a := families["4"]
	x := newEnds(t, a, packet.ProtoTCP, 64)
	x.Balancer = x.kernel.balancer(t, 1<<14, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod)))
	open := func(client netip.Addr, port uint16) {
		c := netip.AddrPortFrom(client, port)
		for _, p := range []*packet.Packet{mk(packet.ProtoTCP, c, x.vip, packet.SYN), mk(packet.ProtoTCP, x.back, c, packet.SYN|packet.ACK),
			mk(packet.ProtoTCP, c, x.vip, packet.ACK), mk(packet.ProtoTCP, c, x.vip, packet.ACK)} {
			if !x.forwards(t, x.Balancer, p) {
				want(t, x.Balancer, x.Outbound(p), packet.VerdictReflect, "a packet of a connection")
			}
		}
	}
	client := x.client.Addr()
	abuse := func(port uint16) {
		for i, pod := 0, client; i < 5; i, pod = i+1, pod.Next() {
			for n := range uint16(100) {
				open(pod, port+n)
			}
		}
	}
	abuse(5000)
	before := x.Stats().Offloaded
	honest := client.Next().Next().Next().Next().Next()
	open(honest, 5000) // gets no slot, and is why others lose some
	for range 4 {
		x.watchOffloads()
	}
	abuse(6000)
	for port := range uint16(4) {
		open(honest, 6000+port)
	}
	offloaded := 0
	for _, f := range x.Flows(nil, 0) {
		if f.Offloaded && f.Client.Addr() == honest {
			offloaded++
		}
	}
	if offloaded < 4 {
		t.Errorf("%d of 4 connections of another Pod are offloaded, after %d of 64 slots were taken", offloaded, before)
	}
}

// A flow without a free slot is forwarded by the agent until one is free.
func TestOffload_NoSlotFree_AgentForwardsUntilOneIs(t *testing.T) {
	a := families["4"]
	x := newEnds(t, a, packet.ProtoTCP, 1)
	x.open(t)
	first, second := x.client, netip.AddrPortFrom(x.client.Addr(), 4001)
	x.client = second
	x.must(t, packet.ProtoTCP, original, packet.SYN, false, "SYN")
	x.must(t, packet.ProtoTCP, reply, packet.SYN|packet.ACK, false, "SYN and ACK")
	for range 3 {
		x.must(t, packet.ProtoTCP, original, packet.ACK, false, "without a slot")
	}
	if !x.offloads.Full() {
		t.Error("every packet tries to get a slot")
	}
	x.client = first
	x.must(t, packet.ProtoTCP, original, packet.RST, true, "the first connection ends")
	x.watchOffloads()
	x.watchOffloads()
	x.client = second
	x.must(t, packet.ProtoTCP, original, packet.ACK, false, "the slot is free")
	x.must(t, packet.ProtoTCP, original, packet.ACK, true, "and assigned")
}

// The agent forwards a flow that the kernel refuses.
func TestOffload_KernelRefuses_AgentForwards(t *testing.T) {
	a := families["4"]
	var log bytes.Buffer
	x := newEnds(t, a, packet.ProtoTCP, 1)
	b, err := New(Config{MaxFlows: 64, Offload: x.path, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	b.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod)))
	b.SetPods(x.pods)
	x.Balancer = b
	var strange [2]offload.Translation // fills the program's map
	strange[1].In.SrcPort = 1
	if err := x.path.Put(0, 7, packet.ProtoTCP, &strange); err != nil {
		t.Fatal(err)
	}
	x.must(t, packet.ProtoTCP, original, packet.SYN, false, "SYN")
	x.must(t, packet.ProtoTCP, reply, packet.SYN|packet.ACK, false, "SYN and ACK")
	for range 3 {
		x.must(t, packet.ProtoTCP, original, packet.ACK, false, "data")
	}
	if n := strings.Count(log.String(), "kernel refused an offloaded flow"); n != 1 || !x.offloads.Empty() {
		t.Errorf("logged %d times, %d slots in use:\n%s", n, x.offloads.Used(), log.String())
	}
}

// A Pod with another interface is not reached by the old one.
func TestOffload_PodMoves_NewInterfaceUsed(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		x := newEnds(t, a, packet.ProtoTCP, 8)
		x.open(t)
		pods := map[netip.Addr]offload.Pod{}
		for k, v := range x.pods {
			pods[k] = v
		}
		x.SetPods(pods)
		x.must(t, packet.ProtoTCP, original, packet.ACK, true, "the first packet after SetPods")
		moved := map[netip.Addr]offload.Pod{}
		for k, v := range pods {
			moved[k] = v
		}
		p := moved[x.back.Addr()]
		p.MAC[5]++
		moved[x.back.Addr()] = p
		x.kernel.pods = moved
		x.SetPods(moved)
		x.must(t, packet.ProtoTCP, original, packet.ACK, false, "the Pod has another interface")
		x.must(t, packet.ProtoTCP, original, packet.ACK, true, "through the new interface")
		delete(moved, x.back.Addr())
		x.SetPods(moved)
		x.must(t, packet.ProtoTCP, original, packet.ACK, false, "the Pod was deleted")
		x.must(t, packet.ProtoTCP, original, packet.ACK, false, "and the next packet")
		x.SetPods(pods)
		x.kernel.pods = pods
		x.must(t, packet.ProtoTCP, original, packet.ACK, false, "the Pod is back")
		x.must(t, packet.ProtoTCP, original, packet.ACK, true, "and the flow is offloaded again")
	})
}

// An answer that only the program has seen counts as a success.
func TestOffload_AnswerSeenByProgramOnly_ClearsFailures(t *testing.T) {
	a := families["4"]
	x := newEnds(t, a, packet.ProtoTCP, 8)
	svc, slices := service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod, ip(a.pod).Next().Next().String())
	svc.Annotations = map[string]string{EjectAnnotation: "3"}
	x.Set(tableOf(svc, slices))
	f := x.view.Load().Frontend(table.Key{Addr: x.vip.Addr(), Port: 80, Proto: packet.ProtoTCP})
	i, _ := f.Pool(false).Find(x.back)
	r := f.Pool(false).Records[i]
	for port := uint16(4000); ; port++ { // until the choice falls on the backend
		x.client = netip.AddrPortFrom(x.client.Addr(), port)
		p := mk(packet.ProtoTCP, x.client, x.vip, packet.SYN)
		want(t, x.Balancer, x.Outbound(p), packet.VerdictReflect, "SYN")
		if p.Destination() == x.back {
			break
		}
	}
	r.Fail(table.Failure{Limit: 3, Client: 1, Now: x.now()}, false)
	if r.Clean() {
		t.Fatal("the failure is not recorded")
	}
	x.must(t, packet.ProtoTCP, reply, packet.SYN|packet.ACK, true, "SYN and ACK")
	if !r.Clean() {
		t.Error("the answer was not recorded as a success")
	}
}

// Restored flows are offloaded with the first table, before any packet.
func TestOffload_FlowsRestored_OffloadedBeforeAnyPacket(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		file := filepath.Join(t.TempDir(), "flows")
		table := tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod))
		x := newEnds(t, a, packet.ProtoTCP, 8)
		begin := func() {
			t.Helper()
			b, err := New(Config{MaxFlows: 64, FlowFile: file, Offload: x.path})
			if err != nil {
				t.Fatal(err)
			}
			x.Balancer = b
			b.SetPods(x.kernel.pods)
			b.Set(table)
		}
		begin()
		x.open(t)
		x.client = netip.AddrPortFrom(x.client.Addr(), 4001)
		x.open(t)
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		x.kernel = newKernel(t, 8)
		begin()
		x.must(t, packet.ProtoTCP, original, packet.ACK, true, "the first packet")
		x.must(t, packet.ProtoTCP, reply, packet.ACK, true, "and an answer")
		if n := x.Stats().Offloaded; n != 2 {
			t.Errorf("%d offloads, expected 2", n)
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Only the program of the previous process has seen the handshake: the next process treats the flow as open.
func TestOffload_HandshakeSeenByPreviousProcess_FlowOpen(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		x := newEnds(t, a, packet.ProtoTCP, 8)
		x.must(t, packet.ProtoTCP, original, packet.SYN, false, "SYN")
		p := mk(packet.ProtoTCP, x.back, x.client, packet.ACK|packet.PSH)
		want(t, x.Balancer, x.Outbound(p), packet.VerdictReflect, "data in the middle")
		if s := x.state(t); s != "tcp-open" {
			t.Errorf("%s", s)
		}
	})
}

// Packets, tables, Pods, ticks and ends of flows at once: no slot is lost.
func TestOffload_EverythingConcurrently_NoSlotLost(t *testing.T) {
	a := families["4"]
	k := newKernel(t, 64)
	b := k.balancer(t, 256, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.pod)))
	stop := make(chan struct{})
	var changes, packets sync.WaitGroup
	for _, change := range []func(int){
		func(i int) { b.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080+uint16(i%7/6), a.pod))) },
		func(int) { pods := k.pods; b.SetPods(pods) },
		func(int) { b.watchOffloads() },
		func(int) { b.Stats(); b.Flows(nil, 0) },
	} {
		changes.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					change(i)
				}
			}
		})
	}
	for w := range uint16(3) {
		packets.Go(func() {
			for i := range uint16(2000) {
				client := at(ip(a.pod).Next().String(), 5000+1000*w+i%50)
				p := mk(packet.ProtoTCP, client, at(a.vip, 80), packet.SYN)
				b.Outbound(p)
				back := p.Destination()
				b.Outbound(mk(packet.ProtoTCP, back, client, packet.SYN|packet.ACK))
				b.Outbound(mk(packet.ProtoTCP, client, at(a.vip, 80), packet.ACK))
				b.Outbound(mk(packet.ProtoTCP, client, at(a.vip, 80), []uint8{packet.FIN | packet.ACK, packet.RST, packet.ACK}[i%3]))
				b.Outbound(mk(packet.ProtoTCP, back, client, packet.FIN|packet.ACK))
			}
		})
	}
	packets.Wait()
	close(stop)
	changes.Wait()
	b.Set(Build(testSelf(), snap(nil, nil)))
	for _, f := range b.Flows(nil, 0) {
		b.Outbound(mk(packet.ProtoTCP, f.Client, f.Service, packet.ACK))
	}
	(&ends{kernel: k, Balancer: b}).tidy(t)
	b.sound(t)
}
