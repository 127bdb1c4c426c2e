package tunnel

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/internal/testutil"
	"github.com/warrennet/warren/tunnel/internal/tuntest"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

func portOf(addr string) uint16 { return netip.MustParseAddrPort(addr).Port() }

// crossing sends super-packets and single packets of all kinds in both directions and compares every byte.
func crossing(t *testing.T, a, b *node) {
	t.Helper()
	for _, s := range []tuntest.Spec{tuntest.TCP(4, 1, tuntest.Pattern(50000)), tuntest.TCP(6, 9, tuntest.Pattern(61000)),
		tuntest.UDP(4, 1, tuntest.Pattern(40000)), tuntest.UDP(6, 3, tuntest.Pattern(30000))} {
		for _, direction := range []struct{ from, to *node }{{a, b}, {b, a}} {
			s := s
			if direction.from == b {
				s.Src, s.Dst = s.Dst, s.Src
			}
			want, same := s.Segments(1300), false
			for range 3 { // the kernel may change the order of datagrams on loopback when a thread changes CPUs
				direction.to.queue().Taken()
				direction.from.queue().Feed(s.Super(1300))
				var got [][]byte
				testutil.EventuallyTrue(t, "segments at the other end", func() bool {
					got = append(got, segmentsOf(t, direction.to.queue().Taken())...)
					return len(got) >= len(want)
				})
				if same = tuntest.Same(got, want); same {
					break
				}
			}
			if !same {
				t.Errorf("proto %d: stream differs at the other end", s.Proto)
			}
		}
	}
}

func TestTunnel_TwoNodes_EveryByteArrives(t *testing.T) {
	binds(t, func(t *testing.T, ba, bb conn.Bind, addrA, addrB string) {
		noLeaks(t)
		a, b := twoNodes(t, ba, bb, portOf(addrA), portOf(addrB), addrA, addrB)
		settle(t, a, b)
		crossing(t, a, b)
		if s := a.Peers(); len(s) != 1 || s[0].Name != "b" || s[0].LastHandshake.IsZero() || s[0].RxBytes == 0 || s[0].MTU != 1420 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestSetPeers_UnchangedPeer_KeepsItsSession(t *testing.T) {
	noLeaks(t)
	n := newNetwork()
	a, b := twoNodes(t, n.bind("192.0.2.1:1"), n.bind("192.0.2.2:1"), 1, 1, "192.0.2.1:1", "192.0.2.2:1")
	settle(t, a, b)
	crossing(t, a, b)
	before, count := a.Peers()[0].LastHandshake, a.Stats().Handshakes
	peers := []Peer{b.peer("b", ipsB, "192.0.2.2:1")}
	for i := range 20 {
		extra := Peer{Name: "other", PublicKey: key(byte(77 + i)), AllowedIPs: prefixes("10.43.0.0/24")}
		must(t, a.SetPeers(append(peers, extra)))
		must(t, a.SetPeers(peers))
	}
	crossing(t, a, b)
	if !a.Peers()[0].LastHandshake.Equal(before) || a.Stats().Handshakes != count {
		t.Error("a peer that did not change made a new handshake")
	}
}

func TestSetPeers_PrefixMoves_AlwaysHasAnOwner(t *testing.T) {
	n := newNetwork()
	a, b := twoNodes(t, n.bind("192.0.2.1:1"), n.bind("192.0.2.2:1"), 1, 1, "192.0.2.1:1", "192.0.2.2:1")
	c := startNode(t, 3, n.bind("192.0.2.3:1"), 1, nil)
	must(t, c.SetPeers([]Peer{a.peer("a", ipsA, "192.0.2.1:1")}))
	settle(t, a, b)
	all := [][]Peer{
		{b.peer("b", ipsB, "192.0.2.2:1"), c.peer("c", nil, "192.0.2.3:1")},
		{b.peer("b", nil, "192.0.2.2:1"), c.peer("c", ipsB, "192.0.2.3:1")},
	}
	must(t, a.SetPeers(all[0]))
	ctx, cancel := context.WithCancel(context.Background())
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		for ctx.Err() == nil {
			if len(a.queue().In) < 100 {
				a.queue().Feed(packet.Vnet{}, mark)
			}
		}
	}()
	for i := range 100 {
		must(t, a.SetPeers(all[i%2]))
	}
	cancel()
	<-fed
	if got := a.Stats().Drops["no_peer"]; got != 0 {
		t.Errorf("%d packets had no owner while the prefix moved", got)
	}
	settle(t, a, c) // the last move was to c
}

// The first address of a peer is unreachable; five seconds later the next one is in use.
func TestTunnel_FirstEndpointUnreachable_NextIsUsed(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the five seconds of wireguard-go")
	}
	n := newNetwork()
	a, b := startNode(t, 1, n.bind("192.0.2.1:1"), 1, nil), startNode(t, 2, n.bind("192.0.2.2:1"), 1, nil)
	must(t, b.SetPeers([]Peer{a.peer("a", ipsA)}))
	must(t, a.SetPeers([]Peer{b.peer("b", ipsB, "192.0.2.99:1", "192.0.2.2:1")}))
	a.queue().Feed(packet.Vnet{}, mark)
	testutil.EventuallyTrue(t, "the handshake over the second address", func() bool { return !a.Peers()[0].LastHandshake.IsZero() })
	if e := a.Peers()[0].Endpoint; e.String() != "192.0.2.2:1" || a.Stats().Rotations == 0 {
		t.Errorf("endpoint %v after %d rotations", e, a.Stats().Rotations)
	}
	testutil.EventuallyTrue(t, "the packet", func() bool { return len(b.queue().Taken()) > 0 })
}

// The endpoint of a peer that has roamed stays until its desired endpoints change.
func TestSetPeers_PeerHasRoamed_EndpointStays(t *testing.T) {
	n := newNetwork()
	bb := n.bind("192.0.2.2:1")
	a, b := twoNodes(t, n.bind("192.0.2.1:1"), bb, 1, 1, "192.0.2.1:1", "192.0.2.2:1")
	settle(t, a, b)
	crossing(t, a, b)
	n.mu.Lock()
	n.hosts[netip.MustParseAddrPort("198.51.100.7:9")] = n.hosts[bb.addr]
	bb.addr = netip.MustParseAddrPort("198.51.100.7:9")
	n.mu.Unlock()
	back := tuntest.TCP(4, 1, tuntest.Pattern(10))
	back.Src, back.Dst = back.Dst, back.Src
	b.queue().Feed(packet.Vnet{}, back.Bytes())
	testutil.EventuallyTrue(t, "the new address", func() bool { return a.Peers()[0].Endpoint.String() == "198.51.100.7:9" })
	must(t, a.SetPeers([]Peer{b.peer("b", ipsB, "192.0.2.2:1")}))
	if e := a.Peers()[0].Endpoint; e.String() != "198.51.100.7:9" {
		t.Errorf("endpoint went back to %v", e)
	}
	must(t, a.SetPeers([]Peer{b.peer("b", ipsB, "192.0.2.3:1")}))
	if e := a.Peers()[0].Endpoint; e.String() != "192.0.2.3:1" {
		t.Errorf("the new endpoint was not set: %v", e)
	}
}

// Packets are lost, but none arrives damaged or at the wrong node, and handshakes recover.
func TestTunnel_LossyNetwork_HandshakesRecover(t *testing.T) {
	n := newNetwork()
	count := 0
	lose := func(_, _ netip.AddrPort, b []byte) bool { count++; return len(b) > 200 && count%3 == 0 }
	n.serial(&lose)
	a, b := twoNodes(t, n.bind("192.0.2.1:1"), n.bind("192.0.2.2:1"), 1, 1, "192.0.2.1:1", "192.0.2.2:1")
	settle(t, a, b)
	want := map[string]bool{}
	s := tuntest.TCP(6, 1, tuntest.Pattern(60000))
	for _, x := range s.Segments(1000) {
		want[string(x)] = true
	}
	a.queue().Feed(s.Super(1000))
	seen := 0
	testutil.EventuallyTrue(t, "what the network did not lose", func() bool {
		for _, x := range segmentsOf(t, b.queue().Taken()) {
			if !want[string(x)] {
				t.Fatal("a segment that was never sent")
			}
			seen++
		}
		return seen >= 40
	})
}

func TestTunnel_SourceOfAnotherPeer_IsDroppedAndCounted(t *testing.T) {
	n := newNetwork()
	a, b := twoNodes(t, n.bind("192.0.2.1:1"), n.bind("192.0.2.2:1"), 1, 1, "192.0.2.1:1", "192.0.2.2:1")
	settle(t, a, b)
	s := tuntest.UDP(4, 1, tuntest.Pattern(10))
	s.Src = "10.99.0.1:1"
	a.queue().Feed(packet.Vnet{}, s.Bytes())
	testutil.EventuallyTrue(t, "the drop", func() bool { return b.Stats().Drops["source_not_allowed"] == 1 })
	for _, got := range b.queue().Taken() {
		if !bytes.Equal(got, mark) { // which settle has sent again on a slow machine
			t.Errorf("%x got through", got)
		}
	}
}

func TestTunnel_PeerWithoutEndpoint_IsCounted(t *testing.T) {
	n := newNetwork()
	a := startNode(t, 1, n.bind("192.0.2.1:1"), 1, nil)
	must(t, a.SetPeers([]Peer{{Name: "b", PublicKey: key(3), AllowedIPs: ipsB}}))
	a.queue().Feed(packet.Vnet{}, mark)
	testutil.EventuallyTrue(t, "the drop", func() bool { return a.Stats().Drops["no_endpoint"] == 1 })
}

// A replayed handshake has the effect of a clock set back: b has received a later timestamp and has lost its session since. It refuses
// the handshakes of a, so b must initiate one.
func TestHandshake_TimestampsOfPeerGoBack_OtherSideInitiates(t *testing.T) {
	n := newNetwork()
	var later atomic.Bool // three minutes later: no session counts
	a := startNode(t, 1, n.bind("192.0.2.1:1"), 1, nil)
	b := startNode(t, 2, n.bind("192.0.2.2:1"), 1, nil, func(_ *Config, p *parts) {
		p.sessionGone = func(at time.Time) bool { return later.Load() || sessionGone(at) }
	})
	must(t, a.SetPeers([]Peer{b.peer("b", ipsB, "192.0.2.2:1")}))
	must(t, b.SetPeers([]Peer{a.peer("a", ipsA, "192.0.2.1:1")}))
	settle(t, a, b)
	peer := b.wg.LookupPeer(device.NoisePublicKey(a.public))
	var first atomic.Pointer[[]byte]
	record := func(from, _ netip.AddrPort, d []byte) bool {
		if len(d) == device.MessageInitiationSize && d[0] == device.MessageInitiationType &&
			from.Addr() == netip.MustParseAddr("192.0.2.1") && first.Load() == nil {
			c := bytes.Clone(d)
			first.Store(&c)
		}
		return false
	}
	n.serial(&record)
	other := a.wg.LookupPeer(device.NoisePublicKey(b.public))
	other.ExpireCurrentKeypairs()
	a.queue().Feed(packet.Vnet{}, mark)
	testutil.EventuallyTrue(t, "a handshake of a", func() bool { return first.Load() != nil && len(b.queue().Taken()) > 0 })

	was := b.Peers()[0].LastHandshake
	replay := func() { // the timestamps that b receives from a are now older than the last one
		n.mu.Lock()
		n.hosts[netip.MustParseAddrPort("192.0.2.2:1")] <- datagram{netip.MustParseAddrPort("192.0.2.1:1"), *first.Load()}
		n.mu.Unlock()
	}
	replay()
	settle(t, a, b)
	if !b.Peers()[0].LastHandshake.Equal(was) {
		t.Error("a replay made a new handshake while the session was alive")
	}
	later.Store(true)
	peer.ExpireCurrentKeypairs()
	testutil.EventuallyTrue(t, "the handshake that b starts", func() bool {
		replay()
		return b.Peers()[0].LastHandshake.After(was)
	})
}

// settle waits until packets pass in both directions. The first ones may be lost to handshakes that cross.
func settle(t *testing.T, a, b *node) {
	t.Helper()
	back := tuntest.UDP(4, 1, []byte("settle"))
	back.Src, back.Dst = back.Dst, back.Src
	for _, direction := range []struct {
		from, to *node
		b        []byte
	}{{a, b, mark}, {b, a, back.Bytes()}} {
		direction.to.queue().Taken()
		last := time.Time{}
		testutil.EventuallyTrue(t, "packets to pass", func() bool {
			if time.Since(last) > 100*time.Millisecond {
				direction.from.queue().Feed(packet.Vnet{}, direction.b)
				last = time.Now()
			}
			return len(direction.to.queue().Taken()) > 0
		})
	}
}

// Both nodes have traffic for each other at the same moment. wireguard-go alone would take five
// seconds.
func TestHandshake_BothInitiate_SessionWithinFiveSeconds(t *testing.T) {
	n := newNetwork()
	a, b := startNode(t, 1, n.bind("192.0.2.1:1"), 1, nil), startNode(t, 2, n.bind("192.0.2.2:1"), 1, nil)
	var held []func()
	hold := func(from, to netip.AddrPort, d []byte) bool { // both handshakes are sent before either arrives
		if d[0] != device.MessageInitiationType || len(held) >= 2 {
			return false
		}
		d = bytes.Clone(d)
		held = append(held, func() { n.hosts[to] <- datagram{from, d} })
		if len(held) == 2 {
			held[0]()
			held[1]()
		}
		return true
	}
	n.serial(&hold)
	must(t, b.SetPeers([]Peer{a.peer("a", ipsA, "192.0.2.1:1")}))
	must(t, a.SetPeers([]Peer{b.peer("b", ipsB, "192.0.2.2:1")}))
	back := tuntest.UDP(4, 1, []byte("x"))
	back.Src, back.Dst = back.Dst, back.Src
	a.queue().Feed(packet.Vnet{}, mark)
	b.queue().Feed(packet.Vnet{}, back.Bytes())
	settle(t, a, b)
	if r := a.Stats().Rotations + b.Stats().Rotations; r != 0 {
		t.Errorf("the endpoint was rotated %d times: five seconds have passed", r)
	}
}

func TestTunnel_SecondProcess_IsRefused(t *testing.T) {
	n := newNetwork()
	a := startNode(t, 1, n.bind("192.0.2.1:1"), 1, nil)
	other, err := newTunnel(a.cfg, parts{kernel: &tuntest.Kernel{}, bind: n.bind("192.0.2.1:2")})
	must(t, err)
	if err := other.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "held by process") {
		t.Errorf("second run: %v", err)
	}
	a.stop()
	if a.Peers() != nil {
		t.Error("peers after the end")
	}
}

func TestNew_InvalidConfig_ReportsEveryProblem(t *testing.T) {
	_, err := New(Config{Name: "much/too/long/name", MTU: 5, Queues: 999,
		Source4: netip.MustParseAddr("fd00::1"), Source6: netip.MustParseAddr("10.0.0.1")})
	for _, want := range []string{"device name", "MTU 5", "queues 999", "no private key",
		"expected an IPv4 address", "expected an IPv6 address"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not mention %q", err, want)
		}
	}
}

func TestRun_LockFails_ReturnsError(t *testing.T) {
	noLeaks(t)
	cfg := Config{Name: "test9", PrivateKey: testKey(t, 9), ListenPort: 1, LockFile: "/proc/nowhere/lock"}
	tn, err := newTunnel(cfg.withDefaults(), parts{kernel: &tuntest.Kernel{}, bind: newNetwork().bind("192.0.2.1:1")})
	must(t, err)
	if err := tn.Run(context.Background()); err == nil {
		t.Error("no error")
	}
	if tn.wg != nil {
		t.Error("the closed WireGuard device is still in use")
	}
}

func TestSetMTU_Running_ChangesDeviceAndPeers(t *testing.T) {
	a := startNode(t, 1, newNetwork().bind("192.0.2.1:1"), 1, nil)
	must(t, a.SetPeers([]Peer{{Name: "b", PublicKey: key(3), AllowedIPs: ipsB, MTU: 1400}}))
	must(t, a.SetMTU(1300))
	if a.k.MTUSet != 1300 || a.Peers()[0].MTU != 1300 {
		t.Errorf("device %d, peer %d", a.k.MTUSet, a.Peers()[0].MTU)
	}
	if a.SetMTU(1) == nil {
		t.Error("MTU 1 was accepted")
	}
}
